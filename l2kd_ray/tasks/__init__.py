"""Data: readers, the named tasks, the generated tasks, metrics.

task = resolve(spec, data_dir=..., data_seed=0, caps={}, where="study.yaml")
examples = task.splits["dev"].examples()
aggregate, per_example = score(task.metric, predictions, examples)
"""

from l2kd_ray.tasks.data import Source, Task, TaskData
from l2kd_ray.tasks.examples import Converted, Example, LeftOut, RowCounts, Tally
from l2kd_ray.tasks.labelled import labels, texts
from l2kd_ray.tasks.metrics import METRICS, Judged, judge, score
from l2kd_ray.tasks.readers.squad import write as write_squad
from l2kd_ray.tasks.registry import Registered, family, registered
from l2kd_ray.tasks.resolution import resolve

__all__ = [
    "METRICS",
    "Converted",
    "Example",
    "Judged",
    "LeftOut",
    "Registered",
    "RowCounts",
    "Source",
    "Tally",
    "Task",
    "TaskData",
    "family",
    "judge",
    "labels",
    "registered",
    "resolve",
    "score",
    "texts",
    "write_squad",
]
