"""Adapters: parameters trained in place of the whole weights, for one training, then merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from l2kd_ray.core.stage import Context, Scores, Stage

if TYPE_CHECKING:
    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import SequenceFormat

ADAPTER = "adapter.safetensors"
"""The factors of a student's low-rank updates: `<layer>.A` [r, d_in] and `<layer>.B` [d_out, r]."""


class Adapter(Protocol):
    """Parameters that are trained instead of the model's. A frozen dataclass: its fields are part
    of the training's key. `seed` is of the task, too: two tasks draw other first weights."""

    def attach(
        self, model: CausalLM, text: SequenceFormat, seed: int, start: Path, context: Context
    ) -> Callable[[], Scores]:
        """Freeze `model` except for new parameters. `start`: the files that it was loaded from.

        Returns a function that is called after the training: it makes `model` a plain model again
        and returns scores.
        """


@dataclass(frozen=True)
class LoraUpdate:
    """Low-rank updates of some layers: W + alpha / rank B A (Hu et al. 2022)."""

    rank: int
    alpha: int
    dropout: float
    targets: str | tuple[str, ...] | None
    base: Stage | None = None
    """The model whose weights are W, if the updates of the training's start are trained further;
    None if new updates are added to the weights of the start."""
    version: int = 2
    """Part of the training's key; 2: each task draws its own first A."""
    load_in_4bit: bool | None = None
    """True if W is kept in 4 bits during the training."""

    def attach(
        self, model: CausalLM, text: SequenceFormat, seed: int, start: Path, context: Context
    ) -> Callable[[], Scores]:
        from safetensors.torch import load_file, save_file

        from l2kd_ray.families.language.model import lora
        from l2kd_ray.families.language.model.causal_lm import CausalLM

        if self.load_in_4bit:
            lora.quantize(model, start)
        adapted = lora.attach(model, self, text.added, seed)
        if self.base is not None:
            base = CausalLM.load(context.files_of(self.base))
            lora.resume(model, base, load_file(start / ADAPTER))

        def finish() -> Scores:
            if context.rank == 0:
                factors = lora.factors(model).items()
                saved = {name: value.detach().cpu().contiguous() for name, value in factors}
                save_file(saved, context.out / ADAPTER)
            merged, updates = model, adapted
            if self.load_in_4bit:
                merged = CausalLM.load(start)
                updates = lora.attach(merged, self, text.added, seed)
                lora.take_over(merged, model)
            norm = lora.norm(merged)
            lora.merge(merged, updates)
            model.lm = merged.lm
            return {"adapter/norm": norm}

        return finish
