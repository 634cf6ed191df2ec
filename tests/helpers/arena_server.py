"""A real arena in a process of its own, over galleries of discs, and raters that speak to it as the page does."""

import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from arena.plan import Settings
from tests.helpers.galleries import write_gallery
from tests.helpers.prefect_server import free_port
from tests.helpers.project import REPO

HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script> & \"quoted\""
POLICIES = ("secret_base", "secret_dpo")
SETTINGS = Settings(0, ("overall", "appeal", "alignment"), 60)
CODE = """
import sys
sys.path.insert(0, {repo!r})
from arena.plan import Settings
from arena.server import serve
print(serve({names!r}, {settings!r}, "127.0.0.1", {port}, False, {of_round!r}), flush=True)
"""


def make(folder: Path, prompts: int = 12) -> Path:
    """Writes the galleries of two policies; the first prompt is hostile."""
    texts = [HOSTILE, *(f"a disc, number {n}" for n in range(1, prompts))]
    for seed, name in enumerate(POLICIES):
        write_gallery(folder / "images" / name, texts, first=100 * seed, size=128)
    return folder


class Server:
    """The arena in a folder. Use as a context manager; `kill` ends it as a power cut would."""

    def __init__(self, folder: Path, of_round: str | None = None) -> None:
        """Starts it over POLICIES and all questions, or over a round's images and its one question."""
        names, settings = ((), Settings(0, ("overall",), 60)) if of_round else (POLICIES, SETTINGS)
        self.folder, self.port = folder, free_port()
        self.raters: list[Rater] = []
        code = CODE.format(repo=str(REPO), names=names, settings=settings, port=self.port, of_round=of_round)
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = ""
        while "token=" not in said:
            line = self.process.stdout.readline()
            assert line, f"the arena ended: {said}"
            said += line
        self.url = re.findall(r"http://\S+", said)[0]
        self.origin = self.url.partition("/?")[0]
        end = time.monotonic() + 30
        while True:
            try:
                assert httpx.get(self.origin, timeout=5).status_code == 403
                return
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for rater in self.raters:
            rater.client.close()

    def rater(self, name: str) -> "Rater":
        """A rater's browser, closed with the server."""
        self.raters.append(Rater(self.url, name))
        return self.raters[-1]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> str:
        """SIGTERM; returns what it says at its end."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return str(output)


class Rater:
    """A browser of a rater, without the page: it joins, and votes in the page's words."""

    def __init__(self, url: str, name: str) -> None:
        self.origin, self.name = url.partition("/?")[0], name
        limits = httpx.Limits(max_connections=4)
        self.client = httpx.Client(base_url=self.origin, timeout=120, follow_redirects=True, limits=limits)
        self.client.headers["Origin"] = self.origin
        self.post_form("/join", self.csrf_in(self.client.get(url).text), name=name)
        self.csrf = re.findall(r'name="csrf" content="(\w+)"', self.client.get("/").text)[0]

    def csrf_in(self, page: str) -> str:
        return str(re.findall(r'name="csrf" value="(\w+)"', page)[0])

    def post_form(self, path: str, csrf: str, **fields: str) -> httpx.Response:
        return self.client.post(path, data={"csrf": csrf, **fields})

    def state(self) -> dict[str, Any]:
        answer = self.client.get("/state")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, path: str, said: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=said, headers={"X-CSRF": self.csrf, **headers})

    def vote(self, state: dict[str, Any], answer: str) -> httpx.Response:
        return self.post("/vote", {"task": state["task"], "question": state["question"], "answer": answer})
