"""The rules among the keys of a study file; `sections` refuses what is wrong by itself.

Everything is checked before a name is looked up or a stage is built.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.names import SEPARATOR
from l2kd_ray.study.sections import ONE_ORDER_ALONE, RACE, Grid, RandomOrders, SearchOrders

if TYPE_CHECKING:
    from l2kd_ray.study.schema import StudyConfig
    from l2kd_ray.study.sections import Arm

_MOST_TRIALS = 100_000
"""Trials that can be planned in some minutes: all orders of seven tasks, with three methods and six
seeds, have 90,720."""


def check(study: StudyConfig) -> None:
    """Raise InputError for keys that exclude each other, or that have no effect beside others."""
    for rule in (
        _size,
        _names,
        _order_search,
        _shards,
        _stops,
        _stop,
        _effects,
        _objectives,
        _mirrors,
        _adaptive,
    ):
        rule(study)


def _names(study: StudyConfig) -> None:
    """Raise InputError for a name that is there twice, and for orders of other tasks."""
    names = [task.name for task in study.tasks]
    held_out = study.retention.tasks if study.retention else ()
    _refuse_twice(names, "tasks")
    _refuse_twice([*names, *(task.name for task in held_out)], "retention.tasks")
    for task in held_out:
        if task.name in ("texts", "kl") or task.name.startswith("lm_eval."):
            raise InputError(
                "this is the name of another measure of retention",
                key="retention.tasks",
                got=task.name,
                fix="give the task another name",
            )
    _refuse_twice([arm.name for arm in study.methods], "methods")
    _refuse_twice([str(seed) for seed in study.replicates], "seeds")
    searched = isinstance(study.orders, SearchOrders)  # which `_order_search` refuses
    if study.orderless and study.orders != "all" and not searched:
        raise InputError(
            "it has no effect: these methods learn in no order", key="orders", fix="remove it"
        )
    if isinstance(study.orders, tuple):
        _refuse_twice([SEPARATOR.join(order) for order in study.orders], "orders")
        for order in study.orders:
            _refuse_twice(order, "orders")
            if sorted(order) != sorted(names):
                raise InputError(
                    "this is not an order of the tasks",
                    key="orders",
                    got=SEPARATOR.join(order),
                    expected=f"each of {', '.join(names)}, once",
                )


def _size(study: StudyConfig) -> None:
    """Raise InputError for more trials than can be planned, before any is made."""
    own = [_settings(study, arm) for arm in study.arms]
    factors = {
        "settings": sum(grid * samples for grid, samples in own),
        "seeds": len(study.replicates),
        "orders": _order_count(study),
    }
    if math.prod(factors.values()) > _MOST_TRIALS:
        largest = max(factors, key=lambda name: factors[name])
        grid, samples = map(max, zip(*own, strict=True))
        of_settings = {"methods": len(own), "search": grid, "tune.num_samples": samples}
        raise InputError(
            "more trials than can be planned",
            key=max(of_settings, key=lambda name: of_settings[name])
            if largest == "settings"
            else largest,
            got=" x ".join(f"{_rounded(n)} {name}" for name, n in factors.items() if n > 1),
            expected=f"at most {_MOST_TRIALS:,} trials",
            fix="draw some: orders: {random: 100}" if largest == "orders" else "",
        )


def _settings(study: StudyConfig, arm: Arm) -> tuple[int, int]:
    """The size of an arm's own grid, and the number of samples that it draws at each point."""
    own = [study.search[key] for key in study.searched_by(arm)]
    grids = [len(space.grid) for space in own if isinstance(space, Grid)]
    return math.prod(grids), study.tune.num_samples if len(grids) < len(own) else 1


def _order_count(study: StudyConfig) -> int:
    """The number of orders, of which none is made; one if no method depends on the order."""
    if study.orderless:
        return 1
    if isinstance(study.orders, RandomOrders):
        return study.orders.random
    if isinstance(study.orders, SearchOrders):
        return study.orders.budget
    if isinstance(study.orders, tuple):
        return len(study.orders)
    n = len(study.tasks)
    if study.orders == "all":
        return math.factorial(n)
    return n if n % 2 == 0 or n == 1 else 2 * n  # Williams's square, and its mirror image


def _order_search(study: StudyConfig) -> None:
    """Raise InputError for a search over orders that the study cannot have."""
    if not isinstance(study.orders, SearchOrders):
        return
    tasks, budget = len(study.tasks), study.orders.budget
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
    ordered = {arm.name for arm in study.arms if not study.family.methods[arm.method].orderless}
    if study.orders_arm not in ordered:
        raise InputError(
            "it is no method of the study that learns its tasks in an order",
            key="orders.method",
            got=study.orders_arm,
            expected=" or ".join(sorted(ordered)) or "such a method",
            fix="" if ordered else "write orders: all",
        )
    if study.search:
        raise InputError(
            "settings and orders cannot both be searched",
            key="search",
            got=sorted(study.search),
            fix="fix the searched keys, or write orders: {random: k}",
        )
    if study.tune.stop.half_width is not None:
        raise InputError(
            "a search over orders and tune.stop.half_width cannot be used together",
            key="tune.stop.half_width",
            got=study.tune.stop.half_width,
            fix="remove it, or write orders: {random: k}",
        )


