"""Low-rank adapters over a stream: one for all tasks, or one a task, held apart (O-LoRA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.settings import LoraSettings
from l2kd_ray.families.language.stages.adapters import ADAPTER, LoraUpdate
from l2kd_ray.families.language.stages.constraints import Constraint
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.core.loop import GradientHook
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.stages.curriculum import Curriculum


def _check_peft(build: LanguageBuilder) -> None:
    build.check_peft(f"methods: {build.method.name}")


def _check_further(build: LanguageBuilder) -> None:
    """Raise InputError where an adapter cannot be trained, or not trained further."""
    _check_peft(build)
    if lora(build).load_in_4bit and not build.options.merge:
        raise InputError(
            "a LoRA adapter that is trained further has weights of two students beneath it",
            key="train.lora.load_in_4bit",
            got=True,
            fix="set seq_lora.merge: true",
        )
    if build.settings.train.average > 0 and not build.options.merge:
        raise InputError(
            "averaged weights do not fit to the adapter that is trained further",
            key="train.average",
            got=build.settings.train.average,
            fix="set seq_lora.merge: true, or train.average: 0 in this method's settings",
        )


def lora(build: LanguageBuilder) -> LoraUpdate:
    """The adapter that `train.lora` describes, or the default one."""
    return build.lora(build.settings.train.lora or LoraSettings())


class SeqLoraOptions(Section):
    """One adapter through the stream."""

    merge: bool = False
    """Merge the adapter after each task and start a new one: fine-tuning with `train.lora`."""


@method("seq-lora", options=SeqLoraOptions, key="seq_lora", check=_check_further)
def seq_lora(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """Sequential LoRA: one adapter (Hu et al. 2022) is trained on through the stream; a baseline of
    O-LoRA and TRACE."""
    adapter = lora(build)
    if former and not build.options.merge:
        adapter = replace(adapter, base=build.initial(seed))
    return build.learn(previous, task, seed, lm=False, adapter=adapter)


class OLoraOptions(Section):
    """An adapter a task, held orthogonal to the former ones."""

    orthogonal: float = Field(0.5, ge=0)
    """Weight of the sum of |A_former A^T|; at 0, and with `norm: 0`, `seq-lora` with `merge`."""
    norm: float = Field(0.0, ge=0)
    """Weight of the norms of the new factors A and B."""


@method(
    "o-lora",
    options=OLoraOptions,
    key="o_lora",
    check=_check_peft,
    published={"o_lora.orthogonal": 0.5, "train.lora.r": 8, "train.lora.lora_alpha": 32},
)
def o_lora(
    build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed
) -> Learn:
    """O-LoRA (Wang et al., Findings of EMNLP 2023): an adapter a task, with a penalty on the
    products of its factor A with those of the former tasks.

    The adapters of former tasks are merged, which changes no output: they are frozen. The penalty
    can vanish because the adapter shrinks (O-LoRA's issue 39): the scores have both sizes.
    """
    options, constraint = build.options, None
    held = former if options.orthogonal > 0 else ()
    if held or options.norm > 0:
        constraint = Orthogonality(
            former=tuple(build.student(former[: n + 1], seed) for n in range(len(held))),
            weight=options.orthogonal if held else 0.0,
            norm=options.norm,
        )
    return build.learn(previous, task, seed, lm=False, adapter=lora(build), constraint=constraint)


@dataclass(frozen=True)
class Orthogonality(Constraint):
    """The penalty `weight sum |A_former A^T| + norm sum (||A|| + ||B||)`, summed over the layers.

    `former`: the students whose adapters are former ones. The norms are Frobenius norms, not
    squared, as in the authors' code.
    """

    former: tuple[Stage, ...]
    weight: float
    norm: float

    def prepare(self, model: CausalLM, curriculum: Curriculum, context: Context) -> GradientHook:
        from l2kd_ray.families.language.model.lora import factors

        held = {
            name: value.to(context.device) for name, value in self._former(model, context).items()
        }

        def constrain(model: CausalLM, step: int) -> None:
            for name, weights in factors(model).items():
                if self.weight > 0 and name in held:
                    gradient = overlap_gradient(held[name], weights.detach())
                    weights.grad.add_(gradient, alpha=self.weight)
                size = weights.detach().norm()
                if self.norm > 0 and size > 0:
                    weights.grad.add_(weights.detach() / size, alpha=self.norm)

        return constrain

    def scores(self, model: CausalLM, context: Context) -> Scores:
        """`penalty/overlap`: the sum of |A_former A^T| at the end of the training."""
        from l2kd_ray.families.language.model.lora import factors

        weights = factors(model)
        each = [
            float((value.to(weights[name]) @ weights[name].detach().T).abs().sum())
            for name, value in self._former(model, context).items()
        ]
        return {"penalty/overlap": sum(each)}

    def _former(self, model: CausalLM, context: Context) -> dict[str, Tensor]:
        """The former factors A [all ranks, d_in] of each layer, by the name of its own A."""
        import torch
        from safetensors.torch import load_file

        from l2kd_ray.families.language.model.lora import factors

        files = [load_file(context.files_of(student) / ADAPTER) for student in self.former]
        names = [name for name in factors(model) if name.endswith(".A")] if files else []
        return {name: torch.cat([file[name] for file in files]) for name in names}


def overlap_gradient(former: Tensor, new: Tensor) -> Tensor:
    """[r, d]: the gradient in `new` [r, d] of the sum of |former new^T|; `former` [r', d]."""
    return (former @ new.T).sign().T @ former
