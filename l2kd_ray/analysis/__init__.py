"""From scores to answers: gap, forgetting, transfer, order statistics. No torch, no Ray."""

from l2kd_ray.analysis.compare import compare, gap_closed, gap_table, select
from l2kd_ray.analysis.orders import Estimate, cvar, mean_gap, over_orders
from l2kd_ray.analysis.trials import MULTITASK, REFERENCES, SINGLE, Trial, results, trials

__all__ = [
    "MULTITASK",
    "REFERENCES",
    "SINGLE",
    "Estimate",
    "Trial",
    "compare",
    "cvar",
    "gap_closed",
    "gap_table",
    "mean_gap",
    "over_orders",
    "results",
    "select",
    "trials",
]
