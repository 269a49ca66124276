"""The models that stages read: to decode, to annotate, to evaluate."""

from __future__ import annotations

from l2kd_ray.core.stage import Context, Stage
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import SequenceFormat


def opened(
    stage: Stage, context: Context, precision: str | None = None
) -> tuple[SequenceFormat, CausalLM]:
    """The frozen model of a stage on the device, and how its sequences are written.

    Several workers share out a model that is shared out in its training: see `CausalLM.place`.
    """
    folder = context.files_of(stage)
    model = CausalLM.load(folder, precision).freeze()
    model.place(stage.shard, context.device)
    return SequenceFormat.load(folder), model
