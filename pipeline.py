"""The command line of diffalign. Imports are in the commands that need them, so that --help is instant."""

import importlib
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from diffalign.core import collector, home
from diffalign.core.errors import STOPPED, Outage, Stopped, UserError

ROOT = Path(__file__).resolve().parent
STARTED = Path.cwd()
"""Where the command was given."""
# Off unless the user says otherwise: telemetry, chatter, and spinning threads (they make two-core machines crawl).
ENVIRONMENT = {
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' bars of loading, too; stages have their own
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # it warns of processors that nobody here asked for
}
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes longer to import than everything else here
    help="Human preferences into a better text-to-image model. `dvc repro` runs what is needed, and so does `run`.",
)


@app.callback()
def check_environment() -> None:
    """Refuses misspelt and odd DIFFALIGN_* variables, before any command."""
    from diffalign.runtime import switches

    switches.check()


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="NAME, NAME@POLICY or NAME@REWARD, as `dvc stage list` shows them.")],
) -> None:
    """Run one stage, needed or not: what dvc.yaml calls. `dvc repro` runs what is needed."""
    from diffalign.config.load import PARAMS, parse, read
    from diffalign.runtime import external, processes, timings
    from diffalign.tracking import dag
    from diffalign.tracking.sync import stage_run

    processes.die_with_dvc()
    base, _, key = name.partition("@")
    dag.check_base(base)
    if home.repository():
        from diffalign.commands import own_dag

        own_dag.check(base)
    raw = read()
    values = parse(raw, str(PARAMS))
    dag.check_key(name, raw)
    dag.check_leftovers(values.policies, values.rewards, values.reward_models, values.rounds)
    place, start = external.place(), time.monotonic()
    if place and base != "train":
        raise UserError(
            f"stage {name}: DIFFALIGN_LAUNCHER=external is for train, which runs in many processes; unset it."
        )
    if base == "train" and not (place and place.rank):
        from diffalign.planning import missing

        for message in missing.messages(values.model_dump()):
            sys.stderr.write(f"stage {name}: a later stage will fail: {message}\n")
    later = place is not None and place.rank > 0  # the first of a launcher's processes tells of all
    with nullcontext() if later or base == dag.CHECK else stage_run(name, raw):
        work = importlib.import_module(f"stages.{base}").run
        work(values, key) if key else work(values)
    if not later:
        timings.record(name, time.monotonic() - start)


@app.command()
def run(
    retries: Annotated[int, typer.Option(min=0, help="Times that a failed stage is tried again.")] = 1,
    timeout: Annotated[float, typer.Option(min=0, help="Hours that a stage may take; 0 is no limit.")] = 0,
    policy: Annotated[list[str] | None, typer.Option(help="Train and sample this one; repeatable; else all.")] = None,
    preset: Annotated[str | None, typer.Option(help="Replace params.yaml by this preset first.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE into params.yaml first.")] = None,
) -> None:
    """Run what is needed, as a Prefect flow. Uses the API that is set, else a temporary server."""
    from diffalign.config.load import load

    changes = set_params(set_, preset) if preset or set_ else {}
    params = load()  # first: its errors don't wait for Prefect
    from diffalign.planning import missing
    from flows.align import PARTIAL, align, ending
    from flows.serving import check_api

    if messages := missing.messages(params.model_dump()):
        raise UserError("\n".join(messages))
    check_api()
    state = align(policy, preset, changes, retries, timeout, return_state=True)
    if error := ending(state):
        sys.stderr.write(f"error: {error.details}\n")
        sys.exit(error.code)
    if state.name == PARTIAL:
        typer.echo(state.message)
    else:
        summary()


