"""The pages without a server: who gets in, what is refused, and that nothing tells which policy an image is of."""

import json
import re

import pytest
from starlette.testclient import TestClient

from arena import app, material
from arena.access import Access
from arena.session import Sessions
from arena.store import Store
from tests.helpers.arena_server import HOSTILE, POLICIES, SETTINGS, make

ORIGIN = "http://testserver"


class Page(TestClient):
    """A browser with the token; `join` makes it a rater's."""

    def __init__(self, access, sessions):
        super().__init__(app.make(access, sessions), base_url=ORIGIN, headers={"Origin": ORIGIN})
        self.access, self.store = access, sessions.store

    def join(self, name="Anna"):
        csrf = re.findall(r'name="csrf" value="(\w+)"', self.get(f"/?token={self.access.token}").text)[0]
        self.post("/join", data={"csrf": csrf, "name": name})
        self.csrf = re.findall(r'name="csrf" content="(\w+)"', self.get("/").text)[0]
        return self

    def state(self):
        return self.get("/state").json()

    def vote(self, state, answer="a", **headers):
        said = {"task": state["task"], "question": state["question"], "answer": answer}
        return self.post("/vote", json=said, headers={"X-CSRF": self.csrf, **headers})


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return make(tmp_path_factory.mktemp("arena")) / "copies"


@pytest.fixture(scope="module")
def gathered(copies):
    return material.gather(POLICIES, copies.parent / "images", copies)


@pytest.fixture
def page(gathered, copies, tmp_path):
    store = Store(tmp_path / "arena.db")
    access = Access(store.secret("secret"), store.secret("token"))
    yield Page(access, Sessions(store, access, *gathered, SETTINGS, copies))
    store.close()


def test_without_the_token_nobody_gets_in(page):
    assert page.get("/").status_code == 403
    assert page.get("/?token=").status_code == 403
    assert page.get(f"/?token={page.access.token[:-1]}0x").status_code == 403
    assert page.get("/?token=%ED%A0%80").status_code == 403
    for path in ("/state", f"/image/{'0' * 32}"):
        assert page.get(path).status_code == 403
    assert page.get("/", headers={"Cookie": f"{page.access.cookie}=0.r-0.{'0' * 64}"}).status_code == 403


def test_the_token_leaves_the_address_and_another_one_closes_the_door(page):
    answer = page.get(f"/?token={page.access.token}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert re.search("HttpOnly; .*SameSite=lax", answer.headers["set-cookie"], re.IGNORECASE)
    page.join()
    page.access.token = "another"
    assert page.get("/").status_code == 403


def test_a_rater_goes_on_with_the_same_nickname_and_it_is_kept_nowhere(page, tmp_path):
    page.join("Anna Blume")
    page.vote(page.state(), "b")
    state = page.state()
    page.cookies.clear()
    assert page.join("  anna BLUME ").state() == state
    page.cookies.clear()
    assert page.join("bert").state()["undo"] == ""
    content = b"".join(path.read_bytes() for path in tmp_path.glob("arena.db*"))
    assert b"blume" not in content.lower()


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "a\x00b"])
def test_a_nickname_that_isnt_one(page, name):
    csrf = re.findall(r'value="(\w+)"', page.get(f"/?token={page.access.token}").text)[0]
    answer = page.post("/join", data={"csrf": csrf, "name": name})
    assert answer.status_code == 422 and 'aria-invalid="true"' in answer.text


@pytest.mark.parametrize("path", ["/join", "/leave"])
def test_a_form_of_too_many_fields_is_the_clients_error(page, path):
    page.join()
    answer = page.post(path, data={"csrf": page.csrf, **dict.fromkeys("abcd", "x")})
    assert answer.status_code == 400 and "error" in answer.json()


def test_an_undo_that_is_sent_twice_takes_back_one_vote(page):
    """The page sends again what wasn't acknowledged: the vote that is meant may be gone already."""
    page.join()
    page.vote(page.state(), "a")
    before = page.state()
    last = page.vote(before, "b").json()
    for _ in range(2):
        answer = page.post("/undo", json={"vote": last["undo"]}, headers={"X-CSRF": page.csrf})
        assert answer.json() == before
    assert page.store.counts() == (1, 1)
    assert page.post("/undo", json={}, headers={"X-CSRF": page.csrf}).status_code == 422


