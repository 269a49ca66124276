"""The sections on where the numbers come from: keys, failures, cost, the command, the words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from l2kd_ray.analysis.findings import Findings
from l2kd_ray.report.blocks import SETTING, Block, Fold, Prose, ReportSection, Table, Verbatim
from l2kd_ray.report.labels import (
    count,
    method_label,
    order_labels,
    row_labels,
    setting_label,
    task_labels,
)
from l2kd_ray.study import yaml12

_MOST_TRACED = 300
"""Trials that the page itself traces; the CSV file traces all."""

_WORDS = (
    "**Gap**: a task's multi-task score minus its score at the end of the stream, of the same "
    "seed; then the mean over tasks, orders and seeds.",
    "**Relative gap**: the mean gap over the mean multi-task score.",
    "**95 % interval**: of the mean over orders, then seeds. With all orders run, Student's t over "
    "the seeds' means; with a random sample of them, for all orders, with the spread of orders in "
    "it; a list of orders holds for itself only. A seed draws weights, batches, replay and, where "
    "a cap cuts them, the training examples. Conditional on the test sets and on the settings.",
    "**Std of order, seed, order x seed**: roots of the variance components of the gap.",
    "**Gap closed**: 1 - gap / LAMOL's gap, on the instances that both have complete, with "
    "Fieller's interval.",
    "**Forgetting (max)**: a task's best score on the way minus its final one; **(first)**: its "
    "score right after it was learned minus its final one. The last task is not counted.",
    "**BWT**: final score minus the score right after learning, negative where forgotten.",
    "**FWT**: score just before a task is learned minus the untrained model's.",
    "**Intransigence**: single-task score minus the score right after learning.",
)


def trace_section(found: Findings) -> ReportSection:
    """The student and the evaluations behind every final score."""
    whole = found.results.loc[found.results["complete"], "trial"]
    # A trial half-way has a last score, and it is no final one.
    scores = found.scores[found.scores["split"].eq("test") & found.scores["trial"].isin(whole)]
    final = scores[scores["i"] == scores.groupby("trial")["i"].transform("max")]
    keys = final.pivot(index="trial", columns="task", values="key")
    students = final.groupby("trial")["model"].first()
    rows = found.results[found.results["trial"].isin(keys.index)]
    shown = rows.head(_MOST_TRACED).reset_index(drop=True)
    orders, legend = order_labels(sorted(set(shown["order"]) - {""}))
    frame = pd.DataFrame(
        {
            "Method": [method_label(method) for method in shown["method"]],
            "Setting": [setting_label(setting) for setting in shown["setting"]],
            "Order": [orders.get(order, "") for order in shown["order"]],
            "Seed": shown["seed"],
            "Trial": shown["trial"],
            "Student": students.reindex(shown["trial"]).to_numpy(),
        }
    )
    evaluations = task_labels(found.tasks)
    for task, label in evaluations.items():
        if task in keys:
            frame[label] = keys[task].reindex(shown["trial"]).to_numpy()
    cut = f"The first {len(shown):,} of {len(rows):,} trials. " if len(shown) < len(rows) else ""
    table = Table(
        "trace",
        f"{cut}The stages of every final score: its student, and its evaluation on each task. A "
        "gap is such a cell of multi-task minus that of the trial of the same seed. "
        f"`tables/trace.csv` has every cell.{f' Orders: {legend}.' if legend else ''}",
        frame,
        codes=frozenset(["Trial", "Student", *evaluations.values()]),
    )
    example = str(final["key"].min()) if len(final) else "KEY"
    return ReportSection(
        "Where each number comes from",
        (
            Prose(
                "Every cell has a key. This command shows what a key stands for, its inputs, and "
                "when and how long it ran:"
            ),
            Verbatim(f"l2kd explain {example}"),
            Fold(f"The keys of {count(len(rows), 'trial')}", (table,)),
        ),
    )


def cost_section(
    costs: pd.DataFrame | None,
    work: pd.DataFrame | None,
    gap: pd.DataFrame | None,
    spent: pd.DataFrame | None = None,
) -> list[ReportSection]:
    if costs is None or costs.empty:
        return []
    prices = [] if work is None or work.empty or gap is None else [_price_table(work, gap)]
    total = costs.select_dtypes("number").sum().to_dict() | {"kind": "total"}
    if "peak_gb" in costs:
        total["peak_gb"] = costs["peak_gb"].max()
    frame = pd.concat([costs, pd.DataFrame([total])], ignore_index=True)
    for name in {"stages", "unshared"} & set(frame):
        frame[name] = frame[name].fillna(0).astype(int)
    if total.get("seconds", 0) >= 3600:
        frame["hours"] = frame.pop("seconds") / 3600
    frame = frame.rename(columns={"peak_gb": "peak memory, GB"})
    frame.columns = pd.Index([str(name)[:1].upper() + str(name)[1:] for name in frame.columns])
    caption = (
        "Time of the stages. Each is counted once, however many trials share it. Peak memory: the "
        "most that a process of such a stage held, of the card's memory if it had one."
    )
    if "Unshared" in frame:
        caption += " Unshared: how many the trials would take, each by itself."
    table = Table(
        "costs",
        caption,
        frame,
        strong=frozenset((len(frame) - 1, name) for name in frame.columns),
    )
    arms = [] if spent is None or spent.empty else [_spent_table(spent)]
    return [ReportSection("Cost", (table, *prices, *arms))]


def _spent_table(spent: pd.DataFrame) -> Table:
    """The hours and the money of each method and setting so far."""
    frame = pd.DataFrame({"Method": row_labels(spent), "Core-hours": spent["core_hours"]})
    if spent["gpu_hours"].any():
        frame["GPU-hours"] = spent["gpu_hours"]
    frame["USD"] = spent["usd"]
    words = (
        "Spent on each method by itself, evaluation included: all its finished stages, each once. "
        "Methods share stages, so the rows add up to more than was spent. Core-hours: of stages "
        f"without a GPU. Prices: {spent['prices'].iloc[0]}."
    )
    return Table("spent", words, frame, digits=dict.fromkeys(frame.columns[1:], SETTING))


def _price_table(work: pd.DataFrame, gap: pd.DataFrame) -> Table:
    """The cost of a trial of each method beside its gap."""
    rows = gap.merge(work, on=["method", "setting"], how="inner")
    columns = {
        "Method": row_labels(rows),
        "Gap": rows["gap/abs"].where(~rows["reference"]),
        "Steps": rows["steps"].round().astype(int),
        "Tokens": rows["tokens"].round().astype(int),
        "Seconds": rows["seconds"],
    }
    words = (
        "Cost of a trial alone, sharing nothing: its teachers, their decoding, replay and "
        "learning, without evaluation."
    )
    frame = pd.DataFrame(columns)
    if "sampled" in rows and rows["sampled"].any():
        frame.insert(4, "Sampled", rows["sampled"].round().astype(int))
        words += " Sampled: tokens that students wrote during their training."
    for name, (label, unit) in _SIZES.items():
        if name in rows and rows[name].notna().any():
            frame[label] = rows[name] / unit
    if "latency_ms/1" in rows and rows["latency_ms/1"].notna().any():
        words += (
            " Of its student: millions of parameters, all and without embeddings; milliseconds for "
            "1 and for 32 texts of 32 tokens, on the machine and at the load that made it."
        )
    return Table("work", words, frame)


_SIZES = {
    "parameters": ("Parameters, M", 1e6),
    "parameters/inner": ("Inner, M", 1e6),
    "latency_ms/1": ("ms, 1 text", 1.0),
    "latency_ms/32": ("ms, 32 texts", 1.0),
}


def failure_section(failures: Sequence[Mapping[str, Any]]) -> list[ReportSection]:
    if not failures:
        return []
    folds = [_failure(failure) for failure in failures]
    words = "These stages failed, and trials that need them are missing. The rest is kept."
    return [ReportSection("Failures", (Prose(words), *folds))]


def _failure(failure: Mapping[str, Any]) -> Fold:
    key, error = str(failure.get("key") or ""), str(failure.get("error") or "").strip() or "failed"
    blocks: list[Block] = [Verbatim(f"l2kd explain {key}")] if key else []
    blocks.append(Verbatim(str(failure.get("traceback") or error)))
    last_line = error.splitlines()[-1][:200]
    return Fold(f"{failure.get('kind') or 'stage'} {key[:12]}: {last_line}", tuple(blocks))


def reproduce_section(study: Mapping[str, Any], command: str) -> ReportSection:
    resolved = yaml12.dump(json.loads(json.dumps(study, default=str)))
    blocks: list[Block] = [Verbatim(command)] if command else []
    blocks += [
        Prose(
            "Finished stages are read from the store: running the study again computes only what "
            "is new."
        ),
        Fold("The resolved study", (Verbatim(resolved),)),
    ]
    return ReportSection("How to reproduce", tuple(blocks))


def words_section() -> ReportSection:
    return ReportSection("What the words mean", tuple(Prose(paragraph) for paragraph in _WORDS))
