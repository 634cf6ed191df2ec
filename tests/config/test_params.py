"""params.yaml: typed, frozen, and all errors at once, each with its path, what was expected and what was got."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from diffalign.config import checks
from diffalign.config.load import load, parse
from diffalign.config.methods import ddpo, dpo
from diffalign.config.pairs import Pairs
from diffalign.config.params import METHODS, BaseModelParams, Data, Rewards
from diffalign.config.rollout import Advantage, Kl, Rollout
from diffalign.config.samplers import DDIM
from diffalign.config.training import Lora, Trained
from diffalign.config.values import Density, Model
from diffalign.core import axes, yaml_file
from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Rule, Weight
from diffalign.diffusion import timesteps
from diffalign.diffusion.losses import LINKS
from diffalign.planning import estimates
from diffalign.training.optimizers import OPTIMIZERS

KNOWN = ", ".join(METHODS)


@pytest.fixture
def raw(repo: Path) -> dict[str, Any]:
    """The default params.yaml, parsed, to be broken."""
    return yaml_file.read(repo / "params.yaml")


def message(raw: Any) -> str:
    with pytest.raises(UserError) as error:
        parse(raw, "params.yaml")
    return str(error.value)


def test_a_reward_with_weights_needs_its_folder_and_its_batch_size(raw: dict[str, Any]) -> None:
    raw["rewards"]["pickscore"] = {"batch_size": 0, "dtype": "bf16"}
    text = message(raw)
    assert "rewards.pickscore.path: missing" in text
    assert "rewards.pickscore.batch_size: expected greater than or equal to 1, got 0" in text
    assert "rewards.pickscore.dtype: unknown key (misspelt?), got 'bf16'" in text
    raw["rewards"]["pickscore"] = {"path": "models/rewards/pickscore", "batch_size": 16, "sha256": None}
    raw["rewards"]["jpeg_compressibility"] = {}
    expected = ["oracle", "learned", "pickscore", "jpeg_compressibility"]
    assert list(parse(raw).rewards) == expected, "the first one judges the headline"
    assert list(parse(parse(raw).model_dump()).rewards) == expected
    raw["rewards"]["pickscore"]["sha256"] = "not hex"
    assert "rewards.pickscore.sha256: expected" in message(raw)


def test_the_default_is_valid(repo: Path) -> None:
    values = load(repo / "params.yaml")
    assert {"base", "dpo", "sft"} <= set(values.policies)
    assert values.evaluate.baseline == "base"


def test_all_errors_are_reported_at_once(raw: dict[str, Any]) -> None:
    raw["precompute"]["resolutoin"] = raw["precompute"].pop("resolution")  # a key misspelt: one unknown, one missing
    raw["policies"]["dpo"]["beta"] = -1
    raw["rewards"]["clip"] = {}
    raw["generate"]["prompts"] = {"test": "many"}
    text = message(raw)
    assert text.startswith("params.yaml has 5 errors:")
    assert "precompute.resolutoin: unknown key (misspelt?), got 64" in text
    assert "precompute.resolution: missing" in text
    assert "policies.dpo.beta: expected greater than 0, got -1" in text
    assert "rewards.clip: unknown key (misspelt?), got {}" in text
    assert "generate.prompts.test: expected a valid integer, unable to parse string as an integer, got 'many'" in text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("generate.prompts", {"train": 5}, "generate.prompts.train: expected validation, test, parti, hpsv2, "),
        ("generate.prompts", "mine.txt", "got 'mine.txt'. Add generate.own_prompts: mine.txt, so that DVC sees"),
        ("generate.own_prompts", "../mine.txt", "generate.own_prompts: "),
        ("generate.own_prompts", "/mine.txt", "generate.own_prompts: "),
        ("generate.prompts", "prompts/../../x.txt", "got 'prompts/../../x.txt'"),
        ("generate.prompts", {}, "generate.prompts: "),
        ("generate.prompts.test", 0, "generate.prompts.test: expected greater than or equal to 1, got 0"),
        ("generate.split", "test", "generate.split: this key moved: it's in `generate.prompts` now"),
        ("data.drop_prompts_of", ["test"], "data.drop_prompts_of.0: "),
        ("policies.dpo.lr", "3e-5x", "policies.dpo.lr: "),
        ("policies.dpo.lr", float("nan"), "policies.dpo.lr: "),
        ("policies.dpo.steps", 0, "policies.dpo.steps: "),
        ("policies.dpo.steps", 1.5, "policies.dpo.steps: "),
        ("policies.dpo.method", "ppo", f"policies.dpo.method: expected one of {KNOWN}, got 'ppo'"),
        ("policies.dpo.method", None, f"policies.dpo.method: expected one of {KNOWN}, got None"),
        ("policies.dpo", {"init": "x"}, f"policies.dpo.method: missing; expected one of {KNOWN}"),
        ("policies.dpo", "dpo", "policies.dpo: expected a mapping, got 'dpo'"),
        ("gate.conditions", [{"figure": "unsafe"}], "gate.conditions.0.figure: expected one of win_rate, votes, "),
        ("gate.conditions", [{"figure": "flagged", "filter": "nsfw"}], "gate.conditions.0.at_most: missing; "),
        ("gate.conditions.0.judge", "oracel", "gate.conditions.0.judge: expected held_out, or one of rewards, "),
        (
            "gate.conditions.0.set",
            "tset",
            "gate.conditions.0.set: expected all, or one of generate.prompts, all, test, ",
        ),
        (
            "gate.conditions.1.quiet",
            ["hackng"],
            "gate.conditions.1.quiet: expected alarms of evaluate.alarms, hacking, ",
        ),
        ("gate.conditions.2.allowed", ["x"], "gate.conditions.2.allowed: expected alarms of probe, winner_worse, "),
        ("gate.conditions.3.filter", "nswf", "gate.conditions.3.filter: expected one of audit.filters, red_star, got"),
        (
            "gate.conditions.4.attribute",
            "sise",
            "gate.conditions.4.attribute: expected one of audit.attributes, size, ",
        ),
        ("audit.attributes.size", {"attribute": "size"}, "audit.attributes.size.by: missing; expected one of shapes, "),
        ("policies.dpo.lora", "full", "policies.dpo.lora: expected a mapping, got 'full'"),
        ("policies.dpo.lora", {"rank": 4, "alpha": 4}, "policies.dpo.lora.targets: missing"),
        ("policies.sft.beta", 1000, "policies.sft.beta: unknown key"),
        ("policies.dpo.log_evry", 5, "policies.dpo.log_evry: unknown key"),
        ("training.beta", 1000, "training.beta: unknown key"),
        ("training", None, "training: expected a mapping, got None"),
        ("report.title", 3, "report.title: expected text, got 3: put it in quotes"),
        ("policies.dpo.flip", "pair", "policies.dpo.flip: expected none, since precompute.flips is false, got 'pair'"),
        ("policies.dpo.micro_batch_size", 5, "expected a multiple of micro_batch_size 5, got 32"),
        ("policies.base.beta", 1, "policies.base.beta: unknown key"),
        (
            "policies.Dpo-2",
            {"method": "none", "init": "x", "noise_seed": 0},
            "policies.Dpo-2: expected a name of lower-case letters, digits and _ that begins with a letter, got",
        ),
        ("reward_models.learned.lr", 0, "reward_models.learned.lr: expected greater than 0, got 0"),
        ("reward_models.learned.micro_batch_size", 5, "reward_models.learned.batch_size: expected a multiple of"),
        ("reward_models.learned.weights", ["rater"], "reward_models.learned.weights.0: expected 'prompt', got 'rater'"),
        ("evaluate.baseline", "gone", "evaluate.baseline: expected one of the policies"),
        ("evaluate.confidence", 1.0, "evaluate.confidence: "),
        ("precompute.flips", "no", "precompute.flips: expected a valid boolean, got 'no'"),
        ("precompute.resolution", 100, "precompute.resolution: expected a multiple of 8, got 100"),
        ("data.source", "folder", "data.source: expected 'arena', 'folders', "),
        ("data", None, "data: "),
        ("policies", {}, "evaluate.baseline: expected one of the policies"),
    ],
)
def test_a_wrong_value_is_named(raw: dict[str, Any], path: str, value: object, expected: str) -> None:
    *parents, key = path.split(".")
    node: Any = raw
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    node[key] = value
    assert expected in message(raw)


@pytest.mark.parametrize(
    ("updates", "micro_batch", "said"),
    [
        (1, 4, []),
        (1, 16, []),  # two moves of eight pictures
        (1, 12, ["batch_size: expected a multiple of micro_batch_size 12, or a divisor of it, got 8"]),
        (2, 16, ["batch_size: expected a multiple of micro_batch_size 16, got 8"]),
    ],
)
def test_several_moves_share_a_forward_where_a_rollout_has_one_update(
    updates: int, micro_batch: int, said: list[str]
) -> None:
    policy = ddpo.Settings.model_construct(
        batch_size=8,
        micro_batch_size=micro_batch,
        rollout=Rollout.model_construct(updates=updates, steps=10),
        moves=ddpo.Moves(share=0.5, span=(0.0, 0.8)),
    )
    assert checks.of_micro_batch(policy) == said


@pytest.mark.parametrize(("rewards", "refused"), [(["oracle"], False), (["oracle", "jpeg_compressibility"], True)])
def test_totals_of_several_rewards_have_no_history(rewards: list[str], refused: bool) -> None:
    policy = ddpo.Settings.model_construct(
        batch_size=8,
        reference="none",
        rollout=Rollout.model_construct(images_per_prompt=4, sampler=DDIM.model_construct(eta=1.0)),
        reward={name: {"weight": 1.0} for name in rewards},
        advantage=Advantage(kind="history", clip=5.0),
        kl=Kl(weight=0.0, space="output"),
    )
    start = "advantage.kind: expected batch, group or group_mean with several rewards"
    assert [line[: len(start)] for line in policy.problems(Pairs.model_construct())] == [start] * refused


def test_all_contradictions_are_reported_at_once(raw: dict[str, Any]) -> None:
    raw["data"] |= {"validation": 0.7, "test": 0.4}
    raw["evaluate"]["baseline"] = "gone"
    for name in ("dpo", "sft"):
        raw["policies"][name] |= {"flip": "pair", "micro_batch_size": 5, "timesteps": [0.6, 0.4]}
    text = message(raw)
    assert text.startswith("params.yaml has 8 errors:\n  data.validation + data.test: expected shares with a sum of")
    assert all(
        f"\n  policies.{name}.{key}: expected" in text
        for name in ("dpo", "sft")
        for key in ("flip", "batch_size", "timesteps")
    )


def test_the_gates_wrong_names_are_reported_at_once(raw: dict[str, Any]) -> None:
    """They would be found missing by the gate, hours later."""
    raw["gate"]["conditions"] = [
        {"figure": "win_rate", "judge": "oracel", "set": "all", "above": 0.5},
        {"figure": "alarms", "quiet": ["vendi", "hackng", "sharp"]},
        {"figure": "flagged", "filter": "nswf", "at_most": 0.1},
    ]
    text = message(raw)
    assert text.startswith("params.yaml has 3 errors:")
    assert (
        "gate.conditions.0.judge: expected held_out, or one of rewards, held_out, oracle, learned, got 'oracel'" in text
    )
    assert "sharpness, tint, copies, got 'hackng', 'sharp'" in text
    assert "gate.conditions.2.filter: expected one of audit.filters, red_star, got 'nswf'" in text
    raw["audit"]["filters"] = {}
    assert "gate.conditions.2.filter: expected one of audit.filters, none, got 'nswf'" in message(raw)


def test_a_policy_has_the_values_of_training_where_it_gives_none(raw: dict[str, Any]) -> None:
    raw["training"] |= {"lr": 3e-4, "steps": 7, "lora": {"rank": 4, "alpha": 8, "targets": ["to_q"]}}
    raw["policies"]["dpo"] |= {"steps": 9, "lora": None}
    values = parse(raw)
    dpo, sft = values.policies["dpo"], values.policies["sft"]
    assert isinstance(dpo, Trained) and isinstance(sft, Trained)
    assert (dpo.lr, dpo.steps, dpo.lora) == (3e-4, 9, None)
    assert (sft.lr, sft.steps, sft.lora) == (3e-4, 7, Lora(rank=4, alpha=8, targets=["to_q"]))
    assert values.training.steps == 7


def test_a_mapping_of_a_policy_replaces_the_one_of_training(raw: dict[str, Any]) -> None:
    """No value of it is inherited: `lora: {rank: 4}` isn't completed by the alpha of `training`."""
    raw["training"]["lora"] = {"rank": 4, "alpha": 8, "targets": None}
    raw["policies"]["dpo"]["lora"] = {"rank": 2}
    text = message(raw)
    assert "policies.dpo.lora.alpha: missing" in text and "policies.dpo.lora.targets: missing" in text


