"""Constraints against forgetting without replay: they change the gradient before each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.families.language.stages.importance import IMPORTANCE_FILE, Importance
from l2kd_ray.families.language.stages.replay import RealSamples, read_samples

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.core.loop import GradientHook
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import Sample
    from l2kd_ray.families.language.stages.curriculum import Curriculum


@dataclass(frozen=True)
class Constraint:
    """A change of the global batch's gradient before each step. A frozen dataclass: its fields are
    part of the training's key."""

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        """The hook that changes the gradients of `model` in its training on `curriculum`."""
        raise NotImplementedError

    def scores(self, model: CausalLM, context: Context) -> Scores:
        """Scores of the constraint at the end of the training, such as the size of a penalty."""
        return {}


@dataclass(frozen=True)
class Penalty(Constraint):
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

        def constrain(model: CausalLM, step: int) -> None:
            for value, weight, anchor in held:
                if value.grad is not None:
                    value.grad.addcmul_(weight, value.detach() - anchor, value=self.strength)

        return constrain


@dataclass(frozen=True)
class Projection(Constraint):
    """GEM: no step may raise the loss on real samples of a former task, to first order.

    Each step's gradient g is replaced by the nearest g' with <g', g_k> >= 0 for the gradient g_k of
    every former task's samples (GEM, Lopez-Paz and Ranzato 2017, equations 8 to 11; `margin` is
    the lower bound on the dual that their code adds).
    """

    memory: RealSamples
    margin: float

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        samples = read_samples(context.files_of(self.memory))
        tasks = sorted({sample.task for sample in samples})
        lessons = [recalled([s for s in samples if s.task == task], curriculum) for task in tasks]

        def constrain(model: CausalLM, step: int) -> None:
            new = flat_gradient(model)
            former = [gradient(model, one, range(len(one)), context, step) for one in lessons]
            set_gradient(_project(new, former, self.margin), model, context)

        return constrain


def recalled(samples: Sequence[Sample], curriculum: Curriculum) -> Curriculum:
    """The lessons of a training with kept samples in place of its own."""
    from l2kd_ray.distill.objectives import SoftTargets
    from l2kd_ray.families.language.stages.curriculum import SampleSource

    return replace(
        curriculum,
        new=(SampleSource(samples),),
        replayed=SampleSource([]),
        objective=SoftTargets(),
    )


def gradient(
    model: CausalLM, lesson: Curriculum, indices: Sequence[int], context: Context, step: int
) -> Tensor:
    """[N]: the gradient of the loss on some samples, computed on all of them by every worker."""
    from l2kd_ray.core.loop import accumulate
    from l2kd_ray.core.memory import Fitting

    how, alone = lesson.optimisation, replace(context, rank=0, world_size=1)
    rows, most = lesson.rows_of(indices), how.micro_batch or how.batch_size  # a memory may be large

    def compute(size: int | None) -> None:
        model.zero_grad()
        accumulate(model, rows, lesson, alone, size)

    model.eval()  # with dropout, each worker would see a gradient of its own
    # What fitted before, of the training or of a memory; its notes are the training's.
    size = min(most, context.notes.get("micro_batch", most))
    Fitting(size, alone, note="", alike=()).run(compute, step, len(indices))
    model.train()
    return flat_gradient(model)


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


def flat_gradient(model: CausalLM) -> Tensor:
    """[N]: the gradients of all parameters that have one, as one vector."""
    import torch

    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def set_gradient(flat: Tensor, model: CausalLM, context: Context) -> None:
    """Write a vector as `flat_gradient` returns it back to the parameters; that of rank 0.

    Each worker has computed it for itself, and GPUs may round in another way.
    """
    import torch.distributed as dist

    if context.world_size > 1:
        dist.broadcast(flat, 0)
    start = 0
    for parameter in model.parameters():
        if parameter.grad is not None:
            end = start + parameter.numel()
            parameter.grad.copy_(flat[start:end].view_as(parameter))
            start = end
