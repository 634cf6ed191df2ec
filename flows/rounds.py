"""Adds a round to a chain of policies and runs it as a Prefect flow, where the gate passes the policy before."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.states import Completed

from diffalign.config.rounds import FOLDER, PEOPLE, POLICIES, WAITS
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.evaluation import verdicts
from flows import align, names
from flows.stage import PipelineFailed, StageFailed, failed

HELD, WAITING, ENOUGH = "Held", "Waiting", "Enough"
"""Names of the states of a run that began no round: the gate said no; people's answers are missing; all are made."""
PARAMS = Path("params.yaml")


@flow(name="round", log_prints=True)
def rounds(
    policy: str, settings: dict[str, Any], most: int = 3, retries: int = 1, timeout_hours: float = 0
) -> State | None:
    """Runs the DAG, and, if the gate passes the chain's newest policy, adds a round of its images and the next policy.

    Both are written into params.yaml, the file before is kept, and the DAG runs again. A run adds one round. Returns a
    failed state where a stage failed; a completed one that says why no round was added: the gate's verdict (Held),
    people's answers that are missing (Waiting), as many rounds as asked for (Enough).

    Args:
        policy: The first policy of the chain; the policies of its rounds are copies of it.
        settings: The round's values as in params.yaml; reference is the newest policy, seed counts, unless given.
        most: No more rounds than these in the chain.
        retries: How often a failed stage is tried again.
        timeout_hours: What a stage may take; 0: no limit.
    """
    os.chdir(names.project())
    try:
        state = align.run_stages(align.plan(None), retries, timeout_hours)
        if state is not None:
            return waiting(state) or state
        raw = yaml_file.read(PARAMS)
        chain = chain_of(raw, policy)
        if len(chain) > most:
            return Completed(name=ENOUGH, message=f"No round was added: {', '.join(chain[1:])} are all {most}.")
        if why := refusal(chain[-1]):
            return Completed(name=HELD, message=f"No round was added. {why}")
        align.write_params(None, added(raw, chain, settings))
        state = align.run_stages(align.plan(None), retries, timeout_hours)
        if state is not None:
            return waiting(state) or state
        newest = chain_of(yaml_file.read(PARAMS), policy)[-1]
        get_run_logger().info("%s: %s", newest, refusal(newest) or "passes the gate, the next run adds a round")
        return None
    except UserError as error:
        return failed(PipelineFailed([error], []))


def chain_of(raw: Mapping[str, Any], policy: str) -> list[str]:
    """Returns a policy, the one that learned from a round of its images, and so on; the newest is last.

    Raises UserError where there is no such policy.
    """
    policies, known = raw["policies"], raw["rounds"]
    if policy not in policies:
        raise UserError(f"round: policy: expected one of {', '.join(policies)}, got {policy!r}.")
    maker = {f"{FOLDER}/{name}": one["policy"] for name, one in known.items()}
    learned = {maker[one["init"]]: name for name, one in policies.items() if one["init"] in maker}
    found = [policy]
    while (after := learned.get(found[-1])) and after not in found:
        found.append(after)
    return found


def refusal(policy: str) -> str:
    """Returns why the gate doesn't pass a policy, with the conditions that it doesn't meet; empty where it does."""
    found = {one.policy: one for one in verdicts.read().policies}
    if policy not in found:
        return f"{policy} is the baseline, which the gate doesn't rule on."
    if found[policy].verdict == "passed":
        return ""
    unmet = [one for one in found[policy].rulings if one.verdict != "passed"]
    told = "; ".join(
        f"{one.name}: {one.verdict}, {verdicts.shown(one)}{one.note and f' ({one.note})'}" for one in unmet
    )
    return f"{policy} doesn't pass the gate. {told}"


def added(raw: Mapping[str, Any], chain: list[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the next round and policy of a chain, by their paths in params.yaml; both have one name.

    The policy is the first one, its images' settings too, but for the init.
    Raises UserError where that is taken.
    """
    first, newest, number = chain[0], chain[-1], len(chain)
    name = f"{first}_r{number}"
    if name in raw["rounds"] or name in raw["policies"]:
        raise UserError(f"round: expected no {name} in params.yaml, which the next round and its policy would be.")
    usual = {"reference": f"{POLICIES}/{newest}", "seed": number}
    images = raw["generate"]["overrides"].get(first)
    return {
        f"rounds.{name}": {"policy": newest, **usual, **settings},
        f"policies.{name}": {**raw["policies"][first], "init": f"{FOLDER}/{name}"},
        **({f"generate.overrides.{name}": images} if images else {}),
    }


def waiting(state: State) -> State | None:
    """Returns a completed state, Waiting, where stages failed for people's answers alone; None for other failures."""
    error = state.result(raise_on_failure=False)
    known = yaml_file.read(PARAMS)["rounds"]
    by_people = {f"label@{name}" for name, one in known.items() if one["label"] == PEOPLE}
    stages = error.failed if isinstance(error, PipelineFailed) else []
    if stages and all(isinstance(e, StageFailed) and e.stage in by_people and WAITS in str(e) for e in stages):
        return Completed(name=WAITING, message=str(error))
    return None
