"""l2kd-ray: how far below multi-task does a lifelong student end, over all task orders?

import l2kd_ray
study = l2kd_ray.load_study("tune_configs/quickstart.yaml")
study.plan(); study.sweep(); study.report(); study.results()
"""

from l2kd_ray.api import compare_studies, load_study
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment

__all__ = ["Experiment", "InputError", "compare_studies", "load_study"]
