"""OSF: training only the directions of each weight matrix that matter least so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.builder import LanguageBuilder, Student
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.method import Order, method
from l2kd_ray.section import Section

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import SequenceFormat


class OsfOptions(Section):
    """Orthogonal subspaces of each weight matrix: frozen and trained singular directions."""

    share: float | None = Field(None, gt=0, lt=1)
    """Share of the directions that is frozen from the second task on (default: the share of the
    study's tasks that are learned, which grows)."""


def _alone(build: LanguageBuilder) -> None:
    """Raise InputError without peft, and with LoRA, whose place it takes."""
    build.check_peft("methods: osf")
    build.check_whole("OSF takes whole matrices apart")
    if build.settings.train.lora is not None:
        raise InputError(
            "OSF trains each matrix in other directions, in place of LoRA",
            key="train.lora",
            fix="set train.lora in the other methods' own settings, or leave this method out",
        )


@method(options=OsfOptions, check=_alone)
def osf(build: LanguageBuilder, previous: Student, former: Order, task: str, seed: Seed) -> Learn:
    """OSF (Nayak et al. 2025, arXiv 2504.07097; peft's): the largest singular directions of each
    matrix are frozen, and the others are trained orthogonally to them. From the second task on peft
    trains nothing else but the embeddings of new tokens: others, norms and biases, which the
    authors train, stay as they are."""
    if not former:
        return build.learn(previous, task, seed, lm=False)
    adapter = OrthogonalSubspace(build.options.share or len(former) / len(build.resolved.tasks))
    return build.learn(previous, task, seed, lm=False, adapter=adapter)


@dataclass(frozen=True)
class OrthogonalSubspace:
    """Each matrix U S V is trained in the directions of its smallest singular values.

    The share `frozen` of each matrix's directions, those of the largest, rounded, is frozen (at
    least one, and not all); gradients of the others' U and V are projected to be orthogonal to the
    frozen ones.
    """

    frozen: float

    def attach(
        self, model: CausalLM, text: SequenceFormat, seed: int, start: Path, context: Context
    ) -> Callable[[], Scores]:
        from peft import OSFConfig
        from peft.tuners.osf.model import OSFModel

        from l2kd_ray.families.language.model.lora import train_tokens

        names = as_linear(model)
        config = OSFConfig(
            rank_pattern=dict(self._ranks(model)),
            target_modules="all-linear",  # but the output layer
            task_type="CAUSAL_LM",
        )
        adapted = OSFModel(model.lm, config, "default")
        train_tokens(model, text.added)

        def finish() -> Scores:
            overlap = max(map(_overlap, _layers(model)))
            model.lm = adapted.merge_and_unload()
            as_conv1d(model, names)
            model.requires_grad_(True)
            return {"osf/overlap": overlap}

        return finish

    def _ranks(self, model: CausalLM) -> Iterator[tuple[str, int]]:
        """The number of frozen directions by a pattern of the layer's name."""
        from torch import nn

        for name, layer in model.lm.named_modules():
            if isinstance(layer, nn.Linear) and layer is not model.lm.get_output_embeddings():
                smaller = min(layer.weight.shape)
                rank = min(max(1, round(self.frozen * smaller)), smaller - 1)
                yield f"^{re.escape(name)}$", rank


def as_linear(model: CausalLM) -> list[str]:
    """Replace GPT-2's transposed linear layers, which peft's OSF does not know; returns their
    names."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    names = [name for name, one in model.named_modules() if isinstance(one, Conv1D)]
    for name in names:
        own: Any = model.get_submodule(name)
        _transpose(model, name, nn.Linear(own.nx, own.nf))
    return names


def as_conv1d(model: CausalLM, names: list[str]) -> None:
    """The inverse of `as_linear`."""
    from transformers.pytorch_utils import Conv1D

    for name in names:
        own: Any = model.get_submodule(name)
        _transpose(model, name, Conv1D(own.out_features, own.in_features))


def _transpose(model: CausalLM, name: str, new: Any) -> None:
    """Put `new` in the place of a layer, with its bias and its transposed weight."""
    from torch import nn

    own: Any = model.get_submodule(name)
    new.weight, new.bias = nn.Parameter(own.weight.detach().T.contiguous()), own.bias
    model.set_submodule(name, new)


def _layers(model: CausalLM) -> list[Any]:
    return [one for one in model.modules() if hasattr(one, "osf_svd_params")]


def _overlap(layer: Any) -> float:
    """The largest cosine between a trained left direction and a frozen one.

    Gradients are orthogonal to the frozen directions, but AdamW's steps need not be.
    """
    import torch

    weight = layer.base_layer.weight.detach()
    frozen = torch.linalg.svd(weight, full_matrices=False)[0][:, : layer.effective_rank["default"]]
    low = layer.osf_svd_params["default"]["U_low"].detach()
    return float((frozen.T @ (low / low.norm(dim=0))).abs().max())