def test_a_policy_written_in_full_is_the_same(raw: dict[str, Any]) -> None:
    values = parse(raw)
    assert parse(values.model_dump(mode="json")) == values


def test_an_error_in_training_is_listed_once(raw: dict[str, Any]) -> None:
    """Not for each of the policies that inherit it, and for one that has a wrong value of its own."""
    raw["training"] |= {"lr": -1, "lrr": 3}
    del raw["training"]["ema"]
    raw["policies"]["sft"]["lr"] = -2
    text = message(raw)
    assert text.startswith("params.yaml has 4 errors:")
    for line in (
        "training.lr: expected greater than 0, got -1",
        "training.lrr: unknown key (misspelt?), got 3",
        "training.ema: missing",
        "policies.sft.lr: expected greater than 0, got -2",
    ):
        assert f"\n  {line}" in text


@pytest.mark.parametrize(
    ("link", "rule", "refused"), [("sigmoid", "each", 0), ("ipo", "each", 1), ("hinge", "majority", 1)]
)
def test_the_safeguard_is_for_losses_that_fall_with_the_margin(
    raw: dict[str, Any], link: str, rule: str, refused: int
) -> None:
    raw["policies"]["dpo"] |= {"link": link, "safeguard": 0.9}
    raw["pairs"]["rule"] = rule
    if not refused:
        assert parse(raw).policies["dpo"].safeguard == 0.9  # type: ignore[union-attr]
    else:
        assert "policies.dpo.safeguard: expected null with link ipo, pairs.rule majority or" in message(raw)


