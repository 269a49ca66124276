"""A study: its trials, the trie that their paths make, its plan and its scores."""

from l2kd_ray.study.loading import load, resolve_study
from l2kd_ray.study.plan import Plan, plan
from l2kd_ray.study.study import Study
from l2kd_ray.study.trial import Trial

__all__ = [
    "Plan",
    "Study",
    "Trial",
    "load",
    "plan",
    "resolve_study",
]
