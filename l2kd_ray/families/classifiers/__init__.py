"""Classifiers of texts and pairs: distilled across tasks (MKD) and across domains (Meta-KD)."""

from l2kd_ray.families.classifiers.builder import ClassifierBuilder
from l2kd_ray.families.classifiers.methods import CLASSIFIER_METHODS
from l2kd_ray.families.classifiers.settings import ClassifierSettings
from l2kd_ray.families.family import Family

CLASSIFIERS = Family(
    "classifiers",
    "classifiers of texts and pairs",
    ClassifierSettings,
    ClassifierBuilder,
    CLASSIFIER_METHODS,
)