@pytest.mark.parametrize(
    ("rule", "weights", "refused"),
    [
        ("each", ["prompt", "rater"], ""),
        ("majority", ["prompt", "strength"], ""),
        ("each", ["strength"], ""),
        ("majority", ["rater"], "pairs.weights: expected no rater with rule majority"),
        ("each", ["votes"], "pairs.weights.0: expected 'prompt', 'strength' or 'rater', got 'votes'"),
    ],
)
def test_weights_say_something_under_the_rule(raw: dict[str, Any], rule: str, weights: list[str], refused: str) -> None:
    raw["pairs"] |= {"rule": rule, "weights": weights}
    if refused:
        assert refused in message(raw)
    else:
        assert parse(raw).pairs.weights == weights


def test_ties_have_no_strength_and_no_safeguard(raw: dict[str, Any]) -> None:
    raw["pairs"] |= {"ties": True, "rule": "majority", "weights": ["strength"]}
    raw["policies"]["dpo"]["safeguard"] = 0.9
    text = message(raw)
    assert "pairs.weights: expected no strength with pairs.ties true" in text
    assert "policies.dpo.safeguard: expected null with link ipo, pairs.rule majority or pairs.ties true" in text


def test_axes_have_weights_above_0(raw: dict[str, Any]) -> None:
    raw["pairs"]["axes"] = {"preference": 1.0, "coherence": 0}
    assert "pairs.axes.coherence: " in message(raw)


