"""Names as a reader sees them: methods, settings, tasks and orders, short where they are long."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase

import pandas as pd

from l2kd_ray.analysis.design import ArmId
from l2kd_ray.analysis.estimate import LEVEL
from l2kd_ray.distill.divergences import FORMULAS
from l2kd_ray.names import MULTITASK, NO_SETTING, SEPARATOR, SINGLE
from l2kd_ray.report.blocks import PROBABILITY, Measured, between, text

ARROW = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
_LONGEST_ORDER = 34
"""Characters of an order's label, above which tasks are written as letters."""


def method_label(method: str) -> str:
    return {MULTITASK: "multi-task", SINGLE: "single-task"}.get(method, method)


def setting_label(setting: str | Mapping[str, object]) -> str:
    """`kd.temperature 2, kd.weight 0.5` of the searched settings (JSON or mapping); "" of none."""
    values = json.loads(setting) if isinstance(setting, str) else setting
    return ", ".join(f"{key} {short(value)}" for key, value in values.items())


def formulas(setting_key: str, values: Iterable[object]) -> str:
    """A legend of the divergences among a setting's values; "" where it has none.

    Papers and code swap the names of the directions, so that a name alone says too little.
    """
    known = {str(value): str(value) for value in values if value in FORMULAS}
    return _legend(known) if setting_key == "kd.divergence" else ""


def distilled_by(divergences: Mapping[str, Sequence[str]]) -> str:
    """The same for the divergences of each method; "" where no student is distilled."""
    users: dict[str, list[str]] = {}
    for method, names in divergences.items():
        for name in names:
            users.setdefault(name, []).append(method_label(method))
    return _legend({name: f"{name} ({', '.join(own)})" for name, own in users.items()})


def _legend(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    each = "; ".join(f"{label}: {FORMULAS[name]}" for name, label in labels.items())
    return f" With the teacher's distribution p and the student's q, {each}."


def short(value: object) -> str:
    """A setting's value: at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def row_labels(table: pd.DataFrame) -> list[str]:
    """One label a row of the gap table: the method, and its setting where a method has several."""
    several = set(table["method"][table.duplicated("method", keep=False)])
    return [
        f"{method_label(method)} ({setting_label(setting)})"
        if method in several and setting != NO_SETTING
        else method_label(method)
        for method, setting in zip(table["method"], table["setting"], strict=True)
    ]


def arm_labels(table: pd.DataFrame) -> dict[ArmId, str]:
    """The label of each (method, setting) of a table with several rows an arm."""
    arms = table[["method", "setting"]].drop_duplicates()
    return dict(zip(arms.itertuples(index=False, name=None), row_labels(arms), strict=True))


def task_labels(tasks: Sequence[str]) -> dict[str, str]:
    """Tasks without the prefix that all of them share (`rnnlg.`)."""
    families = {task.partition(".")[0] for task in tasks if "." in task}
    shared = len(tasks) > 1 and len(families) == 1 and all("." in task for task in tasks)
    return {task: task.partition(".")[2] if shared else task for task in tasks}


def order_labels(orders: Iterable[str]) -> tuple[dict[str, str], str]:
    """A label for each order, and the legend that reads it ("" where the label needs none).

    Long orders are written in letters, one a task: `A › C › B`.
    """
    orders = list(orders)
    tasks = sorted({task for order in orders for task in order.split(SEPARATOR)})
    names, legend = task_labels(tasks), ""

    def label(order: str) -> str:
        return ARROW.join(names[task] for task in order.split(SEPARATOR))

    longest = max((len(label(order)) for order in orders), default=0)
    if longest > _LONGEST_ORDER and len(tasks) <= len(ascii_uppercase):
        names = dict(zip(tasks, ascii_uppercase, strict=False))
        legend = ", ".join(f"{letter} = {task}" for task, letter in names.items())
    return {order: label(order) for order in orders}, legend


def interval_label(low: float, high: float, digits: int = 1) -> str:
    """`2.4 to 3.8`, or a dash."""
    return between(Measured(low, low, high), digits)


def level_label(level: float | None) -> str:
    """`95 %`, or the level of a planned look as it is: `97.75 %`."""
    return f"{100 * (level or LEVEL):.4g} %"


def p_words(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    shown = text(float(p), PROBABILITY)
    return f"p {shown.replace('<', '< ')}" if shown.startswith("<") else f"p = {shown}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `11th`, `21st`."""
    endings = {} if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{endings.get(number % 10, 'th')}"


def count(number: int, thing: str, things: str = "") -> str:
    """`1 seed`, `3 seeds`; `things` where the plural is not made by an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
