"""A classifier: one body for all tasks, a head each."""

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
from l2kd_ray.families.classifiers.model.states import Inputs, Texts

Body = Encoder | BiLSTM
BODIES: Mapping[str, type[Encoder] | type[BiLSTM]] = {"encoder": Encoder, "bilstm": BiLSTM}
SETTINGS, HEADS = "classifier.json", "heads.safetensors"


class Classifier(nn.Module):
    """`heads`: the number of outputs of each task (1: a regression); `pairs`: tasks of two texts.

    The heads' weights are drawn from (seed, task): a task more leaves the others' as they are.
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
                _head(body.width(task in self.pairs), outputs, seed, task)
                for task, outputs in self.heads.items()
            ]
        )

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """A model from a folder of `save`, in float32."""
        saved = json.loads((folder / SETTINGS).read_text("utf-8"))
        body = BODIES[saved["body"]].load(folder, saved["settings"])
        model = cls(body, saved["heads"], saved["pairs"])
        model.layers.load_state_dict(load_file(folder / HEADS))
        return model

    def save(self, folder: Path) -> None:
        """The body's files (an encoder's are a Hugging Face folder), the heads beside them."""
        self.body.save(folder)
        save_file(self.layers.state_dict(), folder / HEADS)
        settings = {
            "body": self.body.kind,
            "settings": self.body.settings,
            "heads": self.heads,
            "pairs": sorted(self.pairs),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1), "utf-8")

    def prepare(self, texts: Texts) -> Inputs:
        """On the CPU; see `Inputs.to`."""
        return self.body.prepare(texts)

    def forward(
        self, inputs: Inputs, task: str, *, wanted: frozenset[str] = frozenset()
    ) -> Outputs:
        """One task's logits, and what is `wanted` of hidden, attentions, feature.

        Raises: ValueError: no such task, or the body does not know what is wanted.
        """
        if task not in self.heads:
            raise ValueError(f"no head for {task}; there is {', '.join(self.heads)}")
        states = self.body(inputs, wanted)
        logits = self.layers[list(self.heads).index(task)](states.text)
        return Outputs(logits=logits, **vars(states))

    def freeze(self) -> Classifier:
        """As a teacher: no dropout, no gradients."""
        return self.eval().requires_grad_(False)


def _head(width: int, outputs: int, seed: int, task: str) -> nn.Linear:
    digest = hashlib.sha256(json.dumps([seed, "head", task]).encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        return nn.Linear(width, outputs)
