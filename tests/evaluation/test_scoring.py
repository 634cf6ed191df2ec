"""Images of comparisons are scored in batches of one size, and never twice: the cache gives the same bits."""

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.comparisons.writer import Writer
from diffalign.evaluation import score_cache, scoring
from diffalign.evaluation.score_cache import Key, ScoreCache
from diffalign.generation.gallery import Entry, Gallery
from diffalign.generation.pipeline import png

SIZES = [(8, 8), (16, 8), (8, 8), (8, 8), (16, 8), (24, 24), (8, 8), (8, 8)]
LIMIT = 10**6


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, list[Key]]:
    """A folder of comparisons' images of three sizes, and the keys wanted: the first image for two prompts."""
    folder = tmp_path / "comparisons"
    with Writer(folder) as writer:
        names = []
        for n, (height, width) in enumerate(SIZES):
            data = png(np.full((height, width, 3), 10 * n, np.uint8))
            names.append(hashlib.sha256(data).hexdigest())
            writer.add_image(names[-1], data, width, height, "PNG")
    return folder, [(names[0], "again"), *((name, f"prompt {n}") for n, name in enumerate(names))]


class Judge:
    """Scores brightness plus a trace of how many images came together, and remembers what it was shown."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.shown: list[list[str]] = []

    def __call__(self, pixels: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        if len(self.shown) == self.most:
            raise KeyboardInterrupt
        assert len({image.shape for image in pixels}) == 1
        self.shown.append(list(prompts))
        scores = np.array([image.mean() / 255 + len(pixels) * 1e-9 for image in pixels])
        return {"judge": np.where([p == "prompt 3" for p in prompts], np.nan, scores), "judge_part": scores * 2}


def cache(folder: Path, made_by: str = "1", lasting: bool = True) -> ScoreCache:
    return ScoreCache(folder / "judge.sqlite", "judge", made_by, lasting)


def test_images_of_one_size_are_scored_together_each_once(stored: tuple[Path, list[Key]]) -> None:
    folder, keys = stored
    judge = Judge()
    found = scoring.score_images(folder, [*keys, *keys], judge, "judge", LIMIT)
    assert sorted(p for shown in judge.shown for p in shown) == sorted(p for _, p in keys)
    assert sorted(map(len, judge.shown)) == [1, 2, 6]
    for n, key in enumerate(keys[1:]):
        assert found[key] == pytest.approx(10 * n / 255, abs=1e-6) or n == 3
    assert np.isnan(found[keys[4]])


def test_batches_are_bounded_by_images_and_by_pixels(
    stored: tuple[Path, list[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images a batch; then 128 pixels, two of 8 x 8 and one of any larger; then little may wait for others."""
    folder, keys = stored
    monkeypatch.setattr(scoring, "CHUNK", 2)
    assert sorted(len(k) for _, k in scoring.batches(folder, keys, LIMIT)) == [1, 2, 2, 2, 2]
    monkeypatch.setattr(scoring, "CHUNK", 64)
    monkeypatch.setattr(scoring, "BATCH_PIXELS", 128)
    assert [len(k) for _, k in scoring.batches(folder, keys, LIMIT)] == [2, 1, 2, 1, 1, 2]
    monkeypatch.setattr(scoring, "BATCH_PIXELS", 2**25)
    monkeypatch.setattr(scoring, "WAITING_PIXELS", 200)
    shown = [key for _, together in scoring.batches(folder, keys, LIMIT) for key in together]
    assert sorted(shown) == sorted(keys)


def test_a_second_run_scores_nothing_and_gives_the_same(stored: tuple[Path, list[Key]], tmp_path: Path) -> None:
    folder, keys = stored
    plain = scoring.score_images(folder, keys, Judge(), "judge", LIMIT)
    first, second = Judge(), Judge()
    kept = cache(tmp_path)
    for judge in (first, second):
        found = scoring.score_images(folder, keys, judge, "judge", LIMIT, kept)
        np.testing.assert_array_equal([found[key] for key in keys], [plain[key] for key in keys])
    assert second.shown == [] and kept.hits == len(keys)
    other = Judge()
    scoring.score_images(folder, keys, other, "judge", LIMIT, cache(tmp_path, "another version"))
    assert other.shown == first.shown


