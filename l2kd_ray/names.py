"""Names that the result files are written and read with: shared by `study` and `analysis`."""

from __future__ import annotations

MULTITASK, SINGLE, MULTILM, TEACHER = "multitask", "single", "multilm", "teacher"
REFERENCES = (MULTITASK, SINGLE, MULTILM, TEACHER)
"""Methods that students are measured against and that have no order: all tasks at once; each task
alone; all tasks at once with the LM loss too, where a study lists it; the teachers, where they are
other models than the students."""
SEPARATOR = ">"
"""Between the tasks of an order: `a>b>c`."""
NO_SETTING = "{}"
"""The text of a setting (JSON) where nothing is searched."""
