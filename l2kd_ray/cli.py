"""The `l2kd` command: its arguments, its output and its exit codes. It holds no logic.

0: done; 1: a plug-in breaks a law, or nobody reads the output any more (`| head`); 2: bad input; 3:
the time budget is reached; 4: some stages failed, or the machine did (the rest is kept); 129, 130,
143: stopped by SIGHUP, Ctrl-C, SIGTERM.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.study import yaml12
from l2kd_ray.study.reading import parse_overrides

if TYPE_CHECKING:
    from l2kd_ray.experiment import Experiment
    from l2kd_ray.study.snapshot import Snapshot

_BROKEN, _BAD_INPUT, _BUDGET, _FAILED, _INTERRUPTED = 1, 2, 3, 4, 130

app = typer.Typer(
    help="Train lifelong language models over every task order on Ray, and measure how far each "
    "method ends below multi-task training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file (YAML), or the name of a study.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings that replace those of the file, such as kd.temperature=2.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_OF_STORAGE = "The folder or URL that holds the stages."
Storage = Annotated[str | None, typer.Option(help=_OF_STORAGE)]
StorageArgument = Annotated[str | None, typer.Argument(metavar="[STORAGE]", help=_OF_STORAGE)]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"l2kd-ray {version('l2kd-ray')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the command itself; each verb has its own."""


def _load(study: str, overrides: list[str] | None) -> Experiment:
    from l2kd_ray.api import load_study

    return load_study(study, parse_overrides(overrides or []))


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    as_json: Json = False,
    std: Annotated[
        list[str] | None,
        typer.Option(
            help="Foretell the precision for a standard deviation of the gap, in points: of an "
            "order's mean, a seed's mean, or what is left: order=2, seed=4, both=1; may be "
            "repeated."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Simulate the sweep on this cluster, such as 'head + 0..64 x g5.xlarge spot'."
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help="With --cluster: say what is complete after this time, such as 8h."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="With --cluster: say what is complete for this sum, such as 200usd."),
    ] = None,
    seconds: Annotated[
        list[str] | None,
        typer.Option(
            help="With --cluster: assumed seconds per stage of a kind, such as learn=600; may be "
            "repeated."
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            help="With --cluster: an assumption about the cluster, such as "
            "preempted_per_hour=0.1; may be repeated."
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="With --cluster: a price table of your own (a YAML file)."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            help="First run a small stage of each kind that has none in the store, here, and keep "
            "it: the estimate is then of this model."
        ),
    ] = False,
) -> None:
    """Count a study's stages (unshared, shared, stored, to do) and estimate time and disk; or
    simulate the sweep on a cluster."""
    experiment = _load(study, overrides)
    if measure:
        for one in experiment.measure():
            print(f"Measured: {one.kind}, {one.seconds:.1f} s", file=sys.stderr, flush=True)
    if cluster is not None:
        prospect = experiment.forecast(
            cluster, deadline, budget, seconds or (), assume or (), prices
        )
        print(_json(prospect.to_json()) if as_json else "\n".join(prospect.lines()))
        return
    planned = experiment.plan(std or ())
    if as_json:
        print(_json(planned.to_json()))
        return
    from l2kd_ray.report.console import print_table
    from l2kd_ray.report.data_section import data_notes, rows_line
    from l2kd_ray.report.planning import plan_words, stage_table, trial_words

    print(trial_words(experiment.study))
    print_table(stage_table(experiment.study, planned))
    _print_search(experiment)
    print(f"Examples (train / dev / test): {rows_line(planned.data)}. More: l2kd data {study}")
    _print_notes(data_notes(planned.data))
    print("\n".join(plan_words(planned)))


