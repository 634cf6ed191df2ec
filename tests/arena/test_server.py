"""The arena as people use it: a real server, a real browser; kills, and a thousand votes at once."""

import collections
import contextlib
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from arena.access import Access
from arena.material import gather
from arena.session import Sessions
from arena.store import Store
from tests.helpers.arena_server import HOSTILE, POLICIES, SETTINGS, Rater, Server, make
from tests.helpers.browser import PROGRAM, Browser

DATABASE = "data/arena/arena.db"


def kept(folder: Path) -> list[tuple[str, ...]]:
    """The votes on disk: rater, pair, kind, question, answer, in order."""
    connection = sqlite3.connect(folder / DATABASE)
    rows = connection.execute("SELECT rater_id, pair_id, kind, question, answer FROM votes ORDER BY id").fetchall()
    connection.close()
    return [tuple(row) for row in rows]


def test_a_stopped_server_says_what_is_there_and_goes_on(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with Server(folder) as server:
        server.rater("Anna").vote(server.rater("Anna").state(), "a")
        assert "1 answers of 1 raters are in data/arena/arena.db. Next: python pipeline.py collect" in server.stop()
    with Server(folder) as again:
        assert again.url.partition("token=")[2] == server.url.partition("token=")[2]
        assert again.rater("anna").state()["question"] == "appeal"


@pytest.mark.nightly
def test_a_thousand_votes_at_once_lose_none_and_stuff_none(tmp_path: Path) -> None:
    """25 raters and 40 answers each, every one sent twice and in between another one, by 50 threads.

    What was acknowledged is there, once; the second copy changes nothing, and the other answer is refused.
    """
    with Server(make(tmp_path, prompts=24)) as server:
        names = [f"rater {n}" for n in range(25)]
        raters = {name: server.rater(name) for name in names}
        plans = tasks(tmp_path, names, 40)
        asked = [(raters[name], *one) for name in names for one in plans[name]]
        assert len(kept(tmp_path)) == 0 and len(asked) == 1000
        codes: collections.Counter[int] = collections.Counter()
        counting = threading.Lock()

        def send(one: tuple[Rater, str, str], answer: str) -> None:
            rater, task, question = one
            while True:  # a connection may break, and the page tries again, too
                with contextlib.suppress(httpx.TransportError):
                    code = rater.post("/vote", {"task": task, "question": question, "answer": answer}).status_code
                    break
            with counting:
                codes[code] += 1

        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda job: send(*job), [(one, "a") for one in asked for _ in range(2)]))
            assert codes == {200: 2000}
            list(pool.map(lambda one: send(one, "b"), asked))
        assert codes == {200: 2000, 409: 1000}
        found = kept(tmp_path)
        assert len(found) == 1000 == len({row[:4] for row in found})
        assert {row[4] for row in found} == {"a"}


def tasks(folder: Path, names: list[str], count: int) -> dict[str, list[tuple[str, str]]]:
    """The first questions of raters' plans, as the browser would get them one by one."""
    store = Store(folder / DATABASE)
    access = Access(store.secret("secret"), "")
    copies = folder / "data/arena/images"
    sessions = Sessions(store, access, *gather(POLICIES, folder / "images", copies), SETTINGS, copies)
    plans = {name: sessions.plan(str(access.rater(name))).tasks.items() for name in names}
    store.close()
    return {
        name: [(task, question) for task, about in plan for question in about.questions][:count]
        for name, plan in plans.items()
    }


@pytest.mark.slow
def test_a_killed_server_loses_no_vote_that_it_acknowledged(tmp_path: Path) -> None:
    folder = make(tmp_path)
    acknowledged: list[tuple[str, str]] = []
    for attempt in range(4):
        with Server(folder) as server:
            raters = [server.rater(f"rater {attempt} {n}") for n in range(4)]
            threads = [threading.Thread(target=keep_voting, args=(rater, acknowledged)) for rater in raters]
            for thread in threads:
                thread.start()
            aim = 20 * (attempt + 1)
            while len(acknowledged) < aim:
                pass
            server.kill()
            for thread in threads:
                thread.join()
    there = kept(folder)
    assert len(there) >= len(acknowledged) >= 80
    assert len(there) - len(acknowledged) <= 16  # at most one a rater was on the disk before its answer was lost
    with Server(folder) as server:
        assert server.rater("rater 0 0").state()["undo"]


def keep_voting(rater: Rater, acknowledged: list[tuple[str, str]]) -> None:
    try:
        state = rater.state()
        while not state["done"]:
            answer = rater.vote(state, "tie")
            assert answer.status_code == 200
            acknowledged.append((state["task"], state["question"]))
            state = answer.json()
    except httpx.TransportError:
        return


