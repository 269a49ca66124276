"""Evaluation of one model on one split of a task; it keeps the score of each example."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.door import named
from l2kd_ray.families.examples import Examples
from l2kd_ray.tasks import Example, Judged, judge
from l2kd_ray.tasks.spec import Metric

PREDICTIONS = "predictions.jsonl"
SAME_ANSWER, SAME_REFERENCE = "same/answers", "same/references"
"""Scores: the percentage of the most frequent answer, and that of the most frequent reference."""
_LEAK_FREE = "leak_free"


@dataclass(frozen=True, eq=False)
class Measure(Stage):
    """A measurement of a model: the score `metric_name` among the stage's scores."""

    default_seconds = 30.0
    model: Stage

    @property
    def task(self) -> str:
        raise NotImplementedError

    @property
    def metric_name(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Evaluate(Measure):
    """The model's answers on a split, with their scores by the task's metric and the extras."""

    kind = "evaluate"
    version = 2
    examples: Examples
    metric: Metric
    extras: tuple[Metric, ...] = ()
    seen: Examples | None = None
    """All training examples, if scores are also wanted over the examples not seen in training."""

    @property
    def task(self) -> str:
        return self.examples.task

    @property
    def amount(self) -> float:
        return float(self.examples.rows)

    @property
    def metric_name(self) -> str:
        return named(self.metric)

    def run(self, context: Context) -> Scores:
        examples = self.examples.load(context)
        predictions, cut = self.answers(context, examples)
        judged = {
            named(metric): judge(metric, predictions, examples)
            for metric in (self.metric, *self.extras)
        }
        fresh = None if self.seen is None else unseen(examples, self.seen.load(context))
        write_predictions(context.out / PREDICTIONS, examples, predictions, judged, fresh)
        references = [example.answers[0] for example in examples]
        same = {SAME_ANSWER: _largest(predictions), SAME_REFERENCE: _largest(references)}
        return {**totals(judged, len(examples), fresh), **same, **cut}

    def answers(self, context: Context, examples: Sequence[Example]) -> tuple[list[str], Scores]:
        """The model's answer to each example, as text, and what was cut (`cut_scores`)."""
        raise NotImplementedError


def _largest(texts: Sequence[str]) -> float:
    """The percentage of the most frequent text, apart from case and white space."""
    counts = Counter(" ".join(text.lower().split()) for text in texts)
    return 100 * max(counts.values()) / len(texts)


def unseen(examples: Sequence[Example], training: Sequence[Example]) -> list[int]:
    """The indices of the examples whose context occurs in no training example."""
    contexts = {example.context for example in training}
    return [index for index, example in enumerate(examples) if example.context not in contexts]


def totals(judged: Mapping[str, Judged], size: int, fresh: Sequence[int] | None) -> Scores:
    """Each metric over all examples; with `fresh` (indices), also over those, and their number."""
    scores: dict[str, float] = {name: each.over(range(size)) for name, each in judged.items()}
    if fresh is not None:
        scores[f"examples/{_LEAK_FREE}"] = len(fresh)
    if fresh:
        scores |= {f"{name}/{_LEAK_FREE}": each.over(fresh) for name, each in judged.items()}
    return scores


def write_predictions(
    path: Path,
    examples: Sequence[Example],
    predictions: Sequence[str],
    judged: Mapping[str, Judged],
    fresh: Sequence[int] | None,
) -> None:
    """Write one JSON line per example; `score` is the score by the first metric."""
    kept = set(fresh or ())
    first, *extras = judged
    with path.open("w", encoding="utf-8") as file:
        for index, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
            line: dict[str, object] = {"id": example.id, "prediction": prediction}
            line["score"] = judged[first].each[index]
            line |= {metric: judged[metric].each[index] for metric in extras}
            if example.group is not None:
                line["group"] = example.group
            if fresh is not None:
                line[_LEAK_FREE] = index in kept
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
