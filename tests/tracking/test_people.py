"""People's votes in the summary."""

from diffalign.core import records
from diffalign.evaluation import people, people_results
from diffalign.evaluation.intervals import Interval
from diffalign.tracking import summary
from tests.helpers.voters import images, vote


def write(votes):
    records.write(people_results.FILE, people.judge(votes, images(votes, "y", "x"), Interval(100, 0.95, 0)))


def test_votes_are_in_the_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert summary.by_people()[2] == []
    write([])
    assert summary.by_people()[2] == []
    votes = [vote(prompt=str(n), pair_id=str(n), answer="aab"[n % 3]) for n in range(30)]
    write(votes)
    title, _, ((policy, question, rate, _, counts, raters),) = summary.by_people()
    assert title == "Win rates by votes of people"
    assert (policy, question, rate, counts, raters) == ("x over y", "overall", "66.7%", "20 / 0 / 10", "1 of 1")
    write([*votes, vote(prompt="31", pair_id="31", rater_id="simulated-0")])
    assert "simulated voters among them" in summary.by_people()[0]
