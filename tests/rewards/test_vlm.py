"""A vision-language model as a judge, asked over real HTTP: probabilities by hand; what fails is missing, never 0."""

import base64
import io
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.core.errors import Outage, UserError
from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import service
from tests.helpers.judge_server import Answer, JudgeServer, completion

QUESTIONS = {"fits": "Does the image show {prompt}?", "good": "Is it well made?"}
SECRET = "sk-secret-1234"
YES = completion(("Yes", math.log(0.6)), (" yes", math.log(0.2)), ("No", math.log(0.2)))
"""0.8 for yes, 0.2 for no."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept in this test's folder, and pauses are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int, Any], Answer]], JudgeServer]]:
    """Starts services, which end with the test."""
    servers: list[JudgeServer] = []

    def start(answer: Callable[[int, Any], Answer]) -> JudgeServer:
        servers.append(JudgeServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[[Callable[[int, Any], Answer]], JudgeServer]


def judge(server: JudgeServer, **changes: Any) -> rewards.Reward:
    settings = {
        "url": f"{server.url}/v1/",
        "model": "judge",
        "questions": QUESTIONS,
        "token_variable": None,
        "per_minute": None,
        "parallel": 1,
        "timeout": 5,
        "retries": 2,
        "families": [],
    }
    return rewards.load("vlm", settings | changes, "cpu")


def pictures(count: int) -> torch.Tensor:
    return from_uint8([np.full((4, 6, 3), 10 * n, np.uint8) for n in range(count)])


def question_of(body: Any) -> str:
    return str(body["messages"][0]["content"][1]["text"])


def test_the_score_is_the_mean_probability_of_yes(serve: Serve) -> None:
    """0.8 and 0.25 of yes or no: 0.525. What is asked is the protocol's, and the image arrives bit for bit."""
    unsure = completion((" NO\n", math.log(0.6)), ("Yes", math.log(0.2)), ("Maybe", math.log(0.1)))
    server = serve(lambda number, body: (200, YES if "fits" in body else (YES if number == 1 else unsure)))
    found = rewards.scores(judge(server, questions=QUESTIONS), pictures(1), ["a cat {here}"])
    assert list(found) == ["vlm", "vlm_fits", "vlm_good"]
    assert [float(values[0]) for values in found.values()] == pytest.approx([0.525, 0.8, 0.25])
    path, headers, body, _ = server.asked[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert {k: body[k] for k in body if k != "messages"} == {
        "model": "judge",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert question_of(body).startswith("Does the image show a cat {here}?\n")
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(image), np.zeros((4, 6, 3), np.uint8))


def test_answers_are_kept_on_the_disk_by_image_prompt_model_and_question(serve: Serve) -> None:
    server = serve(lambda number, body: (200, YES))
    first = judge(server)(pictures(2), ["a", "b"])
    assert len(server.asked) == 4
    again = judge(server)(pictures(2), ["a", "b"])
    assert len(server.asked) == 4 and again.tolist() == first.tolist()
    judge(server)(pictures(2), ["a", "another"])
    assert [question_of(body).splitlines()[0] for _, _, body, _ in server.asked[4:]] == ["Does the image show another?"]
    judge(server, model="other")(pictures(1), ["a"])
    assert len(server.asked) == 7
    versions = {judge(server).version, judge(server, model="other").version, judge(server, per_minute=7).version}
    assert len(versions) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"not JSON"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": {"content": "Yes"}, "logprobs": None}]}),
        (200, completion(("Sure", math.log(0.9)), ("Yes", math.log(0.1)))),
        (400, {"error": {"message": "content filter"}}),
        (500, {"error": "broken"}),
        (200, 1.0),  # seconds: more than the client waits
    ],
    ids=["json", "empty", "no logprobs", "no yes or no", "400", "500", "timeout"],
)
def test_what_fails_is_missing_said_and_asked_again(
    serve: Serve, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second image's answers fail: it has no score, the others do; another time it's asked for, and only it."""
    broken = True

    def reply(number: int, body: Any) -> Answer:
        return answer if broken and "fails" in question_of(body) else (200, YES)

    server = serve(reply)
    asked = judge(server, retries=1, timeout=0.3)
    found = rewards.scores(asked, pictures(3), ["a", "fails", "b"])
    assert np.isnan(found["vlm"]).tolist() == [False, True, False]
    assert found["vlm_good"].tolist() == pytest.approx([0.8] * 3)
    assert "vlm: 1 of 6 questions have no answer" in capsys.readouterr().err
    assert not rewards.lasting(asked)
    broken = False
    before = len(server.asked)
    assert asked(pictures(3), ["a", "fails", "b"]).tolist() == pytest.approx([0.8] * 3)
    assert len(server.asked) == before + 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again_later_each_time(serve: Serve, status: int) -> None:
    """Pauses double: 0.01 s, 0.02 s; then it answers."""
    server = serve(lambda number, body: (status, {}) if number < 3 else (200, YES))
    assert float(judge(server, questions={"one": "?"})(pictures(1), ["a"])) == pytest.approx(0.8)
    times = [moment for *_, moment in server.asked]
    assert len(times) == 3 and times[1] - times[0] >= 0.01 and times[2] - times[1] >= 0.02


def test_a_service_that_says_how_long_to_wait_is_obeyed(serve: Serve) -> None:
    server = serve(lambda number, body: (429, {}) if number == 1 else (200, YES))
    server.headers = {"Retry-After": "1"}
    judge(server, questions={"one": "?"})(pictures(1), ["a"])
    assert server.asked[1][3] - server.asked[0][3] >= 1


def test_the_rate_is_kept_and_requests_go_together(serve: Serve) -> None:
    """600 a minute is one in 0.1 s, whatever the number of threads."""
    server = serve(lambda number, body: (200, YES))
    judge(server, questions={"one": "?"}, per_minute=600, parallel=4)(pictures(4), list("abcd"))
    times = sorted(moment for *_, moment in server.asked)
    assert all(b - a > 0.08 for a, b in zip(times, times[1:], strict=False))
    gate = threading.Barrier(3, timeout=5)
    slow = serve(lambda number, body: (gate.wait() >= 0 and 200, YES))
    judge(slow, questions={"two": "??"}, parallel=3)(pictures(3), list("abc"))
    assert slow.most_together == 3


def test_a_token_comes_from_the_environment_and_is_never_shown(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda number, body: (400, f"your key {SECRET} is odd".encode()))
    with pytest.raises(UserError, match="environment variable JUDGE_TOKEN, found it unset or empty"):
        judge(server, token_variable="JUDGE_TOKEN")
    monkeypatch.setenv("JUDGE_TOKEN", f"{SECRET}\n")
    judge(server, token_variable="JUDGE_TOKEN")(pictures(1), ["a"])
    assert server.asked[0][1]["Authorization"] == f"Bearer {SECRET}"
    told = capsys.readouterr().err
    assert "your key (token) is odd" in told and SECRET not in told
    monkeypatch.setenv("JUDGE_TOKEN", "two\nlines")
    with pytest.raises(UserError) as error:
        judge(server, token_variable="JUDGE_TOKEN")
    assert "two" not in str(error.value)


@pytest.mark.parametrize(("status", "what"), [(401, "the token"), (404, "the address")])
def test_a_refusal_of_all_ends_at_once(serve: Serve, status: int, what: str) -> None:
    server = serve(lambda number, body: (status, {}))
    with pytest.raises(UserError, match=f"refuses {what} .status {status}"):
        judge(server)(pictures(3), ["a", "b", "c"])
    assert len(server.asked) == 1


def test_a_service_that_is_gone_ends_the_run(serve: Serve) -> None:
    server = serve(lambda number, body: (200, YES))
    server.close()
    with pytest.raises(Outage, match=r"found none to the last 10 questions: ConnectError.*See that it runs"):
        judge(server, retries=0)(pictures(20), [""] * 20)


def test_an_image_that_isnt_finite_has_no_score(serve: Serve) -> None:
    server = serve(lambda number, body: (200, YES))
    pixels = pictures(2)
    pixels[0, 0, 0, 0] = float("nan")
    assert judge(server)(pixels, ["a", "b"]).isnan().tolist() == [True, False]
