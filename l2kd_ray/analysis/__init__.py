"""From scores to answers: gap, forgetting, transfer, order statistics. Values only, no prose."""

from l2kd_ray.analysis.advice import Advice, advise
from l2kd_ray.analysis.assisted import assisted
from l2kd_ray.analysis.compare import compare, shown_arms
from l2kd_ray.analysis.components import decompose
from l2kd_ray.analysis.design import (
    Cells,
    Design,
    Instance,
    cells,
    finished_orders,
    mean_over,
    scored_zero,
)
from l2kd_ray.analysis.examples import ExampleGaps, example_variance
from l2kd_ray.analysis.halves import Halves, Optimism, halves, optimism, within
from l2kd_ray.analysis.looks import Outcome, Verdict, at_looks, planned_looks, stop_rule
from l2kd_ray.analysis.mean import moments
from l2kd_ray.analysis.note import Caveat, NoInterval, Note, OrderPopulation, Reach, Undefined
from l2kd_ray.analysis.orders import mean_gap, over_orders
from l2kd_ray.analysis.paired import compare_methods, holm, paired, sign_flip
from l2kd_ray.analysis.places import mean_by, task_rows
from l2kd_ray.analysis.precedence import effects, extremes, precedence_map
from l2kd_ray.analysis.race import race
from l2kd_ray.analysis.ratio import ratio
from l2kd_ray.analysis.sanity import Doubt, Flaw, TaskFacts, doubted, sanity
from l2kd_ray.analysis.selection import select
from l2kd_ray.analysis.shares import gap_closed
from l2kd_ray.analysis.trials import results, trials
from l2kd_ray.analysis.worst import cvar, orders_beyond_worst, quantile_bound
from l2kd_ray.names import MULTITASK

__all__ = [
    "MULTITASK",
    "Advice",
    "Caveat",
    "Cells",
    "Design",
    "Doubt",
    "ExampleGaps",
    "Flaw",
    "Halves",
    "Instance",
    "NoInterval",
    "Note",
    "Optimism",
    "OrderPopulation",
    "Outcome",
    "Reach",
    "TaskFacts",
    "Undefined",
    "Verdict",
    "advise",
    "assisted",
    "at_looks",
    "cells",
    "compare",
    "compare_methods",
    "cvar",
    "decompose",
    "doubted",
    "effects",
    "example_variance",
    "extremes",
    "finished_orders",
    "gap_closed",
    "halves",
    "holm",
    "mean_by",
    "mean_gap",
    "mean_over",
    "moments",
    "optimism",
    "orders_beyond_worst",
    "over_orders",
    "paired",
    "planned_looks",
    "precedence_map",
    "quantile_bound",
    "race",
    "ratio",
    "results",
    "sanity",
    "scored_zero",
    "select",
    "shown_arms",
    "sign_flip",
    "stop_rule",
    "task_rows",
    "trials",
    "within",
]
