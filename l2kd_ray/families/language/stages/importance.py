"""Parameter importance for the tasks learnt so far, as EWC and MAS use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from l2kd_ray.core.randomness import generator
from l2kd_ray.core.stage import Context, Scores, Stage
from l2kd_ray.families.examples import Examples

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.families.language.model.causal_lm import CausalLM
    from l2kd_ray.families.language.model.sequences import TrainingSequence

IMPORTANCE_FILE = "importance.safetensors"


@dataclass(frozen=True, eq=False)
class Importance(Stage):
    """Importance (a tensor per parameter) after a task, added to that of the tasks before.

    With z the logits at the answer's positions, the mean over `samples` examples of
    `fisher`: (d log p(y) / d theta)^2, y drawn from the model itself position by position: the
        diagonal of the Fisher information (EWC, Kirkpatrick et al. 2017);
    `sensitivity`: |d mean ||z||^2 / d theta|, no labels needed (MAS, Aljundi et al. 2018).
    """

    kind = "importance"
    model: Stage
    examples: Examples
    measure: Literal["fisher", "sensitivity"]
    samples: int
    max_length: int | None
    seed: int
    former: Importance | None

    @property
    def amount(self) -> float:
        return float(self.samples)

    def run(self, context: Context) -> Scores:
        import torch
        from safetensors.torch import load_file, save_file

        from l2kd_ray.families.language.model.causal_lm import CausalLM

        folder = context.files_of(self.model)
        model = CausalLM.load(folder).to(context.device).eval()
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        sequences = self._sequences(model, context)
        torch.manual_seed(
            int(generator(self.seed, "importance", self.examples.task).integers(2**63))
        )
        for sequence in sequences:
            model.zero_grad()
            self._objective(model, sequence, context.device).backward()
            for name, value in parameters.items():
                if value.grad is not None:
                    total[name] += (
                        value.grad.square() if self.measure == "fisher" else value.grad.abs()
                    )
        importance = {name: (value / len(sequences)).cpu() for name, value in total.items()}
        if self.former is not None:
            for name, former in load_file(context.files_of(self.former) / IMPORTANCE_FILE).items():
                importance[name] += former
        save_file(importance, context.out / IMPORTANCE_FILE)
        size = sum(value.numel() for value in importance.values())
        return {"mean": float(sum(value.sum() for value in importance.values()) / size)}

    def _sequences(self, model: CausalLM, context: Context) -> list[TrainingSequence]:
        from l2kd_ray.families.language.model.corpus import Corpus
        from l2kd_ray.families.language.model.sequences import SequenceFormat

        text = SequenceFormat.load(context.files_of(self.model))
        examples = self.examples.load(context)
        order = generator(self.seed, "importance of", self.examples.task).permutation(len(examples))
        chosen = [examples[index] for index in order[: self.samples]]
        longest = min(self.max_length or model.context, model.context)
        return [text.qa(sample) for sample in Corpus.of(chosen, text, self.examples.task, longest)]

    def _objective(self, model: CausalLM, sequence: TrainingSequence, device: str) -> Tensor:
        """The scalar that is differentiated for one example."""
        import torch

        positions = torch.arange(sequence.supervised - 1, len(sequence.tokens) - 1, device=device)
        tokens = torch.tensor([sequence.tokens], device=device)
        logits = model.head(model(tokens, positions, [sequence.source]))
        if self.measure == "sensitivity":
            norm: Tensor = logits.square().sum(-1).mean()
            return norm
        # To validate the logits is to wait for the device.
        drawn = torch.distributions.Categorical(
            logits=logits.detach(), validate_args=False
        ).sample()
        return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
