"""Evaluation of a classifier: the label of the largest logit, or the predicted number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.families.cut import cut_scores
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.families.examples import Labelled
from l2kd_ray.tasks import Example
from l2kd_ray.tasks.spec import TaskKind


@dataclass(frozen=True, eq=False)
class EvaluateClassifier(Evaluate):
    """Evaluation of a classifier; `task_kind` determines which texts of an example are read."""

    task_kind: TaskKind = "classify"

    def answers(self, context: Context, examples: Sequence[Example]) -> tuple[list[str], Scores]:
        from l2kd_ray.families.classifiers.stages.learn import head_of, outputs
        from l2kd_ray.families.classifiers.stages.start import load_classifier

        model, labels = load_classifier(context.files_of(self.model))
        model.to(context.device).freeze()
        labelled = Labelled(self.examples, self.task_kind)
        logits = outputs(model, labelled, examples, context.device)
        excess = model.body.excess([labelled.texts(example) for example in examples])
        return labels.answers(head_of(model, self.task), logits), cut_scores(excess)
