"""The gap table: one row for each method and setting, with its gap and the gap's intervals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import factorial

import numpy as np
import pandas as pd

from l2kd_ray.analysis.design import (
    ArmId,
    Design,
    Instance,
    arms_of,
    finished_orders,
    mean_over,
    of_arm,
    scored_zero,
)
from l2kd_ray.analysis.estimate import LEVEL, Estimate, simultaneous
from l2kd_ray.analysis.looks import Reading, reading
from l2kd_ray.analysis.note import Note, Undefined
from l2kd_ray.analysis.orders import mean_gap, seed_means
from l2kd_ray.analysis.selection import select
from l2kd_ray.analysis.shares import BASELINE, GAP, gap_closed, relative_gap
from l2kd_ray.analysis.trials import RESULT_METRICS, train_seed
from l2kd_ray.names import REFERENCES

_TAUGHT = ("teacher_first", "teacher")
"""How far below its teachers a student ends: right after learning, and at the end."""
_MEANS = ("score/", "cl/", "gap/", "teacher/")
_FIXED = ("method", "setting", "order", "seed", "trial", "complete")
_AS_IT_IS = Reading(0, LEVEL)


def shown_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `select` or `compare` to show: the selected setting of each lifelong method, all of
    its settings where none is selected."""
    lifelong = table[~table["method"].isin(REFERENCES)]
    decided = lifelong.groupby("method")["selected"].transform("any").astype(bool)
    return lifelong[lifelong["selected"] | ~decided]


def shown_arms(table: pd.DataFrame) -> list[ArmId]:
    """The method and setting of each of the `shown_rows`."""
    return arms_of(shown_rows(table))


def compare(
    test: pd.DataFrame,
    dev: pd.DataFrame,
    design: Design | None = None,
    failed: Collection[Instance] = (),
    *,
    stopping: bool = False,
) -> pd.DataFrame:
    """One row for each method and setting, and for the references multitask and single.

    With a `design`, numbers and intervals are over the orders that all shown arms have finished
    (`finished_orders`; a setting that is not shown may have fewer), and hold for the population of
    the design; half-way, they are read at the last planned look (`looks.reading`). Where no order
    is finished, numbers are over all complete trials and `gap/note` is descriptive. Without a
    design they are over the trials that are there, and hold for the orders that ran.

    Args:
        test: `results` of the test split, the source of every number.
        dev: `results` of the dev split, which only selection reads.
        design: the orders and seeds of the study.
        failed: trials that will never finish.
        stopping: whether a stop rule could end, or has ended, the study before its last order.

    Returns:
        method, setting, searched settings, reference (bool), selected (bool), dev, select/note,
        n_orders, n_possible (n!), n_seeds (training seeds), n_complete, n_trials, n_used; means
        (orders within a seed first) of `score/<task>/<metric>`, `cl/*`, `gap/<task>`, `gap/abs`,
        `gap/rel` (a ratio of study means), `teacher/avg` (the teachers' own score),
        `gap/teacher_first` and `gap/teacher` (below it after learning and at the end;
        `teacher_first/low`, ...); `gap/low`, `gap/high`, `gap/note`; `joint/low`
        and `joint/high` of the gap, simultaneous over the `joint/n` shown arms; `rel/low`,
        `rel/high`; `closed/value`, `/low`, `/high` and `/note` against LAMOL; `failed/n` and
        `failed/gap`, the gap with failed trials scored 0. All in points, but gap/rel, rel/* and
        closed are fractions. Sorted by gap, references last.
    """
    table = _Table(test, select(dev), design, failed, stopping)
    by = ["reference", "gap/abs", "method", *table.searched]
    return pd.DataFrame([table.row(arm) for arm in table.arms]).sort_values(by, ignore_index=True)


@dataclass(frozen=True)
class _Scope:
    """The rows and orders that an arm's numbers are computed from."""

    rows: pd.DataFrame
    orders: tuple[str, ...] = ()
    """Finished orders, including those with a failed trial; empty if `rows` is all there is."""
    reading: Reading = _AS_IT_IS