@app.command()
def plan(
    gpu: Annotated[str | None, typer.Option(help="For a machine with it: 4090, a100-80, h100, ...; else this.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
) -> None:
    """Print what training will take, before anything starts. Hours, memory, epochs, disk; needs no download."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.planning import cards

    if gpu is not None:
        cards.find(gpu)
    sys.stderr.write("plan: loads PyTorch\n" if gpu else "plan: loads PyTorch and measures this machine\n")
    from diffalign.planning import missing, plan_text, planner

    if lacking := plan_text.missing(params):
        raise UserError("\n".join(lacking))
    typer.echo(plan_text.text(params, planner.other_machine(gpu, gpus) if gpu else planner.this_machine()))
    for path in (params.data.path,):
        if not Path(path).exists():
            typer.echo(f"missing: {path} (data.path): python pipeline.py fetch, or import for pairs of your own")
    for message in missing.messages(params.model_dump()):
        typer.echo(f"missing: {message}")


@app.command()
def power(
    rate: Annotated[float, typer.Option(min=0, max=1, help="The win rate to tell from one half.")] = 0.55,
    ties: Annotated[float, typer.Option(min=0, max=0.99, help="Share of images that tie.")] = 0.0,
    alike: Annotated[float, typer.Option(min=0, max=1, help="Correlation of outcomes of a prompt's images.")] = 0.3,
    chance: Annotated[float, typer.Option("--power", min=0.5, max=0.999, help="Of seeing the difference.")] = 0.8,
    tests: Annotated[int, typer.Option(min=1, help="Comparisons that are tested together.")] = 1,
) -> None:
    """Print how many prompts tell a win rate from one half. For before a run."""
    from diffalign.config.load import load
    from diffalign.evaluation import power as planned

    params = load()
    settings = params.generate
    design = planned.Design(params.evaluate.confidence, chance, ties, settings.seeds, alike, tests)
    typer.echo(planned.text(rate, settings.counts(), design))


@app.command()
def serve(port: Port = 4200) -> None:
    """Serve the schedules of prefect.yaml until stopped. Starts a server if no API is set."""
    from flows.serving import serve_deployments

    serve_deployments(port)


@app.command()
def summary() -> None:
    """Print the results, wall times, and where the report is."""
    from diffalign.tracking import summary

    typer.echo(summary.text())


@app.command()
def study(
    only: Annotated[list[str] | None, typer.Option(help="A group of runs; repeatable. --list shows them.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Of the test split, one image each; else 200.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of every run; for a quick look.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; else one a core, on a GPU one.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print groups, runs and claims; run nothing.")] = False,
) -> None:
    """Try the papers' findings on the shapes world. About an hour on two CPU cores; resumable."""
    if list_:
        from studies import results

        typer.echo(results.listing())
        return
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from studies import parallel, runner

    typer.echo(runner.run(params, only or (), prompts, steps, jobs or parallel.usual_jobs()))
    typer.echo(runner.remake_report())


@app.command()
def arena(
    policies: Annotated[list[str] | None, typer.Argument(help="Whose images are compared; all that have some.")] = None,
    port: Port = 8600,
    round_: Annotated[
        str | None, typer.Option("--round", help="A round of params.yaml with label people: its images instead.")
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="overall, appeal, alignment; repeatable; all. Of a round: overall.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Pairs that a rater gets.")] = 60,
    seed: Annotated[int, typer.Option(help="Of order, sides, repeats and checks.")] = 0,
    host: Annotated[str, typer.Option(help="Another address than loopback: others can reach it.")] = "127.0.0.1",
    new_token: Annotated[bool, typer.Option("--new-token", help="Links that were sent before lose their use.")] = False,
) -> None:
    """Serve a page of blind votes on images until stopped."""
    from arena.plan import Settings
    from arena.server import serve as serve_votes
    from diffalign.data.votes import QUESTIONS

    if unknown := set(question or ()).difference(QUESTIONS):
        raise UserError(f"arena: --question: expected {', '.join(QUESTIONS)}, found {', '.join(sorted(unknown))}.")
    if round_:
        from diffalign.config import round_checks
        from diffalign.config.load import load

        round_checks.check_vote(load(), round_, policies or (), question or ())
    wanted = question or (("overall",) if round_ else QUESTIONS)
    asked = tuple(one for one in QUESTIONS if one in wanted)
    typer.echo(serve_votes(policies or (), Settings(seed, asked, limit), host, port, new_token, round_))


@app.command()
def collect() -> None:
    """Write the arena's votes to data/votes. Stages people and raters and the source arena read them there."""
    from arena.export import export
    from arena.server import COPIES, DATABASE

    typer.echo(export(DATABASE, COPIES, Path("data/votes")))


@app.command()
def sync() -> None:
    """Bring MLflow up to date with dvc.lock. That is: what came from the cache, or was made while MLflow was away."""
    from diffalign.tracking.sync import sync

    typer.echo(sync())


@app.command()
def promote(
    policy: Annotated[str, typer.Argument(help="A policy of params.yaml; none with --to-version.")] = "",
    alias: Annotated[str, typer.Option(help="champion asks the gate; any other alias doesn't.")] = "champion",
    to_version: Annotated[
        int | None, typer.Option(min=1, help="Go back: move the alias to a version that is registered.")
    ] = None,
) -> None:
    """Register a policy in MLflow and make it the champion. As a whole model; champion only through the gate."""
    from diffalign.config.load import load

    params = load()
    from diffalign.tracking import promotion

    if to_version is not None:
        typer.echo(promotion.go_back(params.gate.model, alias, to_version, policy))
        return
    if policy not in params.policies:
        raise UserError(f"promote: expected one of the policies {', '.join(params.policies)}, got {policy!r}")
    wanted = promotion.Wanted(
        policy=policy,
        name=params.gate.model,
        alias=alias,
        family=params.model.family,
        model=Path(params.model.path),
    )
    typer.echo(promotion.promote(wanted))


@app.command()
def export(
    policy: Annotated[str, typer.Argument(help="A policy of params.yaml.")],
    to: Annotated[str, typer.Option(help="pipeline, single-file, lora, kohya.")] = "pipeline",
    out: Annotated[Path | None, typer.Option(help="A folder, or a .safetensors file; else exports/POLICY/TO.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp16, bf16, fp32; as stored.")] = None,
) -> None:
    """Write a policy for other programs. diffusers: pipeline, lora; ComfyUI and A1111: single-file, kohya."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.commands import export as exporting

    typer.echo(exporting.run(params, exporting.Wanted(policy, to, dtype), out))


@app.command()
def push(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub; made where there is none.")],
    policy: Annotated[str | None, typer.Option(help="Of params.yaml; the first trained one.")] = None,
    to: Annotated[str | None, typer.Option(help="As in export; lora where it is one, else pipeline.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp16, bf16, fp32; as stored.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository that only you see.")] = False,
) -> None:
    """Upload a policy and its model card to the hub. Resumable; the token is HF_TOKEN's or a login's."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.commands import push as pushing

    typer.echo(pushing.run(params, repository, policy, to, dtype, private))


@app.command()
def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; else 5000 or the next free.")
    ] = None,
) -> None:
    """Sync, then show MLflow's pages on loopback until stopped."""
    from diffalign.tracking import ui

    ui.run(port)


