"""Examples as a stage: upstream files are read once, and all other stages read its output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.tasks import Example, TaskData, texts
from l2kd_ray.tasks.spec import TaskKind

EXAMPLES = "examples.jsonl"


@dataclass(frozen=True, eq=False)
class Examples(Stage):
    """The examples of one split, in upstream order, one JSON line each.

    `owner`: the only trial that this stage and all stages built on it belong to (`share: false`).
    """

    kind = "examples"
    version = 2  # draws of texts that are not ASCII are others than those of version 1
    prepares = True
    default_seconds = 20.0
    data: TaskData
    owner: str | None = None

    @property
    def task(self) -> str:
        return self.data.task

    @property
    def rows(self) -> int:
        """Number of examples."""
        return self.data.rows

    def run(self, context: Context) -> Scores:
        examples = self.data.examples()
        with (context.out / EXAMPLES).open("w", encoding="utf-8") as file:
            for example in examples:
                file.write(json.dumps(_line(example), ensure_ascii=False) + "\n")
        return {"examples": len(examples)}

    def load(self, context: Context) -> list[Example]:
        """The examples, from this stage's files. Raises: core.store.Damaged."""
        return parse_examples((context.files_of(self) / EXAMPLES).read_bytes())


def _line(example: Example) -> dict[str, Any]:
    """The example's fields; `group` only where there is one."""
    return {name: value for name, value in vars(example).items() if value is not None}


def parse_examples(file: bytes) -> list[Example]:
    """The examples in the stage's file."""
    return [_example(json.loads(line)) for line in file.split(b"\n") if line]


def _example(line: Mapping[str, Any]) -> Example:
    return Example(**{**line, "answers": tuple(line["answers"])})


@dataclass(frozen=True)
class Labelled:
    """A task's examples and its kind, which determines how their texts are read."""

    source: Examples
    kind: TaskKind

    @property
    def task(self) -> str:
        return self.source.task

    def load(self, context: Context) -> list[Example]:
        return self.source.load(context)

    def texts(self, example: Example) -> tuple[str, ...]:
        """The text of the example, or the two texts of a pair."""
        return texts(example, self.kind)
