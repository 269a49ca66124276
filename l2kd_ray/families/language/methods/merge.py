"""Merging of the weights after each task: averages, TIES, MagMax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.language.builder import LanguageBuilder
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.start import Initial
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section

if TYPE_CHECKING:
    from torch import Tensor

How = Literal["average", "ties", "magmax"]


class MergeOptions(Section):
    """The merging of task vectors: each student's weights minus those of the untrained model."""

    how: How = "magmax"
    """`average`: their mean; `magmax`: the largest change of each weight; `ties`: the mean of the
    largest changes that have the elected sign."""
    density: float = Field(0.2, gt=0, le=1)
    """Read by `ties`: share of each task vector's elements that is not set to 0."""
    scale: float | None = Field(None, gt=0)
    """Factor of the merged vector (default: 0.5 for `magmax`, else 1)."""


@method(options=MergeOptions, published={"merge.how": "magmax", "merge.scale": 0.5})
def merge(
    build: LanguageBuilder, previous: Any, former: Order, task: str, seed: Seed
) -> Learn | Merge:
    """Merging after each task (MagMax, Marczak et al., ECCV 2024; TIES, Yadav et al., NeurIPS
    2023): fine-tuning goes on from the unmerged student, and the merged weights are evaluated."""
    students = previous.students if isinstance(previous, Merge) else (previous,) if former else ()
    start = students[-1] if students else previous
    learned = build.learn(start, task, seed, lm=False)
    if not former:
        return learned
    options = build.options
    return Merge(
        base=build.initial(seed),
        students=(*students, learned),
        how=options.how,
        density=options.density if options.how == "ties" else None,
        scale=options.scale or (0.5 if options.how == "magmax" else 1.0),
    )


@dataclass(frozen=True, eq=False)
class Merge(Stage):
    """The untrained model plus `scale` times the merged task vectors of the students so far.

    All students are held in memory. Files: a Hugging Face model with its tokenizer.
    """

    kind = "merge"
    needs_gpu = False
    default_seconds = 20.0
    default_bytes = 5e8
    base: Initial
    students: tuple[Learn, ...]
    how: How
    density: float | None
    scale: float

    def run(self, context: Context) -> Scores:
        import torch

        from l2kd_ray.families.language.model.causal_lm import CausalLM
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        folder = context.files_of(self.base)
        model = CausalLM.load(folder)
        students = [CausalLM.load(context.files_of(student)) for student in self.students]
        with torch.no_grad():
            vectors = [
                {name: one.get_parameter(name) - start for name, start in model.named_parameters()}
                for one in students
            ]
            least = [smallest_kept(vector.values(), self.density) for vector in vectors]
            for name, weights in model.named_parameters():
                stacked = torch.stack([vector[name] for vector in vectors])
                weights.add_(merged(stacked, self.how, least), alpha=self.scale)
        model.save(context.out)
        SequenceFormat.load(folder).save(context.out)
        return {"students": len(self.students)}


def smallest_kept(vector: Any, density: float | None) -> float:
    """The size of the smallest element among the largest share `density` of a task vector."""
    import torch

    if density is None:
        return 0.0
    sizes = torch.cat([part.abs().flatten() for part in vector])
    return float(sizes.kthvalue(len(sizes) - max(1, round(density * len(sizes))) + 1).values)


def merged(vectors: Tensor, how: How, least: Sequence[float] = ()) -> Tensor:
    """One task vector [...] from n of them [n, ...]; `least`: see `smallest_kept`, read by TIES."""
    import torch

    if how == "average":
        return vectors.mean(0)
    if how == "magmax":
        return vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).squeeze(0)
    limits = vectors.new_tensor(least).view(-1, *[1] * (vectors.dim() - 1))
    kept = torch.where(vectors.abs() >= limits, vectors, 0.0)
    agreeing = kept * (kept.sign() == kept.sum(0).sign())
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)
