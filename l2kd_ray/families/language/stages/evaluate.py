"""Evaluation of a causal LM by decoding its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.families.cut import cut_scores
from l2kd_ray.families.evaluate import Evaluate
from l2kd_ray.families.language.stages.answers import Decoding, answers, rooms
from l2kd_ray.tasks import Example

_GREEDY = Decoding("greedy")


@dataclass(frozen=True, eq=False)
class EvaluateLM(Evaluate):
    """Evaluation of a causal LM; `seed` is None if decoding draws nothing."""

    distributable = True
    max_new_tokens: int = 64
    decoding: Decoding = _GREEDY
    seed: int | None = None

    def answers(self, context: Context, examples: Sequence[Example]) -> tuple[list[str], Scores]:
        from l2kd_ray.families.language.model.corpus import Encoded
        from l2kd_ray.families.language.stages.reading import opened

        text, model = opened(self.model, context, self.decoding.precision)
        stream = (self.seed or 0, "evaluate", self.task)
        how = self.decoding, self.max_new_tokens, stream
        decoded = answers(model, text, examples, *how, context)
        prompt, answer = rooms(model, self.max_new_tokens)
        lengths = Encoded.of(examples, text).lengths
        excess = lengths[:, :2].sum(axis=1) - text.test_room(prompt), lengths[:, 2] - answer
        return decoded, cut_scores(*excess)
