"""Objectives of a student at each supervised position, with the teacher outputs they need.

Shapes: R rows (sequences) of a batch, P supervised positions of all rows, K of them with a teacher,
V vocabulary, d width. The weight of a position is the product of its row's scale (which
the training loop knows before any forward pass: instance weights over the count of the global
batch) and of its share in the objective. An objective says each row's count, and the batch's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from l2kd_ray.distill.divergences import DIVERGENCES, Divergence
from l2kd_ray.door import Plugin

if TYPE_CHECKING:  # a stage holds an objective, and a study's stages are made without torch
    from torch import Tensor

    from l2kd_ray.distill.linear_loss import Knowledge, Loss, OutputLayer
    from l2kd_ray.distill.top_k import MostLikely

NO_TEACHER = -1


@dataclass(frozen=True)
class Positions:
    """The supervised positions of a batch.

    target [P]: the token to predict; row [P]: its row; is_answer [P]: the target is `<ans>`;
    teacher [P]: the number of the teacher that gives targets there, or `NO_TEACHER`; share [P]: the
    weight w of its divergence, 0 without a teacher; first [P]: 0 where the divergence of an earlier
    position speaks for this one, too (`groups`), else 1; None if it is 1 everywhere.
    """

    target: Tensor
    row: Tensor
    is_answer: Tensor
    teacher: Tensor
    share: Tensor
    first: Tensor | None = None


@dataclass(frozen=True)
class SoftTargets:
    """`w * KD + (1 - w) * CE` at each position, w its share; w = 0 everywhere is LAMOL's own loss.

    CE = -log softmax(z)[target]; KD is the divergence, `forward` that of Word-KD (Chuang et al.
    2020), with its `parameters` where it is a built-in that has any. `unscaled` takes out the T^2
    that a built-in has. `answer_weight` is the class weight of `<ans>` in CE; `weigh_kd` lets it
    weigh KD too. The count is the sum of the positions' weights, so that
    a mean over it is torch's weighted mean. Between 0 and 1 the two are mixed position by
    position, under one common count.
    """

    temperature: float = 1.0
    answer_weight: float = 1.0
    weigh_kd: bool = False
    divergence: str | Plugin = "forward"
    parameters: tuple[tuple[str, float | bool], ...] | None = None
    unscaled: bool | None = None

    @cached_property
    def loaded_divergence(self) -> Divergence:
        """The divergence itself. Raises: InputError for a plug-in that cannot be loaded."""
        if not isinstance(self.divergence, str):
            return self.divergence.load()
        named = DIVERGENCES[self.divergence]
        # By itself where nothing is bound: `gradients` knows some of them.
        return partial(named, **dict(self.parameters)) if self.parameters else named

    def weights(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """The weights of KD [P] and of CE [P] at each position, within its row."""
        import torch

        of_class = torch.where(positions.is_answer, self.answer_weight, 1.0)
        kd = positions.share * of_class if self.weigh_kd else positions.share
        kd = kd if positions.first is None else kd * positions.first
        return kd, (1.0 - positions.share) * of_class

    def count(self, positions: Positions, rows: int) -> Tensor:
        """[R]: what each row's sum is divided by in a mean; known before any forward pass."""
        import torch

        count = torch.add(*self.weights(positions))
        return count.new_zeros(rows).index_add(0, positions.row, count)

    def loss(
        self,
        hidden: Tensor,
        head: OutputLayer,
        knowledge: Sequence[Knowledge | MostLikely | None],
        positions: Positions,
        scale: Tensor,
    ) -> Loss:
        """The sum over rows of `scale` [R] times the row's loss sum.

        Its `teachers` are 0 for positions without one, then those of `knowledge` that are not None.

        hidden [P, d]: the student's last hidden states; knowledge: by the teachers' numbers, on
        one device with it; `positions` and `scale` are on the CPU, where no question about them
        waits for a device.
        """
        from l2kd_ray.distill.linear_loss import Term, linear_loss
        from l2kd_ray.distill.transfer import to_device

        of_row = scale[positions.row]
        kd, ce = (weight * of_row for weight in self.weights(positions))
        kd = kd / self.temperature**2 if self.unscaled else kd
        known = {NO_TEACHER: None, **{n: one for n, one in enumerate(knowledge) if one is not None}}
        places = [(positions.teacher == number).nonzero().squeeze(-1) for number in known]
        labels = [bool((ce[where] > 0).any()) for where in places]
        target, ce, kd, *places = to_device((positions.target, ce, kd, *places), hidden.device)
        terms = list(map(Term, places, known.values(), labels))
        return linear_loss(
            hidden, head, target, ce, kd, terms, self.temperature, self.loaded_divergence
        )