class _Table:
    """The rows of `compare`."""

    def __init__(
        self,
        test: pd.DataFrame,
        chosen: pd.DataFrame,
        design: Design | None,
        failed: Collection[Instance],
        stopping: bool,
    ) -> None:
        self.test, self.chosen, self.design, self.stopping = test, chosen, design, stopping
        self.numbers = [name for name in test.columns if name.startswith(_MEANS)]
        self.searched = [n for n in test.columns if n not in _FIXED and n not in self.numbers]
        tasks = [n for n in self.numbers if n.startswith("gap/") and n not in RESULT_METRICS]
        self.possible = factorial(len(tasks))
        self.of_failed: dict[ArmId, list[Instance]] = {}
        for one in failed:
            self.of_failed.setdefault((one.method, one.setting), []).append(one)
        by_arm = test.groupby(["method", "setting"], sort=False)
        self.groups = {(str(m), str(s)): group for (m, s), group in by_arm}
        self.shared: tuple[str, ...] = ()
        shown = shown_arms(chosen)
        self.shown = len(shown)
        if design is not None:
            self.shared = finished_orders(test, shown, design, failed)
        picked = chosen[chosen["selected"] & (chosen["method"] == BASELINE)]
        self.baseline = next(iter(arms_of(picked)), None)

    @property
    def arms(self) -> list[ArmId]:
        """All arms with a trial, including those whose trials have all failed."""
        return list(dict.fromkeys([*self.groups, *self.of_failed]))

    def scope(self, arm: ArmId) -> _Scope:
        """The orders that all shown arms have finished; for an arm that is behind, its own.

        Trials without a gap are used only where none has one: every number is of the same trials.
        """
        group = self.groups.get(arm, self.test.iloc[:0])
        done = group[group["complete"]]
        with_gap = done[done[GAP].notna()]
        done = with_gap if len(with_gap) else done
        if self.design is None or arm[0] in REFERENCES:
            return _Scope(done)
        own = finished_orders(group, [arm], self.design, self.of_failed.get(arm, ()))
        orders = self.shared if set(self.shared) <= set(own) else own
        now = reading(len(orders), len(self.design.orders), stopping=self.stopping)
        orders = orders[: now.orders]
        kept = done[done["order"].isin(orders) & done["seed"].isin(self.design.seeds)]
        whole = kept.groupby("order")["seed"].transform("size") == len(self.design.seeds)
        return _Scope(kept[whole], orders, now) if whole.any() else _Scope(done)

    def row(self, arm: ArmId) -> dict[str, object]:
        method, setting = arm
        group = self.groups.get(arm, self.test.iloc[:0])
        scope = self.scope(arm)
        used, choice = scope.rows, of_arm(self.chosen, arm)
        return {
            "method": method,
            "setting": setting,
            **{name: group[name].iat[0] if len(group) else None for name in self.searched},
            "reference": method in REFERENCES,
            "selected": bool(choice["selected"].any()),
            "dev": choice["dev"].iat[0] if len(choice) else np.nan,
            "select/note": choice["note"].iat[0] if len(choice) else None,
            "n_orders": used.loc[used["order"] != "", "order"].nunique(),
            "n_possible": self.possible,
            "n_seeds": used["seed"].map(train_seed).nunique(),
            "n_complete": int(group["complete"].sum()),
            "n_trials": len(group),
            "n_used": len(used),
            **seed_means(used, self.numbers).mean(),
            **self._estimates(arm, scope),
        }

    def _with_failures(self, arm: ArmId, scope: _Scope, failed: Collection[Instance]) -> float:
        """The mean gap where a failed trial scores 0, of all seeds of the orders that were run."""
        group = self.groups.get(arm, self.test.iloc[:0])
        rows = scored_zero(group[group["complete"] & group[GAP].notna()], self.test, failed, GAP)
        if self.design is not None and scope.orders:
            own = rows["order"].isin(scope.orders) & rows["seed"].isin(self.design.seeds)
            rows = rows[own]
        return float(seed_means(rows, [GAP])[GAP].mean())

    def _estimates(self, arm: ArmId, scope: _Scope) -> dict[str, object]:
        """The gap as such, as a share of the bound and of LAMOL's, and with failures scored 0."""
        gap, joint, rel, closed = (Estimate(),) * 4
        taught = dict.fromkeys(_TAUGHT, Estimate())
        zero = np.nan
        failed = self.of_failed.get(arm, [])
        if arm[0] not in REFERENCES:
            gap, rel, closed = self._shares(arm, scope)
            taught = {
                name: self._mean(scope, f"gap/{name}", scope.reading.level) for name in _TAUGHT
            }
            joint = self._mean(scope, GAP, simultaneous(scope.reading.level, self.shown))
            zero = gap.value
            if failed:
                zero = self._with_failures(arm, scope, failed)
        return {
            "gap/abs": gap.value,
            "gap/rel": rel.value,
            "gap/low": gap.low,
            "gap/high": gap.high,
            "gap/note": gap.note,
            "joint/low": joint.low,
            "joint/high": joint.high,
            "joint/n": self.shown,
            **{f"gap/{name}": one.value for name, one in taught.items()},
            **{f"{name}/low": one.low for name, one in taught.items()},
            **{f"{name}/high": one.high for name, one in taught.items()},
            "rel/low": rel.low,
            "rel/high": rel.high,
            "closed/value": closed.value,
            "closed/low": closed.low,
            "closed/high": closed.high,
            "closed/note": closed.note,
            "failed/n": len(failed),
            "failed/gap": zero,
        }

    def _mean(self, scope: _Scope, column: str, level: float | None) -> Estimate:
        if self.design is None:
            return mean_gap(scope.rows, column, level=level)
        found = mean_over(scope.rows, self.design, scope.orders, column, level)
        return replace(found, note=scope.reading.note(found.note))

    def _shares(self, arm: ArmId, scope: _Scope) -> tuple[Estimate, Estimate, Estimate]:
        rows, level = scope.rows, scope.reading.level
        gap, part = self._mean(scope, GAP, level), None
        if self.design is not None and scope.orders:
            part = self.design.part(scope.orders, self.design.seeds)
        rel = relative_gap(rows, part, level)
        if not gap.bounded:  # a share of a mean without an interval has none either
            rel = Estimate(rel.value, note=gap.note)
        if arm[0] == BASELINE:
            return gap, rel, Estimate(note=Note(undefined=Undefined.IS_BASELINE))
        closed = Estimate(note=gap.note)
        if self.design is None or scope.orders:
            against = self.scope(self.baseline).rows if self.baseline else self.test.iloc[:0]
            closed = gap_closed(rows, against, part, level)
        return gap, rel, closed
