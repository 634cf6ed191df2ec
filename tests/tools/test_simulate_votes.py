"""Simulated voters choose by a reward's scores, and are named so all the way to the figures."""

import random
import sys
from pathlib import Path

import pytest

from arena.plan import Image, Task
from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.data.votes import read
from diffalign.evaluation.scores import ImageScores
from diffalign.generation import gallery
from stages import people
from tests.helpers.galleries import write_gallery
from tests.helpers.project import make_params
from tools import simulate_votes

PROMPTS = [f"a disc, number {n}" for n in range(10)]


def test_they_go_from_scores_to_figures(tmp_path, monkeypatch, capsys):
    """dpo's images score higher by three standard deviations or so: all but the noise's choices are for it."""
    monkeypatch.chdir(tmp_path)
    params = make_params(tmp_path, {"base": {"method": "none"}, "dpo": {"method": "dpo"}})
    lines = []
    for seed, name in enumerate(("base", "dpo")):
        write_gallery(Path("images") / name, PROMPTS, first=100 * seed)
        for entry in gallery.read(Path("images") / name).entries:
            about = entry.model_dump(include={"file", "sha256", "prompt", "prompt_index", "seed"})
            lines.append(ImageScores(policy=name, scores={"oracle": seed + 0.01 * entry.prompt_index}, **about))
    records.write_lines(Path("metrics/scores/oracle.jsonl"), lines)
    monkeypatch.setattr(sys, "argv", ["simulate_votes", "base", "dpo", "--raters", "3"])
    simulate_votes.main()
    assert "42 simulated votes are in data/votes/simulated.parquet" in capsys.readouterr().out
    people.run(params)
    found = people.people_results.read()
    assert (found.simulated, found.raters, found.votes) == (True, 3, 30)
    assert (found.checks.answered, found.checks.passed) == (9, 9)
    assert found.win_rates[0].policy == "dpo" and found.win_rates[0].win_rate > 0.8
    records.write_lines(Path("metrics/scores/oracle.jsonl"), lines[:-1])  # the last image of dpo's has no score
    simulate_votes.main()
    votes = [vote for vote in read(Path("data/votes")) if vote.kind == "pair"]
    assert {vote.prompt for vote in votes if vote.answer == "skip"} == {PROMPTS[-1]}
    with pytest.raises(UserError, match="expected scores of the images of nobody, found none"):
        simulate_votes.scores_of("oracle", ["nobody"])


def test_images_without_a_score_are_skipped_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about = {"policy": "x", "file": "1.png", "prompt": "a disc", "prompt_index": 0, "seed": 0}
    lines = [ImageScores(sha256=name, scores={"oracle": value}, **about) for name, value in (("1", None), ("2", 0.5))]
    records.write_lines(Path("metrics/scores/oracle.jsonl"), lines)
    scores = simulate_votes.scores_of("oracle", ["x"])
    assert scores == {"2": 0.5}
    assert "couldn't score 1 of 2 images: votes on them skip" in capsys.readouterr().err
    task = Task("pair", "p", "a disc", 0, Image("1", "x"), Image("2", "y"), ("overall",))
    said = simulate_votes.answer(task, "simulated-0", scores, 1.0, random.Random(0), simulate_votes.START)
    assert said.answer == "skip", "a tie would be an opinion"
