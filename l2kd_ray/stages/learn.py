"""Learning: one task (student or teacher), or all tasks at once (the multi-task bound)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from l2kd_ray.config import Distillation, Training
from l2kd_ray.stages.base import Context, Scores, Stage
from l2kd_ray.stages.replay import Replay, read_samples
from l2kd_ray.stages.start import Initial
from l2kd_ray.tasks import TaskData

CURVE = "curve.json"


@dataclass(frozen=True, eq=False)
class Learn(Stage):
    """`start` learns `tasks`, beside replayed samples, from the labels or from a teacher too.

    The file folder is a Hugging Face model with its tokenizer, and `curve.json`, a row a step.
    `distillation` is None where its weight is 0 (there is no teacher then); `replay_weight` is
    None without replay.
    """

    kind = "learn"
    distributable = True
    start: Initial | Learn
    tasks: tuple[TaskData, ...]
    training: Training
    seed: int
    replay: Replay | None = None
    replay_weight: str | float | None = None
    teacher: Learn | None = None
    distillation: Distillation | None = None

    @property
    def place(self) -> str:
        """The name of its random streams."""
        return "+".join(data.task for data in self.tasks)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.distill.objectives import SoftTargets
        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.sequences import SequenceFormat
        from l2kd_ray.stages.loop import Curriculum, fit

        folder = context.files_of(self.start)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder)
        longest = min(self.training.max_length or model.context, model.context)
        samples = [
            sample
            for data in self.tasks
            for sample in text.samples(data.examples(), data.task, longest)
        ]
        curriculum = Curriculum(
            samples=samples,
            replayed=read_samples(context.files_of(self.replay)) if self.replay else [],
            replay_weight="natural" if self.replay_weight is None else self.replay_weight,
            format=text,
            training=self.training,
            seed=self.seed,
            place=self.place,
        )
        kd = self.distillation
        objective = SoftTargets(
            temperature=kd.temperature if kd else 1.0,
            weight=kd.weight if kd else 0.0,
            answer_weight=self.training.answer_weight,
            weigh_kd=kd is not None and kd.answer_weight == "keep",
        )
        teacher = None
        if self.teacher is not None and objective.requires:
            teacher = CausalLM.load(context.files_of(self.teacher))
        if teacher is not None and teacher.vocabulary != model.vocabulary:
            raise ValueError(
                f"the teacher's vocabulary ({teacher.vocabulary}) is not the student's "
                f"({model.vocabulary}): word-KD compares them token by token"
            )
        curve = fit(self, model, teacher, objective, curriculum, context)
        if context.rank == 0:
            model.save(context.out)
            text.save(context.out)
            (context.out / CURVE).write_text(json.dumps(curve))
        return {"loss": curve[-1]["loss"], "steps": len(curve)}


@dataclass(frozen=True, eq=False)
class Multitask(Learn):
    """All tasks at once: what the lifelong student is measured against."""

    kind = "multitask"

    @property
    def place(self) -> str:
        return "multitask"
