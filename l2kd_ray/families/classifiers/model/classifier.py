"""A classifier: one body for all tasks, and a head for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from l2kd_ray.distill.states import Outputs
from l2kd_ray.families.classifiers.model.bilstm import BiLSTM
from l2kd_ray.families.classifiers.model.encoders import Encoder
from l2kd_ray.families.classifiers.model.states import Texts, TokenizedTexts

Body = Encoder | BiLSTM
_BODIES: Mapping[str, type[Encoder] | type[BiLSTM]] = {"encoder": Encoder, "bilstm": BiLSTM}
_SETTINGS, _HEADS = "classifier.json", "heads.safetensors"


class Classifier(nn.Module):
    """One body with a head for each task.

    Args:
        heads: the number of outputs of each task (1: a regression).
        pairs: the tasks that have two texts.
        seed: each head's weights are drawn from (seed, task), so that adding a task leaves the
            other heads as they are.
    """

    def __init__(
        self, body: Body, heads: Mapping[str, int], pairs: Collection[str] = (), seed: int = 0
    ) -> None:
        super().__init__()
        self.body = body
        self.heads = dict(sorted(heads.items()))
        self.pairs = frozenset(pairs)
        if unknown := self.pairs - heads.keys():
            raise ValueError(f"pairs names {sorted(unknown)}; the tasks are {list(self.heads)}")
        # A list, because a task's name may hold a dot, and a module's may not.
        self.layers = nn.ModuleList(
            [
                _head(body, task in self.pairs, outputs, seed, task)
                for task, outputs in self.heads.items()
            ]
        )

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Load a model in float32 from a folder that `save` wrote."""
        saved = json.loads((folder / _SETTINGS).read_text("utf-8"))
        body = _BODIES[saved["body"]].load(folder, saved["settings"])
        model = cls(body, saved["heads"], saved["pairs"])
        model.layers.load_state_dict(load_file(folder / _HEADS))
        return model

    def save(self, folder: Path) -> None:
        """Write the body's files (an encoder's are a Hugging Face folder) and the heads."""
        self.body.save(folder)
        save_file(self.layers.state_dict(), folder / _HEADS)
        settings = {
            "body": self.body.kind,
            "settings": self.body.settings,
            "heads": self.heads,
            "pairs": sorted(self.pairs),
        }
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1), "utf-8")

    def prepare(self, texts: Texts) -> TokenizedTexts:
        """Encode texts on the CPU; see `TokenizedTexts.to`."""
        return self.body.prepare(texts)

    def forward(
        self, inputs: TokenizedTexts, task: str, *, wanted: frozenset[str] = frozenset()
    ) -> Outputs:
        """One task's logits, and what `wanted` names of hidden, attentions, feature.

        Raises: ValueError: no such task, or the body cannot return what is wanted.
        """
        if task not in self.heads:
            raise ValueError(
                f"no head for task {task}; there are heads for {', '.join(self.heads)}"
            )
        states = self.body(inputs, wanted)
        logits = self.layers[list(self.heads).index(task)](states.text)
        return Outputs(logits=logits, **vars(states))

    def freeze(self) -> Classifier:
        """Switch to a teacher's state: no dropout, no gradients."""
        return self.eval().requires_grad_(False)


def _head(body: Body, pair: bool, outputs: int, seed: int, task: str) -> nn.Module:
    digest = hashlib.sha256(json.dumps([seed, "head", task]).encode()).digest()
    # Forked, so that drawing a head does not move the global stream.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        return body.head(body.width(pair), outputs)