@app.command()
def tensorboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 6006,
    write: Annotated[bool, typer.Option("--write", help="Write the event files to runs/tensorboard only.")] = False,
) -> None:
    """Show training curves in TensorBoard until stopped. Needs the extra tensorboard."""
    from diffalign.tracking import tensorboard

    tensorboard.run(port, serve=not write)


@app.command()
def show(
    path: Annotated[str, typer.Argument(help="A path in params.yaml, such as policies.dpo; all of it.")] = "",
) -> None:
    """Print params as they are resolved. A policy is shown with all that it takes from `training`."""
    from diffalign.config.show import shown

    typer.echo(shown(path), nl=False)


Rewards = Annotated[list[str] | None, typer.Option("--reward", help="A judge; repeatable; else params.yaml's.")]


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A policy, a model's folder, or a folder of images.")],
    b: Annotated[str, typer.Argument(help="Likewise: its win rate over A is what comes out.")],
    prompts: Annotated[str | None, typer.Option(help="test, parti, ..., a .txt or .tsv; of images a CSV.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Prompts, at most; the first by hash.")] = None,
    reward: Rewards = None,
    seeds: Annotated[int, typer.Option(min=1, help="Images a prompt.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; else runs/compare/A-B.")] = None,
) -> None:
    """Compare two models, or two folders of images. Trains nothing; resumable."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.commands import compare

    typer.echo(compare.run(params, a, b, compare.Options(reward or (), prompts, count, seeds, out)))


@app.command()
def score(
    path: Annotated[Path, typer.Argument(help="A folder of images, or Parquet with images and captions.")],
    reward: Rewards = None,
    prompts: Annotated[Path | None, typer.Option(help="CSV or TSV of files and captions; else .txt beside.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scores go; else runs/score/NAME.jsonl.")] = None,
) -> None:
    """Score images with rewards. A JSON line an image; prints the means."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.commands import score

    typer.echo(score.run(params, path, reward or (), prompts, out))