@pytest.mark.slow
def test_a_body_that_is_too_large_or_never_ends(tmp_path: Path) -> None:
    with Server(make(tmp_path)) as server:
        rater = server.rater("Anna")

        def endless():
            for _ in range(100_000):
                yield b"x" * 1024

        with contextlib.suppress(httpx.TransportError):  # the server may close before all is sent
            assert rater.client.post("/vote", content=endless(), headers={"X-CSRF": rater.csrf}).status_code == 413
        assert not rater.state()["undo"]


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_voting_in_a_browser(tmp_path: Path) -> None:
    folder = make(tmp_path, prompts=6)
    with Server(folder) as server, Browser() as browser:
        join(browser, server)
        assert "token" not in browser.evaluate("location.href")
        ready = "!document.querySelector('#answers button').disabled"
        questions, seen = [], set()
        for key, answer in (("ArrowLeft", "a"), ("ArrowRight", "b"), ("ArrowDown", "tie"), ("b", "both_bad")):
            browser.wait(ready)
            questions.append(text(browser, "question"))
            seen.add(text(browser, "prompt"))
            browser.press(key)
            browser.wait(f"{ready} && document.getElementById('question').textContent != {json.dumps(questions[-1])}")
            assert kept(folder)[-1][4] == answer
            assert "saved." in text(browser, "status")
        assert len(set(questions[:3])) == 3
        browser.press("ArrowLeft", repeat=True)  # held down
        browser.press("x")
        assert len(kept(folder)) == 4
        browser.press("u")
        browser.wait(f"{ready} && document.getElementById('question').textContent == {json.dumps(questions[3])}")
        assert len(kept(folder)) == 3
        browser.press("s")
        browser.wait(f"{ready} && document.getElementById('count').textContent.startsWith('2 of')")
        assert [row[4] for row in kept(folder)[3:]] == ["skip"] * (len(kept(folder)) - 3)
        while not browser.evaluate("document.body.classList.contains('done')"):
            browser.wait(ready)
            seen.add(text(browser, "prompt"))
            count = len(kept(folder))
            browser.evaluate("document.querySelector('[data-answer=tie]').click()")
            browser.wait(ready)
            assert len(kept(folder)) == count + 1
        assert HOSTILE in seen
        assert browser.evaluate("document.title") == "Which image is better?"
        assert "Thank you" in text(browser, "question")
        assert browser.evaluate("document.getElementById('images').offsetHeight") == 0
        assert all(url.startswith((server.origin, "about:")) for url in browser.requests), browser.requests
        assert not [url for url in browser.requests if any(name in url for name in POLICIES)]


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900), (320, 568)])
def test_the_page_fits_phones_and_can_be_read(tmp_path: Path, width: int, height: int, dark: bool) -> None:
    """Nothing is wider than the window; all that is touched is 44 pixels or more; contrast is 4.5 or more."""
    with Server(make(tmp_path)) as server, Browser() as browser:
        browser.open(server.url, width, height, dark)
        check_look(browser, tmp_path / "join.png", width)
        join(browser, server, width, height, dark)
        browser.wait("document.getElementById('right').complete && document.getElementById('right').naturalWidth > 0")
        browser.wait("!document.querySelector('#answers button').disabled")
        check_look(browser, tmp_path / "vote.png", width)
        assert browser.evaluate("document.querySelector('#answers').getBoundingClientRect().bottom") <= height
        browser.evaluate("document.querySelector('[data-answer=a]').focus()")
        browser.press("Tab")


def check_look(browser: Browser, shot: Path, width: int) -> None:
    browser.screenshot(shot)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    sizes = browser.evaluate(
        "[...document.querySelectorAll('button, input:not([type=hidden])')].map(b => b.getBoundingClientRect())"
        ".map(r => Math.min(r.width, r.height))"
    )
    assert sizes and min(sizes) >= 44
    assert browser.evaluate(CONTRASTS) == []
    named = "[...document.querySelectorAll('img')].every(i => i.alt) && !!document.documentElement.lang"
    assert browser.evaluate(named)


CONTRASTS = """(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const found = rgb(getComputedStyle(node).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  } return [255, 255, 255]; };
  return [...document.querySelectorAll('p, h1, h2, li, label, button, span, kbd, input')]
    .filter(n => n.textContent.trim() && n.offsetParent && !n.disabled && !n.closest('[disabled]'))
    .map(n => [light(rgb(getComputedStyle(n).color)), light(ground(n)), n.outerHTML.slice(0, 60)])
    .filter(([a, b]) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5).map(([, , html]) => html);
})()"""


def join(browser: Browser, server: Server, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Opens the link and joins, by the form."""
    browser.open(server.url, width, height, dark)
    browser.evaluate("document.getElementById('name').focus()")
    for letter in "anna":
        browser.press(letter)
    browser.evaluate("document.querySelector('form button').click()")
    browser.wait("!!document.getElementById('question')")
    browser.wait("!document.querySelector('#answers button').disabled")


def text(browser: Browser, name: str) -> str:
    """The text of an element."""
    return str(browser.evaluate(f"document.getElementById('{name}').textContent"))
