"""The document of a report, from its headline down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from l2kd_ray.analysis.design import crossed_seeds
from l2kd_ray.analysis.findings import Findings
from l2kd_ray.names import MULTITASK
from l2kd_ray.report.answers_section import answers_section
from l2kd_ray.report.blocks import Document, ReportSection, text
from l2kd_ray.report.comparison_section import comparison_section
from l2kd_ray.report.curve_section import curve_section
from l2kd_ray.report.data_section import data_section
from l2kd_ray.report.distillation_section import distillation_section
from l2kd_ray.report.driver_section import driver_section
from l2kd_ray.report.gap_section import gap_section
from l2kd_ray.report.headline import best_row, headline
from l2kd_ray.report.inputs import Inputs
from l2kd_ray.report.labels import count, distilled_by, method_label, row_labels
from l2kd_ray.report.order_section import order_section
from l2kd_ray.report.precedence_section import precedence_section
from l2kd_ray.report.provenance import (
    cost_section,
    failure_section,
    reproduce_section,
    trace_section,
    words_section,
)
from l2kd_ray.report.replay_section import replay_section
from l2kd_ray.report.search_section import search_section
from l2kd_ray.report.sentences import (
    CAVEATS,
    device_words,
    doubt_words,
    looked_words,
    selected_words,
    top_k_words,
    verdict_words,
)
from l2kd_ray.report.setting_section import setting_section
from l2kd_ray.report.stream_sections import forgetting_section, matrix_section
from l2kd_ray.report.style import LineStyle, looks
from l2kd_ray.report.summary_section import summary_section
from l2kd_ray.report.tradeoff_section import tradeoff_section


def document(found: Findings | None, inputs: Inputs) -> Document:
    """The whole report; `found` is None where there is no score yet."""
    title = str(inputs.study.get("name") or "study")
    undone = _undone(inputs.planned)
    gap = None if found is None else found.gap
    ends = (
        *cost_section(inputs.costs, inputs.work, gap, inputs.spent),
        *failure_section(inputs.failures),
    )
    data = data_section(inputs.data)
    reproduce = reproduce_section(inputs.study, inputs.command)
    biased = [f"**Biased:** {top_k_words(one)}." for one in inputs.top_k]
    verdict = [f"**Stop rule:** {verdict_words(inputs.verdict)}."] if inputs.verdict else []
    looked = [f"**Looked at before:** {looked_words(inputs.looks)}."] if inputs.looks else []
    mixed = device_words(inputs.devices)
    begun = f"**Half-way:** {' and '.join(undone)} are done; the numbers are over what is complete."
    half_way = [begun] if undone else []
    first = (*half_way, *inputs.notes, *mixed, *biased, *verdict, *looked)
    stages = count(len(inputs.failures), "stage")
    failed = [f"**{stages} failed:** see Failures."] if inputs.failures else []
    if found is None:
        words = "No evaluation has finished yet, so there is no gap to report."
        notices = (*first, *failed)
        return Document(title, "", words, (), notices, (*data, *ends, reproduce))
    distilled = distilled_by(inputs.divergences)
    look = looks(found.gap["method"].tolist())
    methods = count(found.arms["method"].nunique(), "method")
    return Document(
        title=title,
        subtitle=f"{methods}, {count(len(found.tasks), 'task')}: {', '.join(found.tasks)}",
        headline=headline(
            found.gap,
            found.comparisons,
            half_way=bool(undone) or found.half_way,
            doubtful=any(doubt.flaw.of_bound for doubt in inputs.doubts),
        ),
        doubts=tuple(doubt_words(inputs.doubts)),
        facts=_facts(found),
        notices=(*first, *_caveats(found, undone), *failed),
        sections=(
            *distillation_section(found, look, distilled),
            gap_section(found, look, inputs.over_examples, distilled, inputs.methods),
            *comparison_section(found),
            *summary_section(found),
            *_of_orders(found, look, inputs.retention),
            *search_section(inputs.order_search),
            *setting_section(found, look, inputs.objectives),
            *curve_section(inputs.curves, look, distilled),
            *answers_section(inputs.forgotten),
            *replay_section(inputs.replay, inputs.samples),
            *data,
            *ends,
            trace_section(found),
            reproduce,
            words_section(),
        ),
    )


def _of_orders(
    found: Findings, look: Mapping[str, LineStyle], retention: pd.DataFrame | None
) -> list[ReportSection]:
    """The sections for tasks that are learned one after another."""
    if found.scope.design.orderless:
        return []
    return [
        *order_section(found, look),
        *driver_section(found, look),
        *precedence_section(found),
        *matrix_section(found),
        *forgetting_section(found, look),
        *tradeoff_section(found, look, retention),
    ]


def _facts(found: Findings) -> tuple[tuple[str, str], ...]:
    best = best_row(found.gap)
    bound = found.gap[found.gap["method"] == MULTITASK]["cl/avg"]
    facts = []
    if bound.notna().any():
        facts.append((text(float(bound.iloc[0])), "multi-task score, mean of tasks"))
    if best is not None:
        name = method_label(best["method"])
        facts.append((text(float(best["gap/abs"])), f"points below it, {name}"))
        facts.append((f"{text(100 * float(best['gap/rel']))} %", "of the multi-task score"))
        if pd.notna(best["closed/value"]):
            share = f"{text(100 * float(best['closed/value']), 0)} %"
            facts.append((share, "of LAMOL's gap closed"))
    done = int(found.gap[~found.gap["reference"]]["n_complete"].sum())
    facts.append((text(done), "complete trials of the methods"))
    return tuple(facts)


def _undone(planned: Mapping[str, int]) -> list[str]:
    """Phrases such as `12 of 24 trials` for planned work that is not done."""
    return [
        f"{planned[f'{things}_done']:,} of {planned[things]:,} {things}"
        for things in ("trials", "stages")
        if planned.get(f"{things}_done", planned.get(things, 0)) < planned.get(things, 0)
    ]


def _caveats(found: Findings, undone: Sequence[str]) -> list[str]:
    """Notices for the reader before comparing the numbers."""
    arms, notices = found.arms, []
    lacking = int((arms["n_trials"] - arms["n_complete"]).sum())
    if lacking and not undone and not found.designed:
        notices.append(f"**Half-way:** {count(lacking, 'trial')} shown here lack a final score.")
    if len(arms):
        notices += _comparable(found)
    if MULTITASK not in set(found.gap["method"]):
        notices.append("**No multi-task score yet:** every gap is undefined until it is there.")
    if picked := selected_words(found.selected_of):
        notices.append(f"**Selected on dev:** {picked}.")
    reasons = found.gap[found.gap["select/note"].notna()].drop_duplicates("method")
    for method, note in zip(reasons["method"], reasons["select/note"], strict=True):
        notices.append(f"**{method_label(method)}:** {CAVEATS[note]}.")
    return notices


def _comparable(found: Findings) -> list[str]:
    """Notices on which orders and seeds the methods' means are over."""
    arms, scope = found.arms, found.scope
    failed = int(found.gap["failed/n"].sum())
    notices = []
    if crossed := crossed_seeds(scope.design.seeds):
        others = " and ".join(count(number, f"{name} seed") for name, number in crossed.items())
        notices.append(
            f"**Crossed seeds:** intervals are over training seeds, for these {others}. The table "
            "under What drives the gap has the variance of each."
        )
    if failed:
        notices.append(
            f"**{count(failed, 'trial')} failed** for good: a method's mean leaves out the orders "
            "on which it failed; the gap table has the gap with failed trials scored 0 beside."
        )
    if found.designed and scope.orders:
        if len(scope.orders) < len(scope.design.orders):
            notices.append(
                f"**So far:** the first {len(scope.orders):,} of {len(scope.design.orders):,} "
                "orders, which every method has finished on every seed. What is beyond them is "
                "shown by order only."
            )
    elif arms["n_used"].nunique() > 1 or (found.designed and arms["n_used"].any()):
        done = zip(row_labels(arms), arms["n_used"], strict=True)
        each = ", ".join(f"{name} {trials}" for name, trials in done)
        notices.append(
            "**Not yet comparable:** no order is finished for all methods and seeds, so the means "
            f"are over different orders and seeds (complete trials: {each})."
        )
    return notices