def test_other_sites_cant_vote(page):
    page.join()
    state = page.state()
    refused = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-CSRF": ""},
        {"X-CSRF": "0" * 64},
    ]
    assert [page.vote(state, **headers).status_code for headers in refused] == [403] * len(refused)
    assert page.store.counts() == (0, 0)
    assert page.vote(state, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert page.get("/vote").status_code == 405 and page.get("/undo").status_code == 405
    assert page.post("/leave", data={"csrf": "0"}).status_code == 403


def test_a_vote_goes_through_questions_and_back(page):
    page.join()
    first = page.state()
    second = page.vote(first).json()
    assert (first["question"], second["question"], second["task"]) == ("overall", "appeal", first["task"])
    assert page.vote(first).status_code == 200
    assert page.vote(first, "b").status_code == 409
    said = {"vote": page.state()["undo"]}
    assert page.post("/undo", json=said, headers={"X-CSRF": page.csrf}).json() == first
    skipped = page.vote(first, "skip").json()
    assert skipped["task"] != first["task"] and skipped["number"] == 1
    while not (state := page.state())["done"]:
        assert page.vote(state, "tie").status_code == 200
    assert state["number"] == state["total"] == len({(v.pair_id, v.kind) for v in page.store.votes()})


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"{", 400),
        (b"[" * 4000, 400),
        (b"[]", 422),
        (b'{"task": 1, "question": "overall", "answer": "a"}', 422),
        (b'{"task": "x", "question": "overall", "answer": "a"}', 404),
        (b'{"task": "\\ud800", "question": "overall", "answer": "a"}', 404),
        (b'{"task": "x", "question": "overall", "answer": "c"}', 422),
        (b'{"task": "x", "question": "all", "answer": "a"}', 422),
        (b" " * 5000, 413),
    ],
)
def test_what_isnt_a_vote_is_refused(page, said, code):
    page.join()
    answer = page.post("/vote", content=said, headers={"X-CSRF": page.csrf})
    assert answer.status_code == code and "error" in answer.json()
    assert page.store.counts() == (0, 0)


def test_a_task_of_another_rater_isnt_mine(page):
    state = page.join("Anna").state()
    page.cookies.clear()
    page.join("Bert")
    assert page.vote(state).status_code == 404
    assert page.get(f"/image/{state['images'][0]}").status_code == 404


PATHS = ["..%2f..%2farena.db", "%2e%2e/%2e%2e/arena.db", "..%5carena.db", "arena.db", "%00", "../app.py", "a" * 5000]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("folder", ["image", "static"])
def test_no_path_leads_out(page, folder, path):
    page.join()
    answer = page.get(f"/{folder}/{path}")
    assert answer.status_code == 404 and b"SQLite" not in answer.content and b"import" not in answer.content


def test_images_by_their_checksum_arent_served(page, copies):
    page.join()
    (digest, *_) = [path.name for path in copies.iterdir()]
    assert page.get(f"/image/{digest}").status_code == 404


def test_nothing_tells_which_policy_an_image_is_of(page):
    """All that the browser gets over a whole vote: no policy's name, no kind, and no image's name comes twice."""
    page.join()
    seen = [page.get("/").text, page.get("/static/arena.js").text]
    names = []
    while not (state := page.state())["done"]:
        if state["step"] == 1:
            names += state["images"]
            answers = [page.get(f"/image/{name}") for name in state["images"]]
            seen += [str(answer.headers) for answer in answers] + [str(answer.content) for answer in answers]
        seen.append(json.dumps(page.vote(state).json()))
    text = "".join(seen)
    assert not [name for name in (*POLICIES, "secret_", "noise", "expected", '"kind"') if name in text]
    assert len(names) == len(set(names))


def test_hostile_text_is_text(page):
    """The prompt comes in JSON and is put in as text; the policy forbids scripts and styles within the page."""
    page.join()
    answer = page.get("/state")
    assert answer.headers["content-type"] == "application/json"
    prompts = {answer.json()["prompt"]}
    while not (state := page.state())["done"]:
        prompts.add(state["prompt"])
        page.vote(state)
    assert HOSTILE in prompts
    script = (app.HERE / "static/arena.js").read_text()
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script
    home = page.get("/")
    assert "onerror" not in home.text and "style=" not in home.text
    assert not re.findall(r"<script(?! src=\"static/arena.js\" defer>)", home.text)
    assert "default-src 'none'" in home.headers["content-security-policy"]
    assert "unsafe" not in home.headers["content-security-policy"]


def test_no_page_asks_for_anything_elsewhere():
    for path in [*app.HERE.glob("templates/*.html"), *app.HERE.glob("static/*")]:
        assert not re.search(r"https?://|//[a-z]", re.sub(r"^//.*|// .*", "", path.read_text(), flags=re.MULTILINE)), (
            path
        )
