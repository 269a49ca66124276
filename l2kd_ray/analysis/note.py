"""Notes on numbers: the population they hold for, and why they lack an interval or a value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum


class Named(Enum):
    """An enum whose members a table shows by their value."""

    def __str__(self) -> str:
        return str(self.value)


class OrderPopulation(Named):
    """The kind of set of orders that a mean is over."""

    NONE = "no order"
    ALL = "all"
    RANDOM = "random"
    UNFAILED = "not failed"
    """The orders on which no trial failed, which are no random sample."""
    WILLIAMS = "williams"
    LISTED = "list"


@dataclass(frozen=True)
class Reach:
    """The orders that a mean is over; a random part holds for all of them, a list for itself."""

    kind: OrderPopulation
    ran: int
    possible: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.ran}/{self.possible}"


class NoInterval(Named):
    """A reason for which a number has no interval."""

    ONE_SEED = "one seed"
    LONE_SEED = "lone seed"
    """A seed that ran in streams that no other seed ran in shows no spread of a mean over them."""
    ONE_ORDER = "one order"
    SEEDS_DIFFER = "seeds ran different orders"
    SEEDS_ALIKE = "seeds alike"
    """The spread over seeds is not known to be 0 because a few of them agree."""


class Undefined(Named):
    """A reason for which a number has no value."""

    NO_COMPLETE_TRIAL = "no complete trial"
    NO_FINISHED_ORDER = "no finished order"
    RATIO_TO_ZERO = "ratio to 0"
    RATIO_MAY_BE_TO_ZERO = "denominator's interval holds 0"
    IS_BASELINE = "is the baseline"
    NO_SHARED_INSTANCE = "no instance shared with the baseline"
    BASELINE_UNBOUNDED = "baseline has no interval"
    BASELINE_MAY_BE_ZERO = "baseline's interval holds 0"
    BASELINE_ABOVE_BOUND = "baseline is above multi-task"


class Caveat(Named):
    """A reason not to rely on a selection or a comparison yet."""

    NO_DEV_SCORE = "no dev score"
    PROVISIONAL = "provisional"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Note:
    """Facts about a number beside its value and interval; falsy if there are none."""

    undefined: Undefined | None = None
    reach: Reach | None = None
    left_out: int = 0
    """Orders left out, as a trial failed, or has no score, on them."""
    descriptive: tuple[int, int] | None = None
    """Complete and planned trials of a mean over whatever is there, as no order is finished."""
    no_interval: NoInterval | None = None
    look: float | None = None
    """Level of the planned look that the number is read at."""
    first_look: int | None = None
    """Orders of the first planned look, where that is still to come: no interval before it."""

    def __bool__(self) -> bool:
        return self != Note()

    def __str__(self) -> str:
        """`reach=random:24/120; look=0.99`, for a CSV file."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return "; ".join(f"{name}={value}" for name, value in known.items() if value)
