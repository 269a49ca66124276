"""A plan in words: what will run, at what cost, and what has changed since the last sweep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from l2kd_ray.report.labels import count, method_label
from l2kd_ray.report.sentences import foresight_words
from l2kd_ray.study import Study
from l2kd_ray.study.changes import Changes
from l2kd_ray.study.plan import Plan
from l2kd_ray.study.sections import SearchOrders

if TYPE_CHECKING:
    from rich.table import Table

_MOST_SHOWN = 8


def trial_words(study: Study) -> str:
    """The trials in words: `2 of 6 orders x 3 seeds of l2kd (4 settings): 24 trials; ...`."""
    config = study.config
    orders = [order for order in study.orders if order]
    most = math.factorial(len(study.tasks))
    instances = f"{len(orders)} of {most:,} orders x " if orders else ""
    instances += count(len(config.replicates), "seed")
    arms, trials = [], 0
    for arm in config.arms:
        searched = study.reads_search(arm)
        settings = len(study.settings(arm)) if not study.is_adaptive or not searched else 0
        settings = settings or config.tune.num_samples
        trials += settings * len(study.orders) * len(config.replicates)
        words = f" ({count(settings, 'setting')})" if searched else ""
        arms.append(method_label(arm.name) + words)
    if isinstance(config.orders, SearchOrders):
        proposed = config.orders.budget - config.orders.drawn(len(study.tasks))
        trials += proposed * len(config.replicates)
    beside = " and ".join(map(method_label, study.references))
    depends = (
        study.is_adaptive,
        isinstance(config.orders, SearchOrders),
        config.tune.scheduler == "race",
        config.tune.select_on is not None,
        config.tune.stop.half_width is not None,
    )
    at_most = "at most " if any(depends) else ""
    return (
        f"{instances} of {', '.join(arms)}: {at_most}{count(trials, 'trial')}; "
        f"beside them {beside}, once a seed."
    )


def order_search_words(study: Study) -> str | None:
    """How many orders are drawn, and how many proposed; None where none are searched."""
    setting, tasks = study.config.orders, len(study.tasks)
    if not isinstance(setting, SearchOrders):
        return None
    drawn = setting.drawn(tasks)
    return (
        f"A search for the {setting.search} order of {study.config.orders_arm}: {drawn} orders "
        f"drawn at random, then up to {setting.budget - drawn} proposed, {tasks} at once."
    )


def stage_table(study: Study, planned: Plan) -> Table:
    """The stages of each role: as separate runs, shared, stored, to do."""
    from rich.table import Table

    trials = f"{'at most ' if study.is_adaptive else ''}{planned.trials} trials"
    table = Table(box=None, title=trials, title_justify="left")
    for column in ("stages", "unshared", "shared", "stored", "to do"):
        table.add_column(column, justify="left" if column == "stages" else "right")
    rows = {
        role: (found.naive, found.unique, found.stored, found.todo)
        for role, found in planned.stages.items()
    }
    for role, numbers in rows.items():
        if planned.stages[role].unique:
            table.add_row(role, *map(str, numbers))
    totals = map(sum, zip(*rows.values(), strict=True))
    table.add_row("all", *map(str, totals), style="bold")
    return table


def plan_words(planned: Plan) -> list[str]:
    """Sentences on what has changed, the cost, the precision to expect, and teachers' outputs."""
    lines = [] if planned.changes is None else change_words(planned.changes)
    lines.append(cost_words(planned))
    if planned.foresight is not None:
        lines.append(foresight_words(planned.foresight))
    if (kept := planned.outputs) is not None:
        size = "" if kept.bytes is None else f" (at most {kept.bytes / 1e6:.0f} MB)"
        lines.append(
            f"Teacher outputs kept: {kept.stages}{size}; they save {kept.passes_saved} forward "
            "passes over a task (above 0 they pay)."
        )
    return lines


def cost_words(planned: Plan) -> str:
    """Time, disk and memory of what is to do, as far as they are known."""
    if not planned.missing:
        return "Everything is in the store."
    by_kind = planned.seconds_by_kind
    if by_kind is None or planned.bytes is None:
        return (
            "Time and disk: not known before a first stage of each kind is in the store. "
            "`l2kd plan --measure` runs a small one of each, which the sweep then uses."
        )
    minutes, size = sum(by_kind.values()) / 60, planned.bytes / 1e6
    words = f"To do: about {minutes:.1f} minutes on one worker, {size:.0f} MB of disk"
    if planned.peak_memory:
        kind, most = max(planned.peak_memory.items(), key=lambda one: one[1])
        words += f", {most / 1e9:.1f} GB of memory in one process ({kind})"
    if planned.guessed:
        guessed = ", ".join(planned.guessed)
        words += f": a guess for {guessed}, from other studies, models or data (--measure runs own)"
    if by_kind.get("evaluate", 0) > by_kind.get("learn", 0) + by_kind.get("multitask", 0) > 0:
        words += ". Evaluating takes longer than training: max_test and max_dev cap the examples"
    return f"{words}."


def change_words(found: Changes) -> list[str]:
    """The changes since the last sweep in words, and how much of it can be used."""
    lines = [f"Changed since the last sweep: {setting_words(found)}."]
    used = f"Of its {found.former} stages this study needs {found.used}."
    if found.first:
        used += f" Its {found.first} stages are all new, and so is all that is made from them."
    if found.first == "tokenizer":
        used += (
            " A tokenizer is trained on the study's tasks: to keep one, set tokenizer.tasks or "
            "tokenizer.model."
        )
    return [*lines, used]


def setting_words(found: Changes) -> str:
    """The changed settings, the first of them by name: `train.epochs: 25 -> 5; and 3 more`."""
    shown = list(found.settings.items())[:_MOST_SHOWN]
    listed = "; ".join(f"{key}: {before} -> {now}" for key, (before, now) in shown)
    more = len(found.settings) - len(shown)
    return listed + (f"; and {more} more" if more else "")
