"""The alert on a real server: a flow run that fails is told to an address, here on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from diffalign.core.errors import UserError
from flows import alert
from tests.helpers.prefect_server import post, start, wait_until
from tests.helpers.scratch import make, run


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[str]]]:
    """An address on loopback, and the texts that were posted there."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", texts
        server.shutdown()


@pytest.mark.slow
def test_a_failed_run_is_told(tmp_path: Path, receiver: tuple[str, list[str]]) -> None:
    url, texts = receiver
    folder = make(tmp_path / "project", policies=("base",))
    for _ in range(2):  # made again, it isn't there twice
        said = run(folder, "-m", "flows.alert", url, PREFECT_API_URL=start()).stdout
        assert "are told to 127.0.0.1" in said
    (made,) = [one for one in post("automations/filter", limit=200) if one["name"] == alert.NAME]
    assert made["enabled"] and set(made["trigger"]["expect"]) == alert.EVENTS
    ingest = folder / "stages/ingest.py"
    error = "raise UserError('data.path: expected rain')"
    ingest.write_text(f"from diffalign.core.errors import UserError\ndef run(params):\n    {error}\n")
    done = run(folder, "pipeline.py", "run", ok=False, PREFECT_API_URL=start(), DIFFALIGN_TRACKING="0")
    assert done.returncode == 2
    wait_until(60, "the alert", lambda: texts)
    assert len(texts) == 1
    assert texts[0].startswith("align: tiny-sd is Failed\nstage ingest: data.path: expected rain")


def test_what_cant_be_told_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected an address such as https"):
        alert.make("hooks.slack.com")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    nowhere = temporary_settings(restore_defaults={PREFECT_API_URL})
    with nowhere, pytest.raises(UserError, match="expected a Prefect server that stays"):
        alert.make("https://hooks.slack.com/x")
