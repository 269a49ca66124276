"""The start of every path: the study's tokenizer, and untrained models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2kd_ray.core.stage import NOT_IN_KEY, Context, Scores, Sharding, Stage
from l2kd_ray.families.examples import Examples
from l2kd_ray.models.pretrained import Pretrained


@dataclass(frozen=True, eq=False)
class Tokenizer(Stage):
    """A pretrained tokenizer or one trained on `corpus`, plus `<ans>` and the task tokens.

    `prompts`: tasks with a token of their own, sorted, so that the vocabulary never depends on the
    order of the tasks; None if the prompt is text.
    """

    kind = "tokenizer"
    version = 3  # all that reads texts by a byte-level tokenizer puts a space before them
    prepares = True
    source: Pretrained | None
    corpus: tuple[Examples, ...]
    vocab_size: int | None
    prompts: tuple[str, ...] | None
    owner: str | None = None
    """The only trial that this stage and all built on it belong to; None if it is shared."""

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.sequences import SequenceFormat
        from l2kd_ray.families.language.model.vocabulary import load, train, with_tokens

        if self.source is not None:
            tokenizer, bos = load(self.source)
        else:
            texts = (
                text
                for data in self.corpus
                for example in data.load(context)
                for text in (example.context, example.question, *example.answers)
            )
            tokenizer, bos = train(texts, self.vocab_size or 0), None
        with_tokens(tokenizer, self.prompts)
        prompt = "text" if self.prompts is None else "token"
        SequenceFormat(tokenizer, bos=bos, task_prompt=prompt).save(context.out)
        return {"vocabulary": len(tokenizer)}


@dataclass(frozen=True, eq=False)
class Initial(Stage):
    """An untrained model: pretrained weights, or weights drawn from `seed`."""

    kind = "initial"
    prepares = True
    default_seconds = 20.0
    default_bytes = 5e8
    source: Pretrained | None
    arch: str | None
    overrides: Mapping[str, Any]
    tokenizer: Tokenizer
    seed: int | None
    shard: Sharding | None = field(default=None, metadata=NOT_IN_KEY)

    @property
    def width(self) -> int | None:
        """Width of the hidden states; None if the config is not available locally (a hub id)."""
        settings = dict(self.overrides)
        file = Path(self.source.location if self.source else "", "config.json")
        if self.source is not None and file.is_file():
            settings = json.loads(file.read_text("utf-8"))
        names = ("n_embd", "hidden_size", "d_model")
        return next((settings[name] for name in names if name in settings), None)

    def run(self, context: Context) -> Scores:
        from l2kd_ray.families.language.model.causal_lm import (
            add_vocabulary,
            build,
            load_pretrained,
        )
        from l2kd_ray.families.language.model.checks import check_model
        from l2kd_ray.families.language.model.sequences import SequenceFormat
        from l2kd_ray.families.language.model.vocabulary import load
        from l2kd_ray.models.vocabulary import vocabulary_size

        text = SequenceFormat.load(context.files_of(self.tokenizer))
        if self.source is not None:
            model = load_pretrained(self.source)
            known = vocabulary_size(load(self.source)[0])
            # A student that was exported brings its rows of `<ans>` and of tasks.
            new = [token for token in text.added if token >= known]
            add_vocabulary(model, vocabulary_size(text.tokenizer), new)
        else:
            model = build(self.arch or "", self.overrides, text.tokenizer, self.seed or 0)
        check_model(model)
        model.save(context.out)
        text.save(context.out)
        return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def initial_of(stage: Any) -> Initial:
    """The untrained model that a model's training started from."""
    while not isinstance(stage, Initial):
        stage = stage.start
    return stage
