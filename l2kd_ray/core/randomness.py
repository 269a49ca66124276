"""Random numbers as functions of a seed and a purpose; there is no running generator state."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from pydantic import Field

from l2kd_ray.section import Section


class Seed(Section):
    """The seeds of one replicate."""

    train: int = Field(ge=0)
    """Seed of initial weights, batches and dropout."""
    replay: int = Field(ge=0)
    data: int = Field(ge=0)
    """Seed of the training examples that a cap leaves."""

    @classmethod
    def of(cls, seed: int) -> Seed:
        """One number for all of a replicate's seeds."""
        return cls(train=seed, replay=seed, data=seed)

    def __str__(self) -> str:
        """Such as `531`, or `531r7d3` where the seeds of replay and data are others."""
        replay = f"r{self.replay}" if self.replay != self.train else ""
        data = f"d{self.data}" if self.data != self.train else ""
        return f"{self.train}{replay}{data}"


def generator(seed: int, stream: str, *where: object) -> np.random.Generator:
    """A generator that depends only on the seed, the stream's name and `where` (task, step, ...).

    Stage keys do not enter, so that methods and settings with one seed see the same batches and
    draws: their comparisons are paired.
    """
    text = json.dumps([seed, stream, *map(str, where)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
