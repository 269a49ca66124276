"""The section on answers: the test examples that each method forgot most, and their listing."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from l2kd_ray.report.blocks import Block, Fold, Prose, ReportSection, Table, text
from l2kd_ray.report.labels import arm_labels
from l2kd_ray.report.replay_section import words

_MOST_SHOWN = 3
"""Examples of a task and method on the page."""


def answers_section(forgotten: pd.DataFrame | None) -> list[ReportSection]:
    """`forgotten`: rows of `analysis.forgotten` for one trial of each method, on one instance."""
    if forgotten is None or forgotten.empty:
        return []
    first = forgotten.iloc[0]
    names = arm_labels(forgotten)
    blocks: list[Block] = [
        Prose(
            f"The test examples whose scores fell most, on the order {first['order']} with seed "
            f"{first['seed']}. `l2kd answers` lists all answers, `l2kd serve` shows two methods "
            "side by side."
        )
    ]
    for number, (arm, name) in enumerate(sorted(names.items(), key=lambda item: item[1])):
        own = forgotten[(forgotten["method"] == arm[0]) & (forgotten["setting"] == arm[1])]
        shown = own.groupby("task", sort=True).head(_MOST_SHOWN).sort_values("task", kind="stable")
        frame = pd.DataFrame(
            {
                "Task": shown["task"],
                "Input": [words(one) for one in shown["input"]],
                "Reference": [words(one) for one in shown["reference"]],
                "Just learned": [words(one) for one in shown["learned"]],
                "At the end": [words(one) for one in shown["final"]],
                "Lost": shown["lost"].astype(float),
            }
        )
        caption = (
            f"Answers of {name} right after each task and at the end of the order, for the "
            f"{_MOST_SHOWN} examples of each earlier task that lost most points."
        )
        wrapped = frozenset(["Input", "Reference", "Just learned", "At the end"])
        table = Table(f"answers_{number}", caption, frame, wrapped=wrapped)
        blocks.append(Fold(f"Answers of {name}", (table,)))
    return [ReportSection("What was forgotten", tuple(blocks))]


def answer_lines(answers: pd.DataFrame) -> Iterator[str]:
    """The answers of some trials, example by example, as lines for a terminal.

    A star marks the answer right after the task was learned. `answers`: columns of
    `study.answers.ANSWER_COLUMNS`.
    """
    names = arm_labels(answers)
    by = ["task", "order", "seed", "example"]
    yield "A row an answer: tasks learned (* right after this one), score, answer."
    yield ""
    for (task, order, seed, example), own in answers.groupby(by, sort=False):
        where = ", ".join(filter(None, [str(task), str(order), f"seed {seed}"]))
        yield f"{where}: example {example}"
        yield f"  input      {words(own['input'].iloc[0])}"
        yield f"  reference  {words(own['reference'].iloc[0])}"
        for arm, rows in own.groupby(["method", "setting"], sort=False):
            yield f"  {names[arm]}"
            for row in rows.itertuples(index=False):
                mark = "*" if row.i == row.j else " "
                answer = words(row.answer) or "(nothing)"
                yield f"    {row.i}{mark} {text(float(row.score), 0):>4}  {answer}"
        yield ""
