"""Sentences on a plan: what will run, and what has changed since the last sweep."""

from __future__ import annotations

import math

from l2kd_ray.report.labels import method_label
from l2kd_ray.study import Study
from l2kd_ray.study.changes import Changes
from l2kd_ray.study.schema import SearchOrders

_MOST_SHOWN = 8


def trial_words(study: Study) -> str:
    """The trials in words: `2 of 6 orders x 3 seeds of l2kd (4 settings): 24 trials; ...`."""
    config = study.config
    orders = [order for order in study.orders if order]
    most = math.factorial(len(study.tasks))
    instances = f"{len(orders)} of {most:,} orders x " if orders else ""
    instances += _counted(len(config.replicates), "seed")
    arms, trials = [], 0
    for arm in config.arms:
        searched = study.reads_search(arm)
        settings = len(study.settings(arm)) if not study.is_adaptive or not searched else 0
        settings = settings or config.tune.num_samples
        trials += settings * len(study.orders) * len(config.replicates)
        words = f" ({_counted(settings, 'setting')})" if searched else ""
        arms.append(method_label(arm.name) + words)
    beside = " and ".join(map(method_label, study.references))
    at_most = "at most " if study.is_adaptive or isinstance(config.orders, SearchOrders) else ""
    return (
        f"{instances} of {', '.join(arms)}: {at_most}{_counted(trials, 'trial')}; "
        f"beside them {beside}, once a seed."
    )


def change_words(found: Changes) -> list[str]:
    """The changes since the last sweep in words, and how much of it can be used."""
    shown = list(found.settings.items())[:_MOST_SHOWN]
    listed = "; ".join(f"{key}: {before} -> {now}" for key, (before, now) in shown)
    more = len(found.settings) - len(shown)
    lines = [f"Changed since the last sweep: {listed}" + (f"; and {more} more." if more else ".")]
    used = f"Of its {found.former} stages this study needs {found.used}."
    if found.first:
        used += f" Its {found.first} stages are all new, and so is all that is made from them."
    if found.first == "tokenizer":
        used += (
            " A tokenizer is trained on the study's tasks: to keep one, set tokenizer.tasks or "
            "tokenizer.model."
        )
    return [*lines, used]


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + ("" if number == 1 else "s")
