"""The recipe of the embedded CLIP: its loss by hand, its batches, the scenes that differ in one word."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffalign.shapes.build import tiny_clip
from diffalign.shapes.scenes import caption, parse_caption, sample_scene


def test_the_contrastive_loss_by_hand() -> None:
    """Two captions, their drawings and a careless one; all logits 0 but the own drawings', ln 2 and ln 3.

    Captions choose among three: -ln 2/4 and -ln 3/5; drawings between two captions: -ln 2/3 and -ln 3/4.
    """
    logits = torch.tensor([[math.log(2), 0, 0], [0, math.log(3), 0]], dtype=torch.float64)
    captions, drawings = (math.log(4 / 2) + math.log(5 / 3)) / 2, (math.log(3 / 2) + math.log(4 / 3)) / 2
    assert float(tiny_clip.contrastive(logits)) == pytest.approx((captions + drawings) / 2)


def test_an_edited_scene_is_another_of_the_world_and_nearly_the_same() -> None:
    """At most two words differ: a plural goes with its number."""
    kinds = set()
    for number in range(300):
        rng = np.random.default_rng(number)
        scene = sample_scene(rng)
        other = tiny_clip.edited(scene, rng)
        assert other != scene and parse_caption(caption(other)) == other
        words, changed = caption(scene).split(), caption(other).split()
        assert len(set(words) ^ set(changed)) <= 4
        kinds.add((scene.kind, other.kind))
    assert {first for first, _ in kinds} == {"single", "place", "relation", "number"}


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    """Six captions; their drawings and a careless one of each of the first three."""
    pixels, captions = tiny_clip.clip_batch(0, 5, 6)
    assert pixels.shape == (9, 3, 64, 64) and len(captions) == 6
    assert -1 <= pixels.min() and pixels.max() <= 1
    again, words = tiny_clip.clip_batch(0, 5, 6)
    assert torch.equal(pixels, again) and captions == words
    other, _ = tiny_clip.clip_batch(1, 5, 6)
    assert not torch.equal(pixels, other)


def test_the_written_clip_is_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    """CLIPModel, CLIPTokenizer load it; an image of 64 px and a caption give one cosine in each."""
    from transformers import CLIPModel, CLIPTokenizer

    monkeypatch.chdir(tmp_path)
    tiny_clip.run(tmp_path / "clip", repo / "assets/tiny-sd", steps=1, scenes=4)
    model, tokenizer = CLIPModel.from_pretrained(tmp_path / "clip"), CLIPTokenizer.from_pretrained(tmp_path / "clip")
    tokens = tokenizer(["a red circle on a blue background"], padding="max_length", return_tensors="pt")
    assert tokens.input_ids.shape == (1, 20)
    found = model(**tokens, pixel_values=torch.zeros(1, 3, 64, 64)).logits_per_image
    assert found.shape == (1, 1) and found.isfinite().all()
    assert 0 <= tiny_clip.measure(tmp_path / "clip", count=4)["edited"] <= 1
