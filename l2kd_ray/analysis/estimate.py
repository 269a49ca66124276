"""Estimates with intervals, and the two parts of the variance that an interval rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtridf, stdtrit

from l2kd_ray.analysis.matrix import FloatArray
from l2kd_ray.analysis.note import Note

LEVEL = 0.95
NO_NOTE = Note()


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where undefined; `note` has the reason and the population."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    note: Note = NO_NOTE
    df: float = np.nan
    """Degrees of freedom of Student's t that give this interval."""

    @property
    def bounded(self) -> bool:
        return not np.isnan(self.low)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


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
        """Half the interval's width in standard errors.

        Student's t where one part is 0. Else midway between the quantile at Satterthwaite's degrees
        of freedom (1946), (v_o + v_s)^2 / (v_o^2 / df_o + v_s^2 / df_s), and the one of Cochran &
        Cox (1950), (v_o t_o + v_s t_s) / (v_o + v_s): with 3 seeds the first covers too little
        (92.5 % for 95) and the second too much (97.8 %); `benchmarks/coverage.py` has the figures.
        """
        tail = (1 + level) / 2
        df_o, df_s = max(self.order_df, 1.0), max(self.seed_df, 1.0)
        total = np.asarray(self.order + self.seed, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            share: FloatArray = np.where(total > 0, self.order / total, 0.0)
        df = 1 / (share**2 / df_o + (1 - share) ** 2 / df_s)
        cochran = share * stdtrit(df_o, tail) + (1 - share) * stdtrit(df_s, tail)
        found: FloatArray = (stdtrit(df, tail) + cochran) / 2
        return found

    def half_width(self, level: float = LEVEL) -> FloatArray:
        return self.quantile(level) * self.error

    @property
    def error(self) -> FloatArray:
        """The standard error of the mean."""
        found: FloatArray = np.sqrt(self.order + self.seed)
        return found

    @property
    def df(self) -> float:
        """Degrees of freedom of the Student's t that has this quantile at `LEVEL`."""
        if float(self.order) == 0:
            return float(self.seed_df)
        return float(stdtridf((1 + LEVEL) / 2, float(self.quantile())))

    @property
    def p(self) -> float:
        """Two-sided p of a mean of 0: below 0.05 exactly where the 95 % interval leaves 0 out."""
        error = float(self.error)
        if not error > 0:
            return float(self.mean == 0) if error == 0 else np.nan
        return float(2 * stdtr(self.df, -abs(float(self.mean)) / error))

    def estimate(self, note: Note = NO_NOTE, level: float = LEVEL) -> Estimate:
        """A single mean as an `Estimate`, without interval where there is only one seed."""
        value = float(self.mean)
        half = float(self.half_width(level)) if self.seed_df >= 1 else np.nan
        if np.isnan(half):
            return Estimate(value, note=note)
        return Estimate(value, value - half, value + half, note, self.df)