def with_kto(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The default params with one KTO policy beside the base."""
    policy = {k: v for k, v in raw["policies"]["dpo"].items() if k not in ("link", "safeguard")}
    changes = {"method": "kto", "desirable_share": 0.8} | changes
    return raw | {"policies": {"base": raw["policies"]["base"], "kto": policy | changes}}


def test_kto_has_a_reference_and_no_pairs(raw: dict[str, Any]) -> None:
    assert parse(with_kto(raw)).policies["kto"].desirable_share == 0.8  # type: ignore[union-attr]
    raw["precompute"]["flips"] = True
    assert parse(with_kto(raw, flip="independent"))
    raw["pairs"]["weights"] = ["prompt"]
    text = message(with_kto(raw, reference="none", flip="pair"))
    assert "policies.kto.reference: expected live, since Diffusion-KTO compares with it, got 'none'" in text
    assert "policies.kto.flip: expected none or independent, since Diffusion-KTO has no pairs, got 'pair'" in text
    assert "expected pairs.weights empty, got ['prompt']" in text


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_document_that_is_no_mapping(value: object) -> None:
    assert "params.yaml has 1 error:" in message(value)


def test_keys_of_an_older_file_say_where_they_went(raw: dict[str, Any]) -> None:
    """As in version 0.1, where each policy had all of them, and scorers stood under probe and evaluate."""
    old = ("adapter", "lora_rank", "lora_alpha", "lora_targets", "log_every", "checkpoint_every", "keep_checkpoints")
    raw["policies"]["dpo"] |= dict.fromkeys(old, 8)
    raw["evaluate"]["scorers"] = raw["probe"]["scorers"] = ["oracle"]
    with pytest.raises(UserError) as caught:
        parse(raw)
    lines = str(caught.value).splitlines()
    for key in old:
        (line,) = [line for line in lines if line.startswith(f"  policies.dpo.{key}:")]
        assert "moved" in line and ("`lora" in line or "`runtime." in line)
    assert sum("it's `rewards` now" in line for line in lines) == 2


def test_a_file_of_version_0_1_has_only_lines_that_help(raw: dict[str, Any]) -> None:
    """Its policies had all values, its judges stood in evaluate and probe; nothing in it was misspelt."""
    lora = {"adapter": "lora", "lora_rank": 8, "lora_alpha": 8, "lora_targets": None}
    shared = {**raw.pop("training"), **raw.pop("runtime"), **lora}
    del shared["lora"]
    for name in ("dpo", "sft"):
        raw["policies"][name] |= shared
    raw["probe"]["scorers"] = raw["probe"].pop("rewards")
    raw["evaluate"]["scorers"] = list(raw.pop("rewards"))
    del raw["generate"]["sampler"], raw["generate"]["overrides"], raw["data"]["repeats"], raw["data"]["settings"]
    _, *lines = message(raw).splitlines()
    assert sum("this key moved" in line for line in lines) == 2 * 7 + 2
    missing = {line.strip().partition(":")[0] for line in lines if "missing" in line}
    sections = {"training", "runtime", "rewards"}
    assert missing == sections | {
        "data.repeats",
        "data.settings",
        "probe.rewards",
        "generate.sampler",
        "generate.overrides",
    }
    assert len(lines) == 16 + len(missing)


def test_a_reward_model_chosen_by_validation_is_validated(raw: dict[str, Any]) -> None:
    raw["reward_models"]["learned"] |= {"choose": "validation", "validate_every": 0}
    assert "reward_models.learned.choose: expected last, since validate_every is 0, got 'validation'" in message(raw)


def test_a_long_value_is_cut(raw: dict[str, Any]) -> None:
    raw["pairs"]["rule"] = "x" * 10_000
    assert len(message(raw)) < 500


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("data: [1,\n")
    with pytest.raises(UserError, match=r"params\.yaml, line 2: "):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"params\.yaml: expected UTF-8"):
        load(tmp_path / "params.yaml")


def test_params_are_frozen(repo: Path) -> None:
    values = load(repo / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        values.generate.steps = 3  # type: ignore[misc]


def literals(model: type[Model], field: str) -> set[str]:
    """The values that a field of a model admits, from its schema."""
    schema = model.model_json_schema()["properties"][field]
    schema = schema.get("items", schema)
    return set(schema.get("enum", [schema["const"]] if "const" in schema else []))


def test_each_axis_has_the_keys_that_params_admit() -> None:
    assert set(axes.names("diffalign.models")) == literals(BaseModelParams, "family")
    assert set(axes.names("diffalign.rewards")) == set(Rewards.__annotations__)
    assert set(axes.names("diffalign.data.sources")) == literals(Data, "source")
    assert set(LINKS) == literals(dpo.Settings, "link")
    assert set(axes.names("diffalign.methods")) == set(METHODS)


def test_what_the_library_admits_too_is_the_same() -> None:
    """Library functions don't know params, so these values stand in both."""
    assert set(get_args(timesteps.Density)) == set(get_args(Density)) == literals(Trained, "timestep_density")
    assert set(get_args(Rule)) == literals(Pairs, "rule")
    assert set(get_args(Weight)) == literals(Pairs, "weights")
    assert set(get_args(estimates.Optimizer)) == set(OPTIMIZERS) == literals(Trained, "optimizer")


@pytest.mark.parametrize("command", ["fetch", "plan", "run", "stage train@dpo", "study", "show"])
def test_errors_in_params_do_not_wait_for_heavy_imports(
    command: str, repo: Path, tmp_path: Path, raw: dict[str, Any]
) -> None:
    """One message and exit code 2; PyTorch, Prefect and MLflow can't even be imported here."""
    raw["generate"]["stepss"] = 3
    (tmp_path / "params.yaml").write_text(yaml_file.dump(raw))
    for name in ("diffalign", "stages", "studies", "flows"):
        (tmp_path / name).symlink_to(repo / name)
    for name in ("pipeline.py", "dvc.yaml"):
        shutil.copy(repo / name, tmp_path)
    for name in ("torch", "prefect", "mlflow"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    run = subprocess.run(
        [sys.executable, "pipeline.py", *command.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr == (
        "error: params.yaml has 1 error:\n  generate.stepss: unknown key (misspelt?), got 3; "
        "remove it or correct its name\n"
    )


def test_mutated_files_are_read_or_one_message_at_once(repo: Path) -> None:
    """400 seeded damages of the default file, by bytes and by lines: params, or a UserError; nothing else, no wait."""
    text = (repo / "params.yaml").read_text("utf-8")
    rng, refused = random.Random(0), 0
    start = time.process_time()
    for _ in range(400):
        try:
            parse(yaml_file.parse(mutated(text, rng), "params.yaml"), "params.yaml")
        except UserError as error:
            refused += 1
            assert len(str(error)) < 20_000
    assert refused > 200
    assert time.process_time() - start < 120


def mutated(text: str, rng: random.Random) -> str:
    """A file with a few damages."""
    bits = [
        "!!int ",
        "&a ",
        "*a",
        "<<: ",
        "[",
        "{",
        "- ",
        ": ",
        "\t",
        '"',
        "~",
        "0300",
        "1e999",
        "-1",
        "on",
        "null",
        "%",
        "|\n",
    ]
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)] + rng.choice(bits) + lines[at][at % 7 :]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            del lines[at]
        else:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {rng.choice(bits)}"
    return "\n".join(lines)
