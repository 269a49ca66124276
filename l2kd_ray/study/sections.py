"""The parts of a study file, of which `schema` is the frame: methods, search, scale, orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from l2kd_ray import door
from l2kd_ray.core.stage import Stage, TrainingStage
from l2kd_ray.errors import InputError
from l2kd_ray.names import SEPARATOR
from l2kd_ray.section import Command, FilePath, Name, Section, by_name, list_of_one
from l2kd_ray.tasks.spec import TaskSpec


class Arm(Section):
    """A method of the study; `settings` lets one study hold several versions of a method."""

    name: Name
    method: str
    settings: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value.rpartition(":")[2], "method": value}
        value = by_name(value, "method")
        if isinstance(value, Mapping) and "method" not in value and "name" in value:
            return {**value, "method": value["name"]}
        return value


class Grid(Section):
    grid: tuple[Any, ...] = Field(min_length=1)

    def examples(self) -> tuple[Any, ...]:
        """Values that the searched setting must accept."""
        return self.grid

    def holds(self, value: Any) -> bool:
        """True if the value is one of them."""
        return value in self.grid


class Range(Section):
    """A continuous or integer range to draw from; exactly one of the fields."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = self.model_fields_set
        if len(given) != 1:
            raise InputError(
                "exactly one of grid, uniform, loguniform, randint, choice is needed",
                got=sorted(given),
            )
        for name in ("uniform", "loguniform", "randint"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise InputError(
                    "the first bound must be below the second", key=name, got=list(bounds)
                )
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise InputError("bounds must be above 0", key="loguniform", got=list(self.loguniform))
        return self

    def examples(self) -> tuple[Any, ...]:
        """Values that the searched setting must accept: the ends of the range, or every choice."""
        if self.randint is not None:
            return self.randint[0], self.randint[1] - 1
        bounds = self.uniform or self.loguniform
        if bounds is not None:  # also one in between, since a setting may accept only integers
            return (*bounds, bounds[0] + 0.37 * (bounds[1] - bounds[0]))
        return self.choice or ()

    def holds(self, value: Any) -> bool:
        """True if the value can be drawn."""
        if self.choice is not None:
            return value in self.choice
        if self.randint is not None:
            return value in range(*self.randint)
        low, high = self.uniform or self.loguniform or (0.0, 0.0)
        return bool(low <= value <= high)


class Stop(Section):
    """Conditions under which a sweep may end before its last trial."""

    half_width: float | None = Field(None, gt=0)
    """Stop once the 95 % interval of `metric` of `method`, valid at the planned looks, has at most
    this half-width."""
    method: str | None = None
    """The arm whose interval is used (default: the first of the study)."""
    metric: Literal["gap/abs", "cl/avg", "cl/forgetting_max"] = "gap/abs"
    budget_hours: float | None = Field(None, gt=0)
    """Wall-clock hours after which one run of the command ends."""


class SelectOn(Section):
    """Selection of settings on one half of the instances, with reports on the other half."""

    orders: Literal["half"] | None = None
    seeds: Literal["half"] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.orders is None and self.seeds is None:
            raise InputError("set orders: half, or seeds: half, or both")
        return self


ONE_ORDER_ALONE = (
    "it would stop single orders early, and the mean over orders would be one over the easy ones"
)
RACE = "`race` gives up settings, on common orders and seeds"


SearchObjective = Literal["dev", "new", "old", "texts"]


class TuneSettings(Section):
    num_samples: int = Field(1, ge=1)
    """Number of settings drawn (with a grid: draws per grid point)."""
    searcher: Literal["random", "optuna"] = "random"
    scheduler: Literal["none", "race", "asha"] = "none"
    """`race` runs settings on common instances, order by order, and drops those that cannot win
    by a sequentially valid test. `asha` stops settings that fall behind on dev after one of
    `train.rungs`, for methods without an order (Li et al. 2020)."""
    reduction: int = Field(3, ge=2)
    """ASHA continues one in this many settings at each rung."""
    stop: Stop = Stop()
    select_on: SelectOn | None = None
    """Selection on one half of the instances; may also be written as `search.select_on`."""
    objectives: tuple[SearchObjective, SearchObjective] | None = None
    """Two objectives of Optuna in place of the mean dev score: `dev` is that score, `new` the dev
    score on the order's last task, `old` the mean on those before it, and `texts` minus the
    cross-entropy of `retention.texts` after the stream."""
    seed: int = Field(0, ge=0)
    max_concurrent: int | None = Field(None, ge=1)

    @property
    def adaptive(self) -> bool:
        """True if settings are proposed or stopped depending on results."""
        return self.searcher == "optuna" or self.scheduler == "asha"

    @field_validator("scheduler", mode="before")
    @classmethod
    def _no_pruning_of_orders(cls, value: object) -> object:
        if value in ("hyperband", "median", "pbt"):
            raise InputError(ONE_ORDER_ALONE, got=value, fix=RACE)
        return value


class Workers(Section):
    """The resources that a kind of stage requests."""

    workers: (
        Annotated[int, Field(ge=1)]
        | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    ) = 1
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    labels: Mapping[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may run it, such as `{ray.io/market-type: on-demand}` (default: any
    node)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise InputError(
                "the minimum is above the maximum",
                key="workers",
                got=list(self.workers),
                expected="[minimum, maximum]",
            )
        return self

    @property
    def maximum(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class Scale(Workers):
    """Workers of all stages, with exceptions by kind of stage."""

    learn: Workers | None = None
    multitask: Workers | None = None
    replay: Workers | None = None
    decode: Workers | None = None
    evaluate: Workers | None = None
    """`replay`, `decode` and `evaluate` divide their generation among workers; one worker by
    default."""
    lm_eval: Workers | None = None
    checkpoint_seconds: float = Field(60.0, gt=0)
    """Seconds between checkpoints of a training stage."""

    def of(self, stage: Stage | type[Stage]) -> Workers:
        """The workers of a stage; by default those of `scale` for trainings and for stages that
        read a model which is shared out, else one."""
        own = getattr(self, stage.kind, None)
        named = own.model_fields_set if isinstance(own, Workers) else frozenset[str]()
        plain = {name: getattr(self, name) for name in Workers.model_fields}
        trains = issubclass(stage if isinstance(stage, type) else type(stage), TrainingStage)
        # A model that workers share out in its training may not fit on one of them.
        if not (trains or (isinstance(stage, Stage) and stage.distributable and stage.shard)):
            plain["workers"] = 1
        found = Workers(**{**plain, **{name: getattr(own, name) for name in named}})
        if stage.needs_gpu and not stage.prepares:
            return found
        return found.model_copy(update={"gpus_per_worker": 0})


MIRRORS: Mapping[str, str] = {
    "wandb": "wandb",
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
"""The built-in mirrors, and the packages that they need."""
_MIRROR_METHODS = ("ways", "on_stage", "on_trial", "on_study", "close")


def mirror_names(value: object) -> object:
    """`none` is the empty list, and one name a list of one."""
    names = [value] if isinstance(value, str) else value
    return () if names == ["none"] else names


def check_mirror(name: str) -> str:
    """Raise InputError for a mirror that is neither built in nor a class of the user's."""
    if name in MIRRORS:
        if find_spec(MIRRORS[name]) is None:
            raise InputError(
                f"the package {MIRRORS[name]} is not installed",
                got=name,
                fix=f"pip install 'l2kd-ray[{name}]'",
            )
    else:
        found, _ = door.find("mirrors", name, dict.fromkeys((*MIRRORS, "none")), key="report_to")
        if not isinstance(found, type) or not all(hasattr(found, one) for one in _MIRROR_METHODS):
            raise InputError(
                "it is no mirror",
                got=name,
                expected="a subclass of l2kd_ray.mirrors.Mirror",
            )
    return name


class WandbSettings(Section):
    project: str = "l2kd"
    entity: str | None = None
    mode: Literal["auto", "offline", "online", "disabled"] = "auto"
    """`auto`: online if an API key is set, else offline."""
    students: bool = False
    """Upload each trial's final student as an artifact of its run."""


class EventSettings(Section):
    """A command or an http(s) URL for each event of a sweep."""

    finished: Command | None = Field(None, min_length=1)
    failed: Command | None = Field(None, min_length=1)
    look: Command | None = Field(None, min_length=1)
    """A planned look of `tune.stop.half_width` or `scheduler: race` has been reached."""


class HarnessSettings(Section):
    """Tasks of lm-eval, the Language Model Evaluation Harness (the extra `lm-eval`)."""

    tasks: Mapping[str, str] = Field(min_length=1)
    """The metric of each task, such as `{hellaswag: acc_norm}`; higher must be better."""
    limit: int | None = Field(None, ge=1)
    """Number of examples of each task (default: all)."""
    num_fewshot: int | None = Field(None, ge=0)
    """Number of examples that are shown before each (default: the task's)."""


class Retention(Section):
    """Measures, before and after each task, of what a model could do before the stream."""

    texts: FilePath | None = None
    """General text, one text a line: the cross-entropy on it is measured."""
    tasks: tuple[TaskSpec, ...] = ()
    """Tasks that are evaluated and never learned."""
    lm_eval: HarnessSettings | None = None
    """Tasks of lm-eval; each is a stage with the resources of `scale.lm_eval`."""

    _one_is_a_list = field_validator("tasks", mode="before")(list_of_one)


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class CrossedSeeds(Section):
    """Seeds of which every combination is run; those not named are the training seed's."""

    train: Seeds
    replay: Seeds | None = None
    data: Seeds | None = None

    _one_is_a_list = field_validator("*", mode="before")(list_of_one)


class RandomOrders(Section):
    random: int = Field(ge=1)


class SearchOrders(Section):
    """A search for the order that is worst, or best, for one method."""

    search: Literal["worst", "best"]
    budget: int = Field(ge=1)
    """Orders tried in all: half of them are drawn at random, as `random` draws them."""
    method: str | None = None
    """The arm that proposed orders are run with (default: the first of the study)."""

    def drawn(self, tasks: int) -> int:
        """The number of orders drawn before the search: whole blocks of n (`orders._blocks`)."""
        return max(self.budget // 2 // tasks, 1) * tasks


def _split_orders(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [
            [name.strip() for name in item.split(SEPARATOR)] if isinstance(item, str) else item
            for item in value
        ]
    return value


OrdersSetting = Annotated[
    Literal["all", "williams"]
    | RandomOrders
    | SearchOrders
    | Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)],
    BeforeValidator(_split_orders),
]
