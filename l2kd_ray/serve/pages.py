"""The pages: what a request asks for becomes HTML. Every text is escaped by the templates."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from l2kd_ray.analysis.design import ArmId
from l2kd_ray.analysis.forgotten import forgotten
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.store import Damaged
from l2kd_ray.families.language.stages.replay import SAMPLES
from l2kd_ray.names import SEPARATOR
from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import count, method_label, task_labels
from l2kd_ray.report.page import asset, marks, variables
from l2kd_ray.report.sentences import doubt_words
from l2kd_ray.serve.drawing import curve_panel, tree_picture
from l2kd_ray.serve.shelf import Contents, Loaded
from l2kd_ray.study import Trial, yaml12
from l2kd_ray.study.answers import answers
from l2kd_ray.study.curves import curves_of
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.overview import StudyProgress
from l2kd_ray.study.replays import replays
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.tree import tree, users

T = TypeVar("T")
Parameters = Mapping[str, str]

_PANELS = 24
_EXAMPLES = 20
_SAMPLES = 12
"""Most panels of curves, examples with answers, and samples of a replay stage on one page."""


@dataclass(frozen=True)
class Choice:
    """A list of a form: what can be chosen, and what is."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    """Values and their labels."""
    value: str

    @property
    def has_options(self) -> bool:
        """True if there is something to choose."""
        return len(self.options) > 1

    @classmethod
    def of(
        cls, query: Parameters, name: str, label: str, options: Iterable[tuple[str, str]]
    ) -> Choice:
        """The option that the query names; the first one where it names none of them."""
        known = list(options)
        asked = query.get(name, "")
        value = asked if asked in dict(known) else known[0][0] if known else ""
        return cls(name, label, known, value)


def style_sheet() -> str:
    """The report's style sheet, with what the pages have beside."""
    own = files("l2kd_ray.serve").joinpath("serve.css").read_text(encoding="utf-8")
    return f"{variables()}\n{asset('page.css')}\n{own}"


def script() -> str:
    return files("l2kd_ray.serve").joinpath("page.js").read_text(encoding="utf-8")


def report_script() -> str:
    """The script of a report's page, as it stands between its tags."""
    return f"\n{asset('report.js')}"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("l2kd_ray.serve"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=_ago,
        marks=lambda words: Markup(marks(words)),
        count=count,
        number=text,
    )
    return environment