def test_a_killed_run_goes_on_and_gives_the_same_bits(stored: tuple[Path, list[Key]], tmp_path: Path) -> None:
    """The judge's scores tell how many images came together: that is as in an undisturbed run."""
    folder, keys = stored
    plain = scoring.score_images(folder, keys, Judge(), "judge", LIMIT)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_images(folder, keys, Judge(most=1), "judge", LIMIT, cache(tmp_path))
    rest = Judge()
    found = scoring.score_images(folder, keys, rest, "judge", LIMIT, cache(tmp_path))
    assert len(rest.shown) == 2
    np.testing.assert_array_equal([found[key] for key in keys], [plain[key] for key in keys])


def test_a_services_missing_score_is_asked_for_again(stored: tuple[Path, list[Key]], tmp_path: Path) -> None:
    """Prompt 3 has none: the images that it's scored with are asked for again, the others aren't."""
    folder, keys = stored
    kept = cache(tmp_path, lasting=False)
    scoring.score_images(folder, keys, Judge(), "judge", LIMIT, kept)
    again = Judge()
    scoring.score_images(folder, keys, again, "judge", LIMIT, kept)
    assert len(again.shown) == 1 and "prompt 3" in again.shown[0]


def test_parts_come_back_in_their_order_and_missing_as_missing(tmp_path: Path) -> None:
    kept, keys = cache(tmp_path), [("a", "x"), ("b", "x"), ("a", "y")]
    scores = {"judge": np.array([0.1, np.nan, 1 / 3]), "judge_part": np.array([1.0, 2.0, np.nan])}
    kept.put(keys, scores)
    found = kept.get(keys[::-1])
    assert found is not None and list(found) == ["judge", "judge_part"]
    for name in found:
        np.testing.assert_array_equal(found[name], scores[name][::-1])
    assert kept.get([*keys, ("c", "x")]) is None and kept.get([]) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "judge.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"judge\.sqlite can't be used: .* remove it"):
        cache(tmp_path).get([("a", "x")])
    (tmp_path / "judge.sqlite").unlink()
    kept = cache(tmp_path)
    kept.put([("a", "x")], {"judge": np.array([1.0])})
    with sqlite3.connect(tmp_path / "judge.sqlite") as store:
        store.execute("UPDATE kept SET value = '{'")
    store.close()
    with pytest.raises(UserError, match="remove it"):
        kept.get([("a", "x")])
    kept.kept.put([(("1", "a", "x"), [1])])
    with pytest.raises(UserError, match="something else than scores"):
        kept.get([("a", "x")])


def test_what_made_a_score_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "code_hash", lambda stage, chosen: f"{stage} {chosen['key']}")
    named = [
        score_cache.opened("judge", version, settings).made_by
        for version, settings in (("1", {}), ("2", {}), ("1", {"path": "a"}), ("1", {"path": "a", "parallel": 9}))
    ]
    assert len(set(named)) == 3 and named[2] == named[3]


def test_images_are_scored_again_alone(tmp_path: Path) -> None:
    """A score that is the batch's size plus the image's mean: 3 of 5 images, the first, middle and last, 4 apart."""
    entries = []
    for i in range(5):
        data = png(np.full((2, 2, 3), i, np.uint8))
        (tmp_path / f"{i}.png").write_bytes(data)
        about = {"prompt": "x", "set": "s", "category": None, "prompt_index": i, "seed": 0}
        entries.append(Entry.model_validate({"file": f"{i}.png", "sha256": sha256_bytes(data), **about}))
    gallery = Gallery(tmp_path, {"policy": "base"}, tuple(entries))

    def score(images: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        return {"x": np.array([image.mean() + len(images) for image in images])}

    first = scoring.score_gallery(gallery, score, "x")["x"]
    assert scoring.score_again(gallery, first, score, "x", 3) == [(5, 1), (7, 3), (9, 5)]
    first[2] = np.nan
    assert scoring.score_again(gallery, first, score, "x", 3) == [(5, 1), (9, 5)]
    assert scoring.score_again(gallery, first, score, "x", 0) == []