@app.command()
def data(study: StudyFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show a study's data: rows read and kept of each split, labels, what is cut or repeated."""
    found = _load(study, overrides).data()
    if as_json:
        print(_json([one.to_json() for one in found]))
        return
    from l2kd_ray.report.console import print_table
    from l2kd_ray.report.data_section import data_notes, data_table
    from l2kd_ray.report.terminal import rich_table

    print_table(rich_table(data_table(found)))
    _print_notes(data_notes(found))


def _json(data: object) -> str:
    """`data` as JSON, which has no NaN: what is not known is null."""

    def known(value: object) -> object:
        if isinstance(value, Mapping):
            return {str(name): known(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [known(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(data))


def _snapshot(experiment: Experiment) -> Snapshot:
    """The study as it is now; says if it is not the one that was swept last under its name."""
    now = experiment.snapshot()
    if (words := experiment.unlike_the_last_sweep(now)) is not None:
        print(
            f"Not as it was swept last ({words}). As it was swept: give its name, "
            f"{experiment.name}, in place of its file.",
            file=sys.stderr,
        )
    return now


def _print_search(experiment: Experiment) -> None:
    from l2kd_ray.report.planning import order_search_words

    if (words := order_search_words(experiment.study)) is not None:
        print(words)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(note.replace("**", ""))


@app.command()
def sweep(
    study: StudyFile,
    overrides: Overrides = None,
    inline: Annotated[
        bool, typer.Option(help="Run every stage in this process, without Ray.")
    ] = False,
    address: Annotated[
        str, typer.Option(help="The Ray cluster to join, such as auto; local starts one here.")
    ] = "local",
) -> None:
    """Run a study. Run again, it does only what is missing."""
    from l2kd_ray.cluster.guard import Stopped, guarded, say_stopped, stoppable

    with stoppable():
        try:
            if not inline and (code := guarded()) is not None:
                raise typer.Exit(code)
            _sweep(study, overrides, inline, address)
        except Stopped as stop:
            say_stopped()
            raise typer.Exit(stop.code) from None


def _sweep(study: str, overrides: list[str] | None, inline: bool, address: str) -> None:
    from l2kd_ray.report.live import clock

    experiment = _load(study, overrides)
    ended = experiment.sweep("inline" if inline else "ray", address)
    _show(experiment, ended.snapshot)
    print(
        f"{ended.stages} stages: {ended.ran} run in {clock(ended.seconds)}, "
        f"{ended.stages - ended.ran} from the store."
    )
    if ended.verdict:
        print(ended.verdict)
    for failure in ended.failures:
        print(f"failed: {failure['kind']} {failure['key']}: {failure['error']}", file=sys.stderr)
    if ended.failures:
        print(
            f"{len(ended.failures)} stages failed; what is finished is kept. Tracebacks: "
            f"l2kd status {study}. To try them again: {experiment.command}",
            file=sys.stderr,
        )
        raise typer.Exit(_FAILED)
    if ended.late:
        print(
            "The time of tune.stop.budget_hours is over; what is finished is kept. The same "
            "command goes on, for as long again.",
            file=sys.stderr,
        )
        raise typer.Exit(_BUDGET)


@app.command()
def submit(
    study: StudyFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(help="The address of the cluster's dashboard, or of a tunnel to it.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option(help="Print the job's log until the job ends.")] = True,
) -> None:
    """Submit a study to a Ray cluster as a job, which goes on without this machine."""
    from l2kd_ray.api import submit_study

    job = submit_study(study, parse_overrides(overrides or []), overrides or [], address)
    again = shlex.join(["l2kd", "status", study, *(overrides or [])])
    print(f"Submitted as {job}. To see how far it is, from anywhere: {again}")
    if follow:
        from l2kd_ray.cluster.submit import follow as follow_job

        try:
            raise typer.Exit(follow_job(job, address))
        except KeyboardInterrupt:
            print("\nThe job goes on; its log is on the dashboard.", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from None


@app.command()
def status(study: StudyFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show how much of a study is done, whether or not a sweep is running."""
    experiment = _load(study, overrides)
    state = experiment.status(_snapshot(experiment))
    if as_json:
        print(_json(state.to_json()))
        return
    print(f"A sweep is running: {state.live}" if state.live else "No sweep is running.")
    _print_search(experiment)
    print(f"{state.trials_done} of {state.trials} trials are finished in {experiment.folder}.")
    for role, (done, wanted) in state.stages.items():
        print(f"  {role:<10} {done} of {wanted}")
    for failure in state.failures:
        print(f"failed: {failure['kind']} {failure['key']}: {failure['error']}")
        print(failure["traceback"])


@app.command()
def watch(
    study: StudyFile,
    overrides: Overrides = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
) -> None:
    """Show a study live, from any machine that reaches its storage and data: what is done,
    what runs where, when it will end, the gap so far."""
    from rich.console import Console

    from l2kd_ray.report.live import LiveView, picture, rows_of

    look = _load(study, overrides).look()
    with LiveView(look, sys.stdout) as view, suppress(KeyboardInterrupt):
        while not once and not view.watch():
            time.sleep(1.0)
    found = look()
    said = f"A sweep is running: {found.live}" if found.live else "No sweep is running."
    Console().print(picture(said, rows_of(found), found.failures, found))


@app.command()
def report(
    study: StudyFile,
    overrides: Overrides = None,
    mirror: Annotated[
        bool, typer.Option(help="Also show the results in the mirrors of report_to, such as W&B.")
    ] = False,
) -> None:
    """Write the report of what is finished: tables, figures and one HTML page."""
    experiment = _load(study, overrides)
    snapshot = experiment.snapshot()
    experiment.report(snapshot, mirror=mirror)
    _show(experiment, snapshot)


def _show(experiment: Experiment, snapshot: Snapshot) -> None:
    from l2kd_ray.report import terminal_table
    from l2kd_ray.report.console import print_table
    from l2kd_ray.report.data_section import data_notes
    from l2kd_ray.report.search_section import search_words
    from l2kd_ray.report.sentences import doubt_words, top_k_words
    from l2kd_ray.study.evidence import inference, order_findings, top_k_bias

    if len(snapshot.scores):
        _print_notes(doubt_words(snapshot.doubts))
        _print_notes(data_notes(experiment.data(snapshot)))
        print_table(terminal_table(snapshot.selectable, **inference(snapshot)))
        for bias in top_k_bias(snapshot.manifests.values()):
            print(top_k_words(bias))
        if (found := order_findings(snapshot)) is not None:
            _print_notes([search_words(found)])
        print(f"Report: {experiment.store.address(f'studies/{experiment.name}/report.html')}")


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder of your data and of the study.")
    ] = Path(),
) -> None:
    """Write a commented study file to begin with, for the data files of a folder."""
    from l2kd_ray.study.template import new_study

    file, own = new_study(folder)
    tasks = f"of {', '.join(own)}" if own else "of generated tasks, as no data files are there"
    again = shlex.join(["l2kd", "plan", str(file)])
    print(f"Wrote {file}, a study {tasks}. What it will run: {again}")


@app.command()
def demo(overrides: Overrides = None) -> None:
    """Run the shipped study `quickstart`: generated tasks, tiny models, minutes on 2 cores."""
    print("This is `l2kd sweep quickstart`; `l2kd plan quickstart` says what it runs.", flush=True)
    sweep("quickstart", overrides)
    print("To look at it in a browser, now or while it runs: l2kd serve")
    print("Your own data: l2kd init FOLDER, which writes a study of the files there.")


@app.command("list")
def list_(storage: StorageArgument = None, as_json: Json = False) -> None:
    """List the studies of a storage, and those that come with the package."""
    from l2kd_ray.api import DEFAULT_STORAGE, list_studies, shipped_studies

    found = list_studies(storage)
    if as_json:
        shipped = {name: str(file) for name, file in shipped_studies().items()}
        print(_json({"studies": [one.to_json() for one in found], "shipped": shipped}))
        return
    if not found:
        print(f"No study was swept in {storage or DEFAULT_STORAGE}.")
    for one in found:
        state = "running, " if one.live else f"{len(one.failures)} failed, " if one.failures else ""
        print(f"{one.name}: {state}{one.stages_done} of {one.stages} stages")
        if one.headline:
            print(f"  {one.headline.replace('**', '')}")
    print(f"Shipped with the package: {', '.join(shipped_studies())} (l2kd plan NAME)")


@app.command()
def answers(
    study: StudyFile,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="Show the answers of this task alone.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Show the answers of this method alone.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="The order, as a>b>c; default: the first one.")
    ] = None,
    seed: Annotated[str | None, typer.Option(help="The seed; default: the first one.")] = None,
    example: Annotated[
        str | None, typer.Option(help="An example's id; default: the most forgotten ones.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Examples of each task at most.")] = 3,
    as_json: Json = False,
) -> None:
    """Show what the students answer to test examples after each task: what was forgotten, example
    by example."""
    from l2kd_ray.report.answers_section import answer_lines
    from l2kd_ray.study.answers import most_forgotten

    experiment = _load(study, overrides)
    found = experiment.answers(
        task,
        method,
        order or experiment.first_order,
        seed or experiment.first_seed,
        snapshot=_snapshot(experiment),
    )
    found = most_forgotten(found, most) if example is None else found[found["example"] == example]
    if found.empty:
        raise InputError("no such answer is finished", where=study, fix=experiment.command)
    if as_json:
        print(_json(found.to_dict("records")))
        return
    print("\n".join(answer_lines(found)))


@app.command()
def serve(
    storage: StorageArgument = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; other machines reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8275,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="L2KD_TOKEN",
            help="The secret of its readers; required where the host is not this machine alone.",
        ),
    ] = None,
) -> None:
    """Show the studies of a storage in a browser, while they run and after: progress, curves, the
    tree of stages, answers, replay. Nothing is written."""
    from l2kd_ray.api import DEFAULT_STORAGE
    from l2kd_ray.serve.app import serve

    serve(storage or DEFAULT_STORAGE, host, port, token)


@app.command()
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY STUDY...", help="Study files (YAML), or names of studies."),
    ],
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="METHOD METHOD",
            help="The two methods to compare; default: all pairs that the studies share.",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Compare methods over several studies: in how many streams of tasks one ends nearer to
    multi-task, and the mean difference."""
    from l2kd_ray.api import compare_studies
    from l2kd_ray.report.comparison_streams import stream_notes, stream_sections
    from l2kd_ray.report.terminal import print_section

    found, streams = compare_studies(studies, pair, storage)
    notes = list(stream_notes(streams))
    if as_json:
        print(_json({**found.to_json(), "notes": notes}))
        return
    for section in stream_sections(found):
        print_section(section)
    _print_notes(notes)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="A stage's key, or the first digits of it.")],
    other: Annotated[
        str | None, typer.Argument(help="A second key: show why the two stages differ.")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show what a stage computed, from which inputs, when and by which version; or why two
    stages differ."""
    from l2kd_ray.api import open_store
    from l2kd_ray.core.reader import StoreView
    from l2kd_ray.study.explain import differences, find

    reader = StoreView(open_store(storage))
    found = find(reader, key)
    body: object = json.loads(found.to_json())
    if other is not None:
        body = differences(reader, found, find(reader, other))
    if as_json:
        print(_json(body))
        return
    print(yaml12.dump(body), end="")


@app.command()
def gc(
    storage: Storage = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="The name of a study whose stages may go; may be repeated."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove the files (default: list them).")
    ] = False,
) -> None:
    """List (or remove) what no study of a storage needs: stages of dropped studies and lost
    attempts."""
    from l2kd_ray.api import open_store
    from l2kd_ray.study.garbage import collect, find_garbage

    store = open_store(storage)
    garbage = find_garbage(store, drop or [])
    for item in garbage:
        print(f"{item.bytes / 1e6:9.1f} MB  {item.folder}  {item.reason}")
    total = sum(item.bytes for item in garbage) / 1e6
    if remove:
        collect(store, garbage, drop or [])
        print(f"{len(garbage)} folders removed, {total:.1f} MB.")
    else:
        print(f"{len(garbage)} folders could go, {total:.1f} MB. To remove them: --remove")


@app.command()
def export(
    trial: Annotated[
        str, typer.Argument(help="The trial's id: the column `trial` of results.parquet.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to copy the model to.")],
    study: Annotated[str, typer.Option(help="The trial's study: its file or its name.")],
    task: Annotated[
        str | None, typer.Option(help="The student of this task, where each has its own.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting (key=value) that replaces that of the file."),
    ] = None,
) -> None:
    """Copy a trial's final student to a folder that Hugging Face transformers can load."""
    experiment = _load(study, overrides)
    print(f"Exported to {experiment.export(trial, folder, task, _snapshot(experiment))}")


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks that a study can name: kind, metrics, hub dataset; with --json also the files
    below data_dir."""
    from rich.table import Table

    from l2kd_ray.report.console import print_table
    from l2kd_ray.tasks import registered

    if as_json:
        print(_json([asdict(task) for _, task in sorted(registered().items())]))
        return
    table = Table(box=None)
    for column in ("task", "kind", "metric", "hub", "description"):
        table.add_column(column)
    for name, task in sorted(registered().items()):
        metrics = ", ".join((task.metric, *task.extras))
        table.add_row(name, task.kind, metrics, task.hub or "", task.description)
    print_table(table)


@app.command()
def check_plugin(
    plugin: Annotated[
        str,
        typer.Argument(help="Its name in a study file: ./file.py:name, or package.module:name."),
    ],
    kind: Annotated[
        str,
        typer.Option(help="One of methods, divergences, metrics, filters and readers."),
    ] = "methods",
) -> None:
    """Check that a method, divergence, metric, replay filter or reader keeps the rules."""
    from l2kd_ray.testing.plugins import CHECKS, run_all

    if kind not in CHECKS:
        raise InputError(
            "no such kind",
            key="--kind",
            got=kind,
            expected=", ".join(CHECKS),
            fix=did_you_mean(kind, CHECKS),
        )
    if not run_all(plugin, kind):
        raise typer.Exit(_BROKEN)


@app.command()
def doctor(
    storage: Storage = None,
    address: Annotated[
        str | None, typer.Option(help="Also check every node of this Ray cluster, such as auto.")
    ] = None,
) -> None:
    """Check versions, storage and GPUs of this machine (or of a cluster), and say what to fix."""
    from l2kd_ray.doctor import examine

    findings = []
    for finding in examine(storage, address):
        findings.append(finding)
        print(finding, flush=True)
    if any(not finding.good for finding in findings):
        raise typer.Exit(_BAD_INPUT)


_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "×": "x", "›": ">", "…": "..."})  # noqa: RUF001


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the output's encoding does not have; a minus stays one."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode(error.encoding, "replace").decode(error.encoding), error.end


def main() -> None:
    """Run the command; what the user can fix is printed as a short message, without a traceback."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_BAD_INPUT)
    except OSError as error:
        print(
            f"error: {error}\n  what is finished is kept; fix this and run the same command again",
            file=sys.stderr,
        )
        sys.exit(_FAILED)
    except RuntimeError as error:
        from l2kd_ray.core.store import Damaged

        if not isinstance(error, Damaged):
            raise
        print(f"error: {error}\n  the next sweep computes it again", file=sys.stderr)
        sys.exit(_FAILED)
    finally:
        _flush()


def _flush() -> None:
    """Write what is left of the output; end quietly if nobody reads it any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # Python would try again at its end, and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN)


if __name__ == "__main__":
    main()