def render(template: str, /, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def studies_page(contents: Contents | None, root: str) -> str:
    return render("studies.html", contents=contents, root=root)


def study_page(study: StudyProgress, loaded: Loaded | None, problem: str, *, report: bool) -> str:
    """A study as it grows; `problem` says why its file cannot be read, "" where it can."""
    rows: list[dict[str, Any]] = []
    doubts: list[str] = []
    tasks: list[str] = []
    if loaded is not None:
        tasks = loaded.snapshot.study.tasks
        gaps = {} if loaded.gaps.empty else _by_arm(loaded.gaps)
        settings = Counter(method for method, _ in loaded.progress)
        for arm, (done, every) in loaded.progress.items():
            row = gaps.get(arm, {})
            scores = [float(row.get(f"gap/{task}", float("nan"))) for task in tasks]
            gap = float(row.get("gap/abs", float("nan")))
            rows.append(
                {"label": loaded.arms[arm], "done": done, "every": every}
                | {"gap": gap, "tasks": scores}
                | {"selected": settings[arm[0]] > 1 and bool(row.get("selected"))}
            )
        rows.sort(key=lambda row: (row["gap"] != row["gap"], row["gap"]))
        if len(loaded.snapshot.scores):
            doubts = list(doubt_words(loaded.snapshot.doubts))
    return render(
        "study.html",
        study=study,
        loaded=loaded,
        problem=problem,
        rows=rows,
        doubts=doubts,
        tasks=list(task_labels(tasks).values()),
        report=report,
    )


def _by_arm(gaps: pd.DataFrame) -> dict[ArmId, Mapping[str, Any]]:
    records = gaps.to_dict("records")
    return {(row["method"], row["setting"]): {str(k): v for k, v in row.items()} for row in records}


def curves_page(study: StudyProgress, loaded: Loaded, query: Parameters) -> str:
    snapshot = loaded.snapshot
    trials = list(snapshot.trials)
    arm = Choice.of(query, "method", "Method", [("", "all"), *_arm_options(loaded)])
    order = Choice.of(query, "order", "Order", [("", "all"), *_orders(trials)])
    seed = Choice.of(query, "seed", "Seed", [("", "all"), *_seeds(trials)])
    chosen = _chosen(trials, arm.value, order.value, seed.value)
    begun = [t for t in chosen if any(c.stage.model.key in snapshot.manifests for c in t.cells)]
    curves = curves_of(snapshot, begun[:_PANELS])
    names = [n for n in curves.columns[curves.columns.get_loc("step") + 1 :] if n != "tokens"]
    measure = Choice.of(query, "measure", "Measure", [(str(n), str(n)) for n in names])
    panels = []
    if len(curves):
        values = curves[measure.value].dropna()
        limits = float(min(values.min(), 0)), float(values.quantile(0.99))
        panels = [
            (_title(trial, loaded), curve_panel(own, measure.value, limits))
            for trial in begun[:_PANELS]
            if (own := curves[curves["trial"] == trial.id])[measure.value].notna().any()
        ]
    return render(
        "curves.html",
        study=study,
        choices=[arm, order, seed, measure],
        panels=panels,
        more=max(len(begun) - _PANELS, 0),
    )


def tree_page(study: StudyProgress, loaded: Loaded, query: Parameters) -> str:
    snapshot = loaded.snapshot
    seed = Choice.of(query, "seed", "Seed", _seeds(loaded.trials))
    needed = users(snapshot.trials)
    finished = snapshot.reader.listing().finished
    labels = task_labels(snapshot.study.tasks)
    trees = []
    for arm, label in loaded.arms.items():
        own = _chosen(loaded.trials, _arm_value(arm), "", seed.value)
        root = tree(own, needed, finished, snapshot.failed)
        if root is not None:
            trees.append((label, tree_picture(root, labels)))
    counts = [(role, one) for role, one in snapshot.plan.stages.items() if one.unique]
    return render("tree.html", study=study, choices=[seed], trees=trees, counts=counts)


def answers_page(study: StudyProgress, loaded: Loaded, query: Parameters) -> str:
    """Two methods side by side on one instance and task, the most forgotten examples first."""
    trials = loaded.trials
    arms = _arm_options(loaded)
    one = Choice.of(query, "method", "Method", arms)
    other = Choice.of(query, "beside", "Beside", [*arms[1:], *arms[:1]])
    order = Choice.of(query, "order", "Order", _orders(trials))
    seed = Choice.of(query, "seed", "Seed", _seeds(trials))
    tasks = order.value.split(SEPARATOR) if order.value else loaded.snapshot.study.tasks
    task = Choice.of(query, "task", "Task", [(name, name) for name in tasks])
    sort = Choice.of(
        query, "sort", "First", [("lost", "most forgotten"), ("data", "as in the data")]
    )
    start = _number(query.get("from", ""))
    values = list(dict.fromkeys([one.value, other.value]))
    own = [t for value in values for t in _chosen(trials, value, order.value, seed.value)]
    examples: list[dict[str, Any]] = []
    problem, total = "", 0
    try:
        found = answers(loaded.snapshot, own, [task.value])
        examples, total = _examples(found, sort.value, start)
    except Damaged as damage:
        problem = f"A stage's files are dropped or damaged: {damage}"
    names = {trial.id: _label(trial, loaded) for trial in own}
    return render(
        "answers.html",
        study=study,
        choices=[one, other, task, order, seed, sort],
        examples=examples,
        names=names,
        problem=problem,
        total=total,
        start=start,
        step=_EXAMPLES,
        query={c.name: c.value for c in (one, other, task, order, seed, sort)},
    )


def _examples(found: pd.DataFrame, sort: str, start: int) -> tuple[list[dict[str, Any]], int]:
    """The examples of one page with the answers of each trial, and the number of all examples."""
    lost = forgotten(found).groupby("example")["lost"].max()
    examples = list(dict.fromkeys(found["example"]))
    if sort == "lost":
        examples.sort(key=lambda one: -lost.get(one, float("-inf")))
    shown = examples[start : start + _EXAMPLES]
    rows = found[found["example"].isin(shown)]
    page = []
    for example in shown:
        own = rows[rows["example"] == example]
        said = {
            trial: [
                {"i": row["i"], "j": row["j"], "answer": row["answer"], "score": row["score"]}
                for row in of_trial.to_dict("records")
            ]
            for trial, of_trial in own.groupby("trial", sort=False)
        }
        first = own.iloc[0]
        page.append(
            {"id": example, "input": first["input"], "reference": first["reference"]}
            | {"lost": float(lost.get(example, float("nan"))), "said": said}
        )
    return page, len(examples)


def replay_page(study: StudyProgress, loaded: Loaded, query: Parameters) -> str:
    snapshot = loaded.snapshot
    writers = [t for t in loaded.trials if any(True for _ in replays(t))]
    options = [(v, n) for v, n in _arm_options(loaded) if _chosen(writers, v, "", "")]
    arm = Choice.of(query, "method", "Method", options)
    order = Choice.of(query, "order", "Order", _orders(writers))
    seed = Choice.of(query, "seed", "Seed", _seeds(writers))
    stages = []
    for trial in _chosen(writers, arm.value, order.value, seed.value)[:1]:
        for i, stage in replays(trial):
            manifest = snapshot.manifests.get(stage.key)
            samples = [] if manifest is None else _samples(loaded, manifest)
            stages.append(
                {"i": i, "before": trial.order[i], "key": stage.key, "samples": samples}
                | {"scores": {} if manifest is None else manifest.scores}
            )
    return render("replay.html", study=study, choices=[arm, order, seed], stages=stages)


def _samples(loaded: Loaded, manifest: Manifest) -> list[dict[str, Any]]:
    if SAMPLES not in manifest.files:
        return []
    try:
        content = loaded.snapshot.reader.store.content(manifest, SAMPLES)
    except Damaged:
        return []
    lines = [json.loads(line) for line in content.split(b"\n")[:_SAMPLES] if line]
    return [
        {
            "task": line.get("task", ""),
            "question": line.get("question", line.get("text", "")),
            "answer": line.get("answer", ""),
            "faults": ", ".join(line.get("faults") or ()),
        }
        for line in lines
    ]


def stage_page(manifest: Manifest) -> str:
    return render("stage.html", stage=manifest, body=yaml12.dump(json.loads(manifest.to_json())))


def _arm_value(arm: ArmId) -> str:
    return f"{arm[0]} {arm[1]}"


def _arm_options(loaded: Loaded) -> list[tuple[str, str]]:
    return [(_arm_value(arm), label) for arm, label in loaded.arms.items()]


def _of(trials: Iterable[Trial], part: Callable[[Trial], T]) -> list[T]:
    return list(dict.fromkeys(map(part, trials)))


def _orders(trials: Iterable[Trial]) -> list[tuple[str, str]]:
    orders = _of((t for t in trials if t.order), lambda trial: trial.order)
    return [(order_id(order), " > ".join(order)) for order in orders]


def _seeds(trials: Iterable[Trial]) -> list[tuple[str, str]]:
    return [(seed, seed) for seed in _of(trials, lambda trial: str(trial.seed))]


def _chosen(trials: Iterable[Trial], arm: str, order: str, seed: str) -> list[Trial]:
    """The trials of an arm, order and seed; "" stands for all, and a trial without an order is in
    every order."""
    return [
        trial
        for trial in trials
        if arm in ("", _arm_value((trial.method, setting_id(trial.setting))))
        and order in ("", order_id(trial.order) or order)
        and seed in ("", str(trial.seed))
    ]


def _label(trial: Trial, loaded: Loaded) -> str:
    arm = trial.method, setting_id(trial.setting)
    return loaded.arms.get(arm) or method_label(trial.method)


def _title(trial: Trial, loaded: Loaded) -> str:
    return f"{_label(trial, loaded)}, seed {trial.seed}"


def _number(words: str) -> int:
    return int(words) if words.isascii() and words.isdigit() and len(words) < 9 else 0


def _ago(seconds: float) -> str:
    """How long ago a time in seconds since 1970 was, such as `5 min ago`."""
    passed = max(time.time() - seconds, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return "just now"
