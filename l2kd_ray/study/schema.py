"""The frame of a study: tasks, orders, seeds, methods, search, scale, storage.

The settings of its methods (`kd`, `train`, ...) belong to their family (`families.settings`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from importlib.util import find_spec
from itertools import combinations, product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    field_validator,
    model_validator,
)

from l2kd_ray import door
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Stage, TrainingStage
from l2kd_ray.errors import InputError
from l2kd_ray.families import Family
from l2kd_ray.families.settings import Settings
from l2kd_ray.names import MULTITASK, REFERENCES, SEPARATOR, SINGLE
from l2kd_ray.section import FilePath, Location, Name, Section, by_name
from l2kd_ray.tasks.spec import TaskSpec

_MOST_TRIALS = 100_000
"""Trials that can be planned in some minutes: all orders of seven tasks, with three methods and six
seeds, have 90,720."""


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
        no_gpu = {} if stage.needs_gpu and not stage.prepares else {"gpus_per_worker": 0}
        if isinstance(own, Workers):
            unset = {
                name: getattr(self, name)
                for name in Workers.model_fields
                if name not in own.model_fields_set
            }
            return own.model_copy(update=unset | no_gpu)
        plain = {name: getattr(self, name) for name in Workers.model_fields} | no_gpu
        trains = issubclass(stage if isinstance(stage, type) else type(stage), TrainingStage)
        # A model that workers share out in its training may not fit on one of them.
        if not (trains or (isinstance(stage, Stage) and stage.distributable and stage.shard)):
            plain["workers"] = 1
        return Workers(**plain)


MIRRORS: Mapping[str, str] = {
    "wandb": "wandb",
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
"""The built-in mirrors, and the packages that they need."""
_MIRROR_METHODS = ("ways", "on_stage", "on_trial", "on_study", "close")


def _mirror_names(value: object) -> object:
    """`none` is the empty list, and one name a list of one."""
    names = [value] if isinstance(value, str) else value
    return () if names == ["none"] else names


def _check_mirror(name: str) -> str:
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

    finished: str | None = Field(None, min_length=1)
    failed: str | None = Field(None, min_length=1)
    look: str | None = Field(None, min_length=1)
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

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class CrossedSeeds(Section):
    """Seeds of which every combination is run; those not named are the training seed's."""

    train: Seeds
    replay: Seeds | None = None
    data: Seeds | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, int) else value


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


