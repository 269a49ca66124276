"""Checks of what the gap stands on: a bound that is one, students that learn, replay that is valid.

A difference counts where it exceeds `noise`: two standard errors of a score over the test examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from l2kd_ray.analysis import matrix
from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.note import Named
from l2kd_ray.analysis.trials import ScoredTrial
from l2kd_ray.names import MULTITASK, NO_SETTING, REFERENCES, SINGLE

ALIKE = 95.0
"""Percentage of equal answers from which on a model is said to give one answer."""
VALID = 20.0
"""Percentage of valid samples below which replay is said to be hardly ever valid."""
_COLLAPSED = 0.25
"""Share of the median seed's gain over the untrained model below which a seed has collapsed."""
_OUTLYING = 0.01
"""Chance of an outlying seed in a method and setting whose seeds are alike and normal."""
_FEWEST_SEEDS = 4
"""Below it no seed is called outlying: of three, two are always close to each other."""
_ARM = ["method", "setting"]


class Flaw(Named):
    """A reason to doubt the gaps of a study."""

    BOUND_BELOW_SINGLE = "bound below single-task"
    BOUND_AT_MAJORITY = "bound at the majority label"
    BOUND_UNTRAINED = "bound at the untrained model"
    ONE_ANSWER = "one answer"
    LEARNT_NOTHING = "learnt nothing"
    REPLAY_INVALID = "replay invalid"
    SEED_COLLAPSED = "seed collapsed"
    SEED_OUTLYING = "seed outlying"

    @property
    def of_bound(self) -> bool:
        """True if it concerns every gap, since the multi-task score is no upper bound."""
        return self in (
            Flaw.BOUND_BELOW_SINGLE,
            Flaw.BOUND_AT_MAJORITY,
            Flaw.BOUND_UNTRAINED,
        )


@dataclass(frozen=True)
class Doubt:
    """A flaw of one method and setting, with the number found and the number it is held against.

    `task` is "" for a flaw of all tasks together, `seed` for one of all seeds.
    """

    flaw: Flaw
    method: str
    setting: str
    task: str
    value: float
    against: float
    seed: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """The size of a task's test split, and the score of always answering its majority label."""

    examples: int
    majority: float | None = None
    """In points of the task's metric; None where the answers are no labels."""

    @property
    def noise(self) -> float:
        """Two standard errors, in points, of a mean of scores 0 to 100: at most 100 / sqrt(n)."""
        return float(100 / np.sqrt(self.examples))

    def noise_at(self, *means: float) -> float:
        """The same where the mean is one of these: at most 2 sqrt(m (100 - m) / n), since no scores
        of mean m vary more than 0 and 100 do (Bhatia, Davis 2000)."""
        shares = [mean / 100 if 0 <= mean <= 100 else 0.5 for mean in means]
        return self.noise * max(2 * math.sqrt(share * (1 - share)) for share in shares)


def sanity(
    every: Sequence[ScoredTrial],
    tests: Mapping[str, TaskFacts],
    answers: pd.DataFrame,
    replay: pd.DataFrame,
) -> list[Doubt]:
    """The doubts about a study's test scores, those about its bound first.

    Args:
        every: the trials on the test split.
        tests: the facts of each task's test split.
        answers: one row per method, setting and task: `answers` and `references`, the percentages
            of the most frequent answer of the final models and of the most frequent reference.
        replay: one row per replay stage and trial: method, setting, valid (in per cent).
    """
    cells = pd.DataFrame(
        [
            (
                trial.method,
                trial.setting,
                trial.order,
                trial.seed,
                task,
                *trial.R[[0, -1], j],
                _learned(trial, j),
            )
            for trial in every
            for j, task in enumerate(trial.tasks)
        ],
        columns=[*_ARM, "order", "seed", "task", "untrained", "final", "learned"],
    )
    untrained = cells.groupby("task")["untrained"].mean()
    means = cells.groupby([*_ARM, "task"])[["final", "learned"]].mean().reset_index()
    return [
        *_of_bound(means, untrained, tests),
        *_of_answers(answers),
        *_of_learning(means, untrained, tests),
        *_of_replay(replay),
        *_of_seeds(cells, untrained, tests),
    ]


def doubted(results: pd.DataFrame, doubts: Sequence[Doubt]) -> list[str]:
    """The flaws that concern each row of `results`, joined by "; ": its own and the bound's."""
    of_bound = [doubt.flaw for doubt in doubts if doubt.flaw.of_bound]
    return [
        "; ".join(
            dict.fromkeys(
                str(flaw)
                for flaw in (
                    *of_bound,
                    *(d.flaw for d in doubts if (d.method, d.setting) == arm),
                )
            )
        )
        for arm in zip(results["method"], results["setting"], strict=True)
    ]