@app.command("import")
def import_data(
    source: Annotated[
        str, typer.Argument(help="Two folders in one, a table, a data set on disk, or the hub's OWNER/NAME.")
    ],
    to: Annotated[Path, typer.Option(help="A new folder, such as data/raw/NAME.")],
    as_: Annotated[
        str | None, typer.Option("--source", help="hpdv2, rapidata, ...: docs/data.md; else found out.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN, such as prompt=caption; repeatable.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="WORD=a, b or tie, where answers are unclear.")] = None,
    winners: Annotated[str | None, typer.Option(help="Name of the folder that won.")] = None,
    losers: Annotated[str | None, typer.Option(help="Name of the folder that lost.")] = None,
    captions: Annotated[str | None, typer.Option(help="CSV or TSV in SOURCE of files and captions.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, another one of the source's.")] = None,
    revision: Annotated[str, typer.Option(help="Of a data set on the hub.")] = "main",
    files: Annotated[int | None, typer.Option(min=1, help="At most so many of the hub's files.")] = None,
    title: Annotated[str | None, typer.Option(help="The report's; else the folder's name.")] = None,
    preset: Annotated[str | None, typer.Option(help="First replace params.yaml by presets/NAME.yaml.")] = None,
    keep_params: Annotated[bool, typer.Option("--keep-params", help="Leave params.yaml as it is.")] = False,
) -> None:
    """Make comparisons of your own ready for ingest. Shows how they were understood; names them in params.yaml."""
    from diffalign.config import presets
    from diffalign.config.load import load

    if preset:
        typer.echo(presets.use(preset))
    params = load()
    from diffalign.commands import import_data
    from diffalign.commands.import_source import Asked

    asked = Asked(as_, column or (), answer or (), winners, losers, captions, setting or (), revision, files)
    typer.echo(import_data.run(params, source, to, asked, title, keep_params))


@app.command()
def relabel(
    reward: Annotated[str, typer.Option(help="The reward that answers.")],
    to: Annotated[Path, typer.Option(help="A new folder, such as data/raw/NAME.")],
    margin: Annotated[float, typer.Option(min=0, help="Scores that differ by less tie.")] = 0.0,
    answers: Annotated[int, typer.Option(min=1, help="Simulated raters a comparison, of those the reward is.")] = 1,
    noise: Annotated[float, typer.Option(min=0, help="Their answers' noise, in the reward's unit.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of who is asked, and of that noise.")] = 0,
) -> None:
    """Answer the comparisons with a reward (AI feedback). Writes a source for data.path."""
    from diffalign.config.load import load

    params = load()  # first: its errors don't wait for PyTorch
    from diffalign.commands import relabel
    from diffalign.evaluation.relabel import Asked

    typer.echo(relabel.run(params, reward, to, Asked(answers, noise, margin, seed)))


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    preset: Annotated[str | None, typer.Option(help="Its params.yaml: sd15-lora, ...; else the demo's.")] = None,
) -> None:
    """Make a repository of your own. Params, DAG, schedules; the library stays installed."""
    from diffalign.commands import new_repository

    typer.echo(new_repository.new(STARTED / path, preset))


@app.command()
def upgrade() -> None:
    """Bring your repository to the installed version. Says what runs again; for use after pip install -U."""
    from diffalign.commands import new_repository

    typer.echo(new_repository.upgrade())


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="A file in presets/, without .yaml.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an edited params.yaml.")] = False,
) -> None:
    """Replace params.yaml by presets/NAME.yaml. An edited one is kept unless --force."""
    from diffalign.config import presets

    typer.echo(presets.use(name, force))


@app.command("set")
def set_params(
    changes: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE, such as policies.dpo.beta=500.")] = None,
    preset: Annotated[str | None, typer.Option(help="Replace params.yaml by this preset first.")] = None,
) -> dict[str, Any]:
    """Write values into params.yaml. Comments stay; the file before is kept in runs/params."""
    from diffalign.config import overrides

    values = overrides.parsed(changes or [])
    typer.echo(overrides.write(values, preset))
    return values


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="sd15, pickapic_v2, ...; what params.yaml needs.")] = None,
    rewards: Annotated[bool, typer.Option("--rewards", help="The names are of rewards: bring their weights.")] = False,
    files: Annotated[int | None, typer.Option(min=1, help="At most so many training files of a data set.")] = None,
    repo: Annotated[str | None, typer.Option(help="OWNER/NAME of another copy on the hub.")] = None,
    revision: Annotated[str | None, typer.Option(help="Another commit, or its first digits.")] = None,
) -> None:
    """Bring the pinned data and models from their hub. Resumable; needs a network."""
    from diffalign.config.load import load

    params = load()
    if rewards:
        from diffalign.rewards.parts import fetching

        if files or repo or revision:
            raise UserError("fetch --rewards: expected names of rewards alone, got --files, --repo or --revision too")
        settings = params.model_dump()["rewards"]
        fetching.run(names or fetching.needed(settings), settings)
        return
    from diffalign.data.hub import fetch  # after params were read: their errors don't wait for it

    fetch.run(params.inputs(), names or (), files, repo, revision)


@app.command()
def pretrain_demo(
    seed: Annotated[int, typer.Option(help="Of the pictures, the weights and the raters.")] = 0,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Ask the raters only.")] = False,
) -> None:
    """Rebuild assets/: the tiny model and its comparisons. Hours on a CPU; uses a GPU where there is one; resumable."""
    from diffalign.shapes.build import rebuild

    rebuild.run(seed, keep_model)


def main() -> None:
    """Runs the command line in the project's folder.

    UserError is one message and exit code 2; an Outage, and Stopped, one and 75.
    """
    collector.rare_while_loading()
    os.chdir(home.project(ROOT))
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(STOPPED if isinstance(error, Outage) else 2)
    except Stopped as stop:
        sys.stderr.write(f"stopped: {stop}\n")
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