class ArmsOnly(Section):
    """The methods of a study, read first because they determine the family of the other keys."""

    methods: tuple[Arm, ...] = (
        Arm(name="finetune", method="finetune"),
        Arm(name="lamol", method="lamol"),
        Arm(name="l2kd", method="l2kd"),
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _references(self) -> Self:
        for arm in self.methods:
            if arm.name in (MULTITASK, SINGLE):
                raise InputError(
                    "a reference is always run, and no other method has its name",
                    key="methods",
                    got=arm.name,
                    fix="remove it, or give the method another name",
                )
            if (arm.name == "multilm") != (arm.method == "multilm") or (
                arm.method == "multilm" and arm.settings
            ):
                raise InputError(
                    "multilm is a reference and takes neither another name nor settings",
                    key="methods",
                    got={"name": arm.name, "method": arm.method, "settings": dict(arm.settings)},
                )
        return self

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that are compared with the references."""
        return tuple(arm for arm in self.methods if arm.name not in REFERENCES)


class StudyConfig(ArmsOnly):
    """The content of a study file."""

    name: Name
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    data_dir: FilePath | None = None
    orders: OrdersSetting = "all"
    seeds: Seeds | CrossedSeeds = (531,)
    data_seed: int = Field(0, ge=0)
    family: InstanceOf[Family] = Field(exclude=True)
    """The family of the methods, including plug-in methods."""
    settings: InstanceOf[Settings] = Field(exclude=True)
    """The settings of the methods."""
    max_train: int | None = Field(None, ge=1)
    max_dev: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
    retention: Retention | None = None
    """Measures of what the students keep of what they could do before; language models only."""
    search: Mapping[str, Grid | Range] = Field(default_factory=dict)
    tune: TuneSettings = TuneSettings()
    scale: Scale = Scale()
    storage: Location = "./l2kd_results"
    keep: Literal["all", "leaves"] = "all"
    """`leaves` removes a model from which others were trained once nothing needs it any more; its
    scores and manifest remain."""
    share: bool = True
    """False: every trial runs all of its stages itself, to measure what sharing saves."""
    report_to: Annotated[
        tuple[Annotated[str, AfterValidator(_check_mirror)], ...], BeforeValidator(_mirror_names)
    ] = ("wandb",)
    """Where the study is shown, while it runs and at its end."""
    wandb: WandbSettings = WandbSettings()
    on_event: EventSettings | None = None

    @field_validator("seeds", "tasks", mode="before")
    @classmethod
    def _one_thing_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_size()
        names = [task.name for task in self.tasks]
        held_out = self.retention.tasks if self.retention else ()
        _refuse_twice(names, "tasks")
        _refuse_twice([*names, *(task.name for task in held_out)], "retention.tasks")
        _refuse_twice([arm.name for arm in self.methods], "methods")
        _refuse_twice([str(seed) for seed in self.replicates], "seeds")
        if isinstance(self.orders, tuple):
            _refuse_twice([SEPARATOR.join(order) for order in self.orders], "orders")
            for order in self.orders:
                _refuse_twice(order, "orders")
                if sorted(order) != sorted(names):
                    raise InputError(
                        "this is not an order of the tasks",
                        key="orders",
                        got=SEPARATOR.join(order),
                        expected=f"each of {', '.join(names)}, once",
                    )
        self._check_order_search()
        self._check_shards()
        self._check_stops()
        self._check_objectives()
        self._check_mirrors()
        adaptive = self.tune.adaptive
        grids = [key for key, space in self.search.items() if isinstance(space, Grid)]
        if adaptive and grids:
            raise InputError(
                "an adaptive search draws settings and takes no grid",
                key=f"search.{grids[0]}",
                fix="write choice: [...]",
            )
        if self.tune.scheduler == "asha" and self.rungs is None:
            named = hasattr(self.settings.family.train, "rungs")
            fix = f"name train.rungs, epochs after which a training may end; or {RACE}"
            fix = fix if named else RACE
            raise InputError(ONE_ORDER_ALONE, key="tune.scheduler", got="asha", fix=fix)
        return self

    def _check_size(self) -> None:
        """Raise InputError for more trials than can be planned, before any is made."""
        grids = [len(space.grid) for space in self.search.values() if isinstance(space, Grid)]
        factors = {
            "search": math.prod(grids),
            "tune.num_samples": self.tune.num_samples if len(grids) < len(self.search) else 1,
            "seeds": len(self.replicates),
            "methods": len(self.arms),
            "orders": self._order_count(),
        }
        if math.prod(factors.values()) > _MOST_TRIALS:
            largest = max(factors, key=lambda name: factors[name])
            raise InputError(
                "more trials than can be planned",
                key=largest,
                got=" x ".join(f"{_rounded(n)} {name}" for name, n in factors.items() if n > 1),
                expected=f"at most {_MOST_TRIALS:,} trials",
                fix="draw some: orders: {random: 100}" if largest == "orders" else "",
            )

    def _order_count(self) -> int:
        """The number of orders, of which none is made; one if no method depends on the order."""
        if all(self.family.methods[arm.method].orderless for arm in self.arms):
            return 1
        if isinstance(self.orders, RandomOrders):
            return self.orders.random
        if isinstance(self.orders, SearchOrders):
            return self.orders.budget
        if isinstance(self.orders, tuple):
            return len(self.orders)
        return math.factorial(len(self.tasks)) if self.orders == "all" else 2 * len(self.tasks)

    def _check_shards(self) -> None:
        """Raise InputError for a model that is shared out among workers who cannot."""
        if getattr(self.settings.family.train, "shard", "none") == "none":
            return
        trained = (self.scale, self.scale.learn, self.scale.multitask)
        workers = [one for one in trained if one is not None]
        if max(one.maximum for one in workers) == 1:
            raise InputError(
                "a model is shared out among the workers of a training, and all have one",
                key="train.shard",
                fix="set scale.workers to 2 or more, or train.shard to none",
            )
        if any(0 < one.gpus_per_worker < 1 for one in workers):
            raise InputError(
                "workers on one GPU share its memory anyway",
                key="train.shard",
                fix="set scale.gpus_per_worker to 1, or train.shard to none",
            )

    def _check_order_search(self) -> None:
        """Raise InputError for a search over orders that the study cannot have."""
        if not isinstance(self.orders, SearchOrders):
            return
        tasks, budget = len(self.tasks), self.orders.budget
        least, possible = 2 * tasks, math.factorial(tasks)
        few = least > possible
        if not least <= budget <= possible:
            raise InputError(
                "no search over orders has this budget",
                key="orders.budget",
                got=f"{budget:,} orders of {tasks} tasks",
                expected="three tasks or more" if few else f"{least:,} to {_rounded(possible)}",
                fix="write orders: all" if few or budget > possible else "",
            )
        ordered = {arm.name for arm in self.arms if not self.family.methods[arm.method].orderless}
        if self.orders_arm not in ordered:
            raise InputError(
                "it is no method of the study that learns its tasks in an order",
                key="orders.method",
                got=self.orders_arm,
                expected=" or ".join(sorted(ordered)) or "such a method",
                fix="" if ordered else "write orders: all",
            )
        if self.search:
            raise InputError(
                "settings and orders cannot both be searched",
                key="search",
                got=sorted(self.search),
                fix="fix the searched keys, or write orders: {random: k}",
            )
        if self.tune.stop.half_width is not None:
            raise InputError(
                "a search over orders and tune.stop.half_width cannot be used together",
                key="tune.stop.half_width",
                got=self.tune.stop.half_width,
                fix="remove it, or write orders: {random: k}",
            )

    @property
    def orders_arm(self) -> str | None:
        """The arm whose orders are searched; None where none are."""
        if not isinstance(self.orders, SearchOrders):
            return None
        return self.orders.method or next((arm.name for arm in self.arms), "")

    def _check_stops(self) -> None:
        """Raise InputError for stopping rules that exclude each other or do not fit the study."""
        from l2kd_ray.analysis.looks import FEWEST_WITH_A_LOOK

        tune, names = self.tune, [arm.name for arm in self.arms]
        ways = {
            "an adaptive search (optuna, asha)": tune.adaptive,
            "tune.scheduler: race": tune.scheduler == "race",
            "search.select_on": tune.select_on is not None,
            "tune.stop.half_width": tune.stop.half_width is not None,
        }
        chosen = [name for name, on in ways.items() if on]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} cannot be used together", key="tune")
        if tune.scheduler == "race" and self._order_count() < FEWEST_WITH_A_LOOK:
            raise InputError(
                "a race of so few orders has no look before its last one, so it drops nothing",
                key="tune.scheduler",
                got=f"{self._order_count()} orders",
                expected=f"at least {FEWEST_WITH_A_LOOK} orders",
                fix="remove tune.scheduler",
            )
        seeds = len({seed.train for seed in self.replicates})
        for name, count in {"orders": self._order_count(), "seeds": seeds}.items():
            if getattr(tune.select_on, name, None) is not None and count < 2:
                raise InputError(
                    "a half for the selection and a half for the report need two",
                    key=f"tune.select_on.{name}",
                    got=f"1 of {name}",
                    fix=f"name more {name}, or remove it",
                )
        if tune.stop.method is not None and tune.stop.method not in names:
            raise InputError(
                "no such method",
                key="tune.stop.method",
                got=tune.stop.method,
                expected=" or ".join(names),
            )
        if tune.stop.half_width is not None and self.search:
            raise InputError(
                "it needs one setting per method",
                key="tune.stop.half_width",
                got=tune.stop.half_width,
                fix="fix the searched keys",
            )
        lonely = {"method", "metric"} & tune.stop.model_fields_set
        if tune.stop.half_width is None and lonely:
            raise InputError(
                "it has no effect without tune.stop.half_width", key=f"tune.stop.{min(lonely)}"
            )
        searching = {"num_samples", "searcher", "scheduler", "select_on", "seed", "objectives"}
        unread = sorted(tune.model_fields_set & searching) if not self.search else []
        if unread:
            raise InputError(
                "it has no effect: nothing is searched", key=f"tune.{unread[0]}", fix="remove it"
            )
        drawn = {"num_samples", "seed"} & tune.model_fields_set
        if drawn and all(isinstance(space, Grid) for space in self.search.values()):
            raise InputError(
                "it has no effect: every point of a grid is tried, none is drawn",
                key=f"tune.{min(drawn)}",
                fix="remove it",
            )
        if "reduction" in tune.model_fields_set and tune.scheduler != "asha":
            raise InputError("it has no effect without scheduler: asha", key="tune.reduction")

    def _check_objectives(self) -> None:
        """Raise InputError for two objectives that the search or the study has not."""
        tune, chosen = self.tune, self.tune.objectives
        if chosen is None:
            return
        texts = self.retention is not None and self.retention.texts is not None
        ordered = not any(self.family.methods[arm.method].orderless for arm in self.arms)
        for wrong, problem, fix in (
            (tune.searcher != "optuna", "they are Optuna's", "set tune.searcher: optuna"),
            (tune.scheduler == "asha", "ASHA cuts by one objective", "remove tune.scheduler"),
            (len({*chosen}) < 2, "they are one objective", "name two, or remove it"),
            (
                not ordered or len(self.tasks) < 2,
                "they are of tasks that are learned one after another",
                "remove it",
            ),
            (
                "texts" in chosen and not texts,
                "the study has no general text",
                "set retention.texts",
            ),
        ):
            if wrong:
                key = "tune.objectives"
                raise InputError(problem, key=key, got=", ".join(chosen), fix=fix)

    def _check_mirrors(self) -> None:
        """Raise InputError for settings of a mirror or of an event that the study has not."""
        _refuse_twice(self.report_to, "report_to")
        if "wandb" not in self.report_to and self.wandb.model_fields_set:
            raise InputError(
                "it has no effect: wandb is not among the mirrors of report_to",
                key=f"wandb.{min(self.wandb.model_fields_set)}",
                fix="remove it, or name wandb in report_to",
            )
        looks = self.tune.stop.half_width is not None or self.tune.scheduler == "race"
        if self.on_event is not None and self.on_event.look and not looks:
            raise InputError(
                "it has no effect: the study has no planned looks",
                key="on_event.look",
                got=self.on_event.look,
                fix="remove it, or set tune.stop.half_width or tune.scheduler: race",
            )

    @property
    def rungs(self) -> tuple[int, ...] | None:
        """Epochs after which ASHA may stop a training; None if the family has no rungs."""
        rungs: tuple[int, ...] | None = getattr(self.settings.family.train, "rungs", None)
        return rungs

    def search_examples(self) -> list[dict[str, Any]]:
        """Settings in which each searched key takes each of its examples, others their first.

        One empty setting if nothing is searched.
        """
        examples = {key: space.examples() for key, space in self.search.items()}
        first = {key: values[0] for key, values in examples.items()}
        more = [{**first, key: one} for key, values in examples.items() for one in values[1:]]
        return [first, *more]

    def search_pairs(self) -> list[dict[str, Any]]:
        """Settings in which any two examples of two searched keys meet, the others their first."""
        examples = {key: space.examples() for key, space in self.search.items()}
        first = {key: values[0] for key, values in examples.items()}
        found = (
            {**first, **dict(zip(keys, values, strict=True))}
            for keys in combinations(examples, min(2, len(examples)))
            for values in product(*(examples[key] for key in keys))
        )
        return list({repr(setting): setting for setting in found}.values())

    def to_data(self) -> dict[str, Any]:
        """The content of the study file as it was read: only the keys that were set."""
        data = self.model_dump(mode="json", exclude_unset=True)
        data |= self.settings.family.model_dump(mode="json", exclude_unset=True)
        for key, section in self.settings.options.items():
            if section.model_fields_set:
                data[key] = section.model_dump(mode="json", exclude_unset=True)
        return data

    @property
    def replicates(self) -> tuple[Seed, ...]:
        """The seeds of the study, each an independent replicate (or a crossed one)."""
        seeds = self.seeds
        if not isinstance(seeds, CrossedSeeds):
            return tuple(map(Seed.of, seeds))
        return tuple(
            Seed(train=train, replay=replay, data=data)
            for train in seeds.train
            for replay in seeds.replay or (train,)
            for data in seeds.data or (train,)
        )


def _rounded(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"{Decimal(number):.0e}"


def _refuse_twice(values: Iterable[str], key: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{value} is named twice", key=key, fix="name it once")