def _learned(trial: ScoredTrial, j: int) -> float:
    """The score on the j-th task right after it was learned; NaN of a reference."""
    return np.nan if trial.method in REFERENCES else float(matrix.learned(trial.R)[j])


def _of_bound(
    means: pd.DataFrame, untrained: pd.Series[float], tests: Mapping[str, TaskFacts]
) -> Iterator[Doubt]:
    for row in means[means["method"] == MULTITASK].itertuples():
        test = tests[row.task]
        alone = means["final"][(means["method"] == SINGLE) & (means["task"] == row.task)].mean()
        majority = np.nan if test.majority is None else test.majority
        before = untrained[row.task]
        checks = (
            (Flaw.BOUND_BELOW_SINGLE, alone, -test.noise_at(row.final, alone)),
            (Flaw.BOUND_AT_MAJORITY, majority, 0.0),
            (Flaw.BOUND_UNTRAINED, before, test.noise_at(row.final, before)),
        )
        for flaw, against, margin in checks:
            if row.final <= against + margin:  # False where either is NaN
                yield Doubt(flaw, MULTITASK, NO_SETTING, row.task, row.final, against)


def _of_answers(answers: pd.DataFrame) -> Iterator[Doubt]:
    if answers.empty:
        return
    means = answers.groupby([*_ARM, "task"])[["answers", "references"]].mean().reset_index()
    for row in means[means["answers"] >= ALIKE].itertuples():
        if row.references < ALIKE:
            yield Doubt(
                Flaw.ONE_ANSWER, row.method, row.setting, row.task, row.answers, row.references
            )


def _of_learning(
    means: pd.DataFrame, untrained: pd.Series[float], tests: Mapping[str, TaskFacts]
) -> Iterator[Doubt]:
    for row in means.itertuples():
        before = untrained[row.task]
        if row.learned <= before + tests[row.task].noise_at(row.learned, before):
            yield Doubt(Flaw.LEARNT_NOTHING, row.method, row.setting, row.task, row.learned, before)


def _of_replay(replay: pd.DataFrame) -> Iterator[Doubt]:
    if "valid" not in replay:
        return
    means = replay.groupby(_ARM)["valid"].mean().reset_index()
    for row in means[means["valid"] < VALID].itertuples():
        yield Doubt(Flaw.REPLAY_INVALID, row.method, row.setting, "", row.valid, VALID)


def _of_seeds(
    cells: pd.DataFrame, untrained: pd.Series[float], tests: Mapping[str, TaskFacts]
) -> Iterator[Doubt]:
    """Seeds whose final mean over tasks has kept next to nothing of the median seed's gain, and
    those that lie far from the others; over the orders and tasks that all seeds have."""
    before = untrained.mean()
    noise = np.sqrt(np.mean([test.noise**2 for test in tests.values()]) / len(tests))
    for (method, setting), own in cells.groupby(_ARM):
        table = own.pivot_table(index=["order", "task"], columns="seed", values="final")
        means = table.dropna().mean()
        middle = means.median()
        chance = outlying(means.to_numpy(dtype=float))
        for (seed, final), p in zip(means.items(), chance, strict=True):
            lost = final - before <= _COLLAPSED * (middle - before)
            flaw = None
            if middle - before > noise and lost:
                flaw = Flaw.SEED_COLLAPSED
            elif p < _OUTLYING and abs(final - middle) > noise:
                flaw = Flaw.SEED_OUTLYING
            if flaw:
                yield Doubt(flaw, method, setting, "", final, middle, seed=str(seed))


def outlying(values: FloatArray) -> FloatArray:
    """p of each value's distance from the mean, as the largest of normal values (Grubbs 1950).

    With G = |x - mean| / s, t^2 = n (n - 2) G^2 / ((n - 1)^2 - n G^2) is Student's on n - 2
    degrees, and p is its two-sided p times n. NaN below four values.
    """
    n = len(values)
    if n < _FEWEST_SEEDS or not values.std() > 0:
        return np.full(n, np.nan)
    square = ((values - values.mean()) / values.std(ddof=1)) ** 2
    left = np.maximum((n - 1) ** 2 - n * square, 1e-300)
    p: FloatArray = np.minimum(2 * n * stdtr(n - 2, -np.sqrt(n * (n - 2) * square / left)), 1.0)
    return p
