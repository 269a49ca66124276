"""Names that the result files are written and read with: shared by `study` and `analysis`."""

from __future__ import annotations

from collections.abc import Mapping

MULTITASK, SINGLE, MULTILM = "multitask", "single", "multilm"
REFERENCES = (MULTITASK, SINGLE, MULTILM)
"""Methods that students are measured against and that have no order: all tasks at once; each task
alone; all tasks at once with the LM loss too, where a study lists it."""
SEPARATOR = ">"
"""Between the tasks of an order: `a>b>c`."""
NO_SETTING = "{}"
"""The text of a setting (JSON) where nothing is searched."""
SCORE_COLUMNS: Mapping[str, str] = {
    "trial": "str",
    "method": "str",
    "setting": "str",
    "order": "str",
    "seed": "str",
    "i": "int64",
    "j": "int64",
    "task": "str",
    "split": "str",
    "metric": "str",
    "score": "float64",
    "key": "str",
    "model": "str",
    "teacher": "str",
    "teacher_score": "float64",
}
"""The columns of `scores.parquet` and their types: one row per (trial, i, task j, split).

`teacher`, `teacher_score`: the model that taught the trial's student task j ("" if none did), and
its own score on that task."""
