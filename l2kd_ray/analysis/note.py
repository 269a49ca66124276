"""What a number speaks for, and why it has no interval or no value: values that a report words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum


class Named(Enum):
    """An enum whose members a table shows by their value."""

    def __str__(self) -> str:
        return str(self.value)


class Orders(Named):
    """Which orders a mean is over."""

    NONE = "no order"
    ALL = "all"
    RANDOM = "random"
    WILLIAMS = "williams"
    LISTED = "list"


@dataclass(frozen=True)
class Reach:
    """The orders that a mean is over: a random part or a Williams design stands for all of them."""

    kind: Orders
    ran: int
    possible: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.ran}/{self.possible}"


class NoInterval(Named):
    """Why a number has no interval."""

    ONE_SEED = "one seed"
    ONE_ORDER = "one order"
    SEEDS_DIFFER = "seeds ran different orders"


class Undefined(Named):
    """Why a number has no value."""

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
    """Why a selection or a comparison is not to be relied on yet."""

    NO_DEV_SCORE = "no dev score"
    PROVISIONAL = "provisional"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Note:
    """What is known of a number beside its value and interval; false where there is nothing."""

    undefined: Undefined | None = None
    reach: Reach | None = None
    left_out: int = 0
    """Orders left out, as a trial failed on them."""
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
