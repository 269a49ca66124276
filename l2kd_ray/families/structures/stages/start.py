"""Untrained taggers and parsers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.distill.structured.case_table import HeadKind
from l2kd_ray.families.examples import Labelled
from l2kd_ray.models.pretrained import Pretrained
from l2kd_ray.tasks.tagging import words


@dataclass(frozen=True, eq=False)
class UntrainedStructure(Stage):
    """An untrained tagger or parser; its labels and words are collected from the tasks."""

    kind = "initial"
    version = 3  # the number of its layers is called `depth`
    prepares = True
    default_seconds = 20.0
    default_bytes = 5e8
    head: HeadKind
    source: Pretrained | None
    """The pretrained encoder whose states are the features; None for words and characters."""
    architecture: Mapping[str, Any]
    tasks: tuple[Labelled, ...]
    seed: int
    vectors: Pretrained | None = None

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.structures.model.structured import Architecture, build, label_set

        examples = {task.task: task.load(context) for task in self.tasks}
        labels = {
            task.task: label_set(task.kind, (example.answers[0] for example in examples[task.task]))
            for task in self.tasks
        }
        known = {
            word for own in examples.values() for example in own for word in words(example.context)
        }
        model = build(
            Architecture(head=self.head, **self.architecture),
            labels,
            words=() if self.source else sorted(known),
            encoder=self.source,
            glove=self.vectors.unchanged() if self.vectors else None,
            seed=self.seed,
        )
        model.save(context.out)
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}
