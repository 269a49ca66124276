"""Counts of each split of a task: all that is known before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from l2kd_ray.tasks.examples import Example, RowCounts
from l2kd_ray.tasks.metrics import score, unscorable
from l2kd_ray.tasks.spec import Metric, TaskKind

LABELLED: frozenset[TaskKind] = frozenset({"classify", "pair"})
"""The kinds of task whose answers are labels."""


@dataclass(frozen=True)
class SplitSummary:
    """Counts of the examples of one split, after the dev split is carved and caps are applied."""

    rows: RowCounts
    """Counts of the rows of its source; a dev split that is carved has those of training."""
    kept: int
    """Examples that the study uses."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Number of examples of each label, most frequent first; empty where answers are free text."""
    unseen_labels: tuple[str, ...] = ()
    """Labels that the training split lacks."""
    repeated: int = 0
    """Examples equal to an earlier one of the split (inputs and answers)."""
    in_train: int = 0
    """Examples whose inputs occur in the training split; 0 for the training split itself."""
    unscorable: int = 0
    """Examples of which no reference leaves anything that the task's metric compares."""
    majority: float | None = None
    """Score, in points, of always answering the most frequent label; None without labels."""

    @property
    def unseen(self) -> int:
        """Number of examples with a label that the training split lacks."""
        return sum(self.labels[label] for label in self.unseen_labels)


def summarise(
    examples: Sequence[Example],
    train: Sequence[Example] | None,
    *,
    rows: RowCounts,
    kind: TaskKind,
    metric: Metric,
) -> SplitSummary:
    """Count the examples of a split; `train`: those of the training split, None for itself."""
    labels = _labels(examples) if kind in LABELLED else {}
    learnt = _labels(train or ()) if labels else {}
    inputs = set(map(_input, train or ()))
    majority = None
    if labels:
        answer = next(iter(labels))
        majority, _ = score(metric, [answer] * len(examples), examples)
    return SplitSummary(
        rows=rows,
        kept=len(examples),
        labels=labels,
        unseen_labels=tuple(label for label in labels if label not in learnt) if train else (),
        repeated=len(examples) - len({(*_input(one), one.answers) for one in examples}),
        in_train=sum(_input(one) in inputs for one in examples),
        unscorable=len(unscorable(metric, examples).examples),
        majority=majority,
    )


def _labels(examples: Iterable[Example]) -> dict[str, int]:
    """The number of examples of each label, most frequent first, then by name."""
    counts = Counter(example.answers[0] for example in examples)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _input(example: Example) -> tuple[str, str]:
    return example.context, example.question
