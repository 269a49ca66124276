"""Estimates with intervals, and the two parts of the variance that an interval rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtrinc, stdtr, stdtridf, stdtrit

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.note import NoInterval, Note

LEVEL = 0.95
POWER = 0.8
_LEAST = log(1e-12)
"""Logarithm of the smallest p that is told apart from 0."""
NO_NOTE = Note()


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where undefined; `note` has the reason and the population."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    note: Note = NO_NOTE

    @property
    def bounded(self) -> bool:
        return not np.isnan(self.low)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def simultaneous(level: float | None, intervals: int) -> float | None:
    """The level of each of so many intervals that hold together with `level` (Bonferroni)."""
    return None if level is None else 1 - (1 - level) / max(intervals, 1)


@dataclass(frozen=True)
class Moments:
    """A mean over orders and seeds and the two parts of its variance.

    Each field may be an array: means of many tables at once.
    """

    mean: FloatArray
    order: FloatArray
    """Part of the mean's variance due to the choice of orders; 0 where all of them ran."""
    seed: FloatArray
    """Part of the mean's variance due to the seeds."""
    order_df: float
    seed_df: float

    def quantile(self, level: float = LEVEL) -> FloatArray:
        """Half the interval's width in standard errors."""
        return self._quantile(1 - level)

    def _quantile(self, p: float) -> FloatArray:
        """The number of standard errors at which the two-sided p is `p`.

        Of Cochran & Cox (1950): (v_o t_o + v_s t_s) / (v_o + v_s), Student's t where one part is 0.
        Satterthwaite's degrees of freedom (1946) give less, and with 2 or 3 seeds too little; this
        is rather too much for a few of many orders (`benchmarks/coverage.py`).
        """
        df_o, df_s = max(self.order_df, 1.0), max(self.seed_df, 1.0)
        total = np.asarray(self.order + self.seed, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            share: FloatArray = np.where(total > 0, self.order / total, 0.0)
        found: FloatArray = -(share * stdtrit(df_o, p / 2) + (1 - share) * stdtrit(df_s, p / 2))
        return found

    def half_width(self, level: float = LEVEL) -> FloatArray:
        return self.quantile(level) * self.error

    @property
    def error(self) -> FloatArray:
        """The standard error of the mean."""
        found: FloatArray = np.sqrt(self.order + self.seed)
        return found

    def _df(self, level: float) -> float:
        """Degrees of freedom of the Student's t that has this quantile."""
        if float(self.order) == 0:
            return float(self.seed_df)
        return float(stdtridf((1 + level) / 2, float(self.quantile(level))))

    @property
    def p(self) -> float:
        """Two-sided p of a mean of 0: below 1 - level exactly where that interval leaves 0 out."""
        error = float(self.error)
        distance = abs(float(self.mean)) / error if error > 0 else np.nan
        if np.isnan(distance) or distance == 0:
            return np.nan if np.isnan(distance) else 1.0
        if float(self.order) == 0:
            return float(2 * stdtr(self.seed_df, -distance))
        if distance >= float(self._quantile(exp(_LEAST))):
            return exp(_LEAST)
        return float(exp(brentq(lambda x: float(self._quantile(exp(x))) - distance, _LEAST, 0)))

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """The true mean at which an interval of this error leaves 0 out with probability `power`.

        From the noncentral t distribution. The error is itself an estimate, so this is no more
        certain than it is.
        """
        if np.isnan(self.error):
            return np.nan
        beyond = nctdtrinc(self._df(level), 1 - power, float(self.quantile(level)))
        return float(beyond * self.error)

    def estimate(self, note: Note = NO_NOTE, level: float = LEVEL) -> Estimate:
        """A single mean as an `Estimate`, without interval where there is only one seed."""
        value = float(self.mean)
        half = float(self.half_width(level)) if self.seed_df >= 1 else np.nan
        if np.isnan(half):
            alike = self.seed_df >= 1 and bool(np.isnan(self.seed)) and not np.isnan(value)
            why = NoInterval.SEEDS_ALIKE if alike else note.no_interval
            return Estimate(value, note=replace(note, no_interval=why))
        return Estimate(value, value - half, value + half, note)
