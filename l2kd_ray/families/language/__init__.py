"""Lifelong language models: one model learns a stream of tasks as text (L2KD and baselines)."""

from l2kd_ray.families.family import Family
from l2kd_ray.families.language.builder import LanguageBuilder
from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.families.language.settings import LanguageSettings

LANGUAGE = Family(
    "language", "lifelong language models", LanguageSettings, LanguageBuilder, LANGUAGE_METHODS
)