def _shards(study: StudyConfig) -> None:
    """Raise InputError for a model that is shared out among workers who cannot."""
    if getattr(study.settings.family.train, "shard", "none") == "none":
        return
    trained = (study.scale, study.scale.learn, study.scale.multitask)
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


def _stops(study: StudyConfig) -> None:
    """Raise InputError for stopping rules that exclude each other or do not fit the study."""
    from l2kd_ray.analysis.looks import FEWEST_WITH_A_LOOK

    tune = study.tune
    ways = {
        "an adaptive search (optuna, asha)": tune.adaptive,
        "tune.scheduler: race": tune.scheduler == "race",
        "search.select_on": tune.select_on is not None,
        "tune.stop.half_width": tune.stop.half_width is not None,
    }
    chosen = [name for name, on in ways.items() if on]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} cannot be used together", key="tune")
    if tune.scheduler == "race" and _order_count(study) < FEWEST_WITH_A_LOOK:
        raise InputError(
            "a race of so few orders has no look before its last one, so it drops nothing",
            key="tune.scheduler",
            got=f"{_order_count(study)} orders",
            expected=f"at least {FEWEST_WITH_A_LOOK} orders",
            fix="remove tune.scheduler",
        )
    seeds = len({seed.train for seed in study.replicates})
    for name, count in {"orders": _order_count(study), "seeds": seeds}.items():
        if getattr(tune.select_on, name, None) is not None and count < 2:
            raise InputError(
                "a half for the selection and a half for the report need two",
                key=f"tune.select_on.{name}",
                got=f"1 of {name}",
                fix=f"name more {name}, or remove it",
            )


def _stop(study: StudyConfig) -> None:
    """Raise InputError for `tune.stop` where the study has not what it needs."""
    tune, names = study.tune, [arm.name for arm in study.arms]
    if tune.stop.method is not None and tune.stop.method not in names:
        raise InputError(
            "no such method",
            key="tune.stop.method",
            got=tune.stop.method,
            expected=" or ".join(names),
            fix=did_you_mean(tune.stop.method, names),
        )
    if tune.stop.half_width is not None and study.search:
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


def _effects(study: StudyConfig) -> None:
    """Raise InputError for keys of a search that change nothing in this one."""
    tune = study.tune
    searching = {"num_samples", "searcher", "scheduler", "select_on", "seed", "objectives"}
    unread = sorted(tune.model_fields_set & searching) if not study.search else []
    if unread:
        raise InputError(
            "it has no effect: nothing is searched", key=f"tune.{unread[0]}", fix="remove it"
        )
    drawn = {"num_samples", "seed"} & tune.model_fields_set
    if drawn and all(isinstance(space, Grid) for space in study.search.values()):
        raise InputError(
            "it has no effect: every point of a grid is tried, none is drawn",
            key=f"tune.{min(drawn)}",
            fix="remove it",
        )
    if "reduction" in tune.model_fields_set and tune.scheduler != "asha":
        raise InputError("it has no effect without scheduler: asha", key="tune.reduction")


def _objectives(study: StudyConfig) -> None:
    """Raise InputError for two objectives that the search or the study has not."""
    tune, chosen = study.tune, study.tune.objectives
    if chosen is None:
        return
    texts = study.retention is not None and study.retention.texts is not None
    for wrong, problem, fix in (
        (tune.searcher != "optuna", "they are Optuna's", "set tune.searcher: optuna"),
        (tune.scheduler == "asha", "ASHA cuts by one objective", "remove tune.scheduler"),
        (len({*chosen}) < 2, "they are one objective", "name two, or remove it"),
        (
            study.orderless or len(study.tasks) < 2,
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


def _mirrors(study: StudyConfig) -> None:
    """Raise InputError for settings of a mirror or of an event that the study has not."""
    _refuse_twice(study.report_to, "report_to")
    if "wandb" not in study.report_to and study.wandb.model_fields_set:
        raise InputError(
            "it has no effect: wandb is not among the mirrors of report_to",
            key=f"wandb.{min(study.wandb.model_fields_set)}",
            fix="remove it, or name wandb in report_to",
        )
    looks = study.tune.stop.half_width is not None or study.tune.scheduler == "race"
    if study.on_event is not None and study.on_event.look and not looks:
        raise InputError(
            "it has no effect: the study has no planned looks",
            key="on_event.look",
            got=study.on_event.look,
            fix="remove it, or set tune.stop.half_width or tune.scheduler: race",
        )


def _adaptive(study: StudyConfig) -> None:
    """Raise InputError for what an adaptive search needs, and for grids, which it has not."""
    grids = [key for key, space in study.search.items() if isinstance(space, Grid)]
    if study.tune.adaptive and grids:
        raise InputError(
            "an adaptive search draws settings and takes no grid",
            key=f"search.{grids[0]}",
            fix="write choice: [...]",
        )
    if study.tune.scheduler == "asha" and (study.rungs is None or not study.orderless):
        fix = RACE
        if study.orderless and hasattr(study.settings.family.train, "rungs"):
            fix = f"name train.rungs, epochs after which a training may end; or {RACE}"
        raise InputError(ONE_ORDER_ALONE, key="tune.scheduler", got="asha", fix=fix)


def _rounded(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"{Decimal(number):.0e}"


def _refuse_twice(values: Iterable[str], key: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{value} is named twice", key=key, fix="name it once")
