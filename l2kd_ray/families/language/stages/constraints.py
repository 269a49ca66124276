"""Constraints against forgetting without replay: they change the gradient before each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.core.stage import Context
from l2kd_ray.families.language.stages.importance import IMPORTANCE_FILE, Importance
from l2kd_ray.families.language.stages.replay import RealSamples, read_samples

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.core.loop import GradientHook
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.stages.curriculum import Curriculum


class Constraint(Protocol):
    """A change of the global batch's gradient before each step. A frozen dataclass: its fields are
    part of the training's key."""

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        """The hook that changes the gradients of `model` in its training on `curriculum`."""


@dataclass(frozen=True)
class Penalty:
    """The penalty `strength / 2 * sum_i importance_i (theta_i - start_i)^2`, added to the loss.

    The anchor `start` is the student before the task; the importance is summed over the former
    tasks (EWC as corrected by Huszar 2018: one anchor, renewed after each task).
    """

    importance: Importance
    strength: float

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        from safetensors.torch import load_file

        importance = load_file(context.files_of(self.importance) / IMPORTANCE_FILE)
        held = [
            (value, importance[name].to(context.device), value.detach().clone())
            for name, value in model.to(context.device).named_parameters()
        ]

        def constrain(model: CausalLM) -> None:
            for value, weight, anchor in held:
                if value.grad is not None:
                    value.grad.addcmul_(weight, value.detach() - anchor, value=self.strength)

        return constrain


@dataclass(frozen=True)
class Projection:
    """GEM: no step may raise the loss on real samples of a former task, to first order.

    Each step's gradient g is replaced by the nearest g' with <g', g_k> >= 0 for the gradient g_k of
    every former task's samples (GEM, Lopez-Paz and Ranzato 2017, equations 8 to 11; `margin` is
    the lower bound on the dual that their code adds).
    """

    memory: RealSamples
    margin: float

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        from dataclasses import replace

        from l2kd_ray.core.loop import accumulate
        from l2kd_ray.distill.objectives import SoftTargets
        from l2kd_ray.families.language.stages.curriculum import SampleSource

        samples = read_samples(context.files_of(self.memory))
        tasks = sorted({sample.task for sample in samples})
        alone = replace(context, rank=0, world_size=1)  # every worker computes on the whole memory
        size = curriculum.optimisation.micro_batch or curriculum.optimisation.batch_size
        lessons = [  # a memory may be large
            replace(
                curriculum,
                new=(SampleSource([s for s in samples if s.task == task]),),
                replayed=SampleSource([]),
                objective=SoftTargets(),
            )
            for task in tasks
        ]

        def gradient_of(model: CausalLM, lesson: Curriculum) -> Tensor:
            model.zero_grad()
            model.eval()  # with dropout, each worker would see a gradient of its own
            accumulate(model, lesson.rows_of(range(len(lesson))), lesson, alone, size)
            model.train()
            return _flat(model)

        def constrain(model: CausalLM) -> None:
            step = _flat(model)
            former = [gradient_of(model, lesson) for lesson in lessons]
            _unflatten(_project(step, former, self.margin), model)

        return constrain


def _project(step: Tensor, former: Sequence[Tensor], margin: float) -> Tensor:
    """The gradient [N] nearest to `step` [N] with a product >= 0 with each of `former`."""
    import torch

    rows = torch.stack(list(former))
    products = (rows @ step).double().cpu().numpy()
    if (products >= 0).all():
        return step
    gram = (rows @ rows.T).double().cpu().numpy()
    dual = dual_solution(gram, products, margin)
    return step + torch.from_numpy(dual).to(step) @ rows


def dual_solution(
    gram: NDArray[np.float64], products: NDArray[np.float64], margin: float
) -> NDArray[np.float64]:
    """Solve GEM's dual, argmin_v v' Q v / 2 + c' v with v >= margin; Q = G G' [k, k], c = G g [k].

    With v = u + margin and Q = L L' it is non-negative least squares in u.
    """
    from scipy.optimize import nnls

    k = len(products)
    root = np.linalg.cholesky(gram + 1e-9 * max(float(np.trace(gram)) / k, 1e-30) * np.eye(k))
    shift = products + gram @ np.full(k, margin)
    solution: NDArray[np.float64] = nnls(root.T, -np.linalg.solve(root, shift))[0]
    return solution + margin


def _flat(model: CausalLM) -> Tensor:
    import torch

    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _unflatten(flat: Tensor, model: CausalLM) -> None:
    start = 0
    for parameter in model.parameters():
        if parameter.grad is not None:
            end = start + parameter.numel()
            parameter.grad.copy_(flat[start:end].view_as(parameter))
            start = end
