"""A study: its trials, the trie that their paths make, its plan and its scores."""

from l2kd_ray.study.loading import load, resolve_study
from l2kd_ray.study.plan import Plan, intermediate, plan
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Cell, Trial
from l2kd_ray.study.work import work_by_method

__all__ = [
    "Cell",
    "Plan",
    "Study",
    "Trial",
    "intermediate",
    "load",
    "plan",
    "resolve_study",
    "work_by_method",
]
