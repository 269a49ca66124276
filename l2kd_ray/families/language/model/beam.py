"""Beam search: keep the k most probable continuations of each prompt until none can win.

Shapes: P prompts that are not done, K beams of each, C candidates for the next beams, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.decoder import Decoder, closed_up
from l2kd_ray.families.language.model.generation import BATCH, batches, best, prepared
from l2kd_ray.families.language.model.sequences import TokenIds


@torch.inference_mode()
def beam(
    model: CausalLM,
    prompts: Sequence[TokenIds],
    beams: int,
    *,
    max_new_tokens: int,
    eos: int,
    batch: int = BATCH,
    length_penalty: float = 1.0,
    dtype: torch.dtype | None = None,
) -> list[TokenIds]:
    """The continuation of each prompt with the best log-probability / length ** length_penalty.

    It ends with eos (kept, and counted in its length), after `max_new_tokens`, or at the model's
    context. The search equals transformers' `generate(num_beams=beams, early_stopping=False)`, its
    default: a prompt is done once it has `beams` finished continuations, and its best unfinished
    one, if it ended now, would be no better than the worst of them. `batch` counts beams.
    """
    model = prepared(model, dtype)
    continuations: list[TokenIds] = [[] for _ in prompts]
    for rows in batches(prompts, max(1, batch // beams)) if max_new_tokens > 0 else ():
        chosen = [prompts[row] for row in rows]
        room = [min(max_new_tokens, model.context - len(prompt)) for prompt in chosen]
        search = Search(model, chosen, beams, room, eos, length_penalty)
        for row, tokens in zip(rows, search.run(), strict=True):
            continuations[row] = tokens
    return continuations


@dataclass
class Finished:
    """The `size` best finished continuations of a prompt, the best one first."""

    size: int
    ranked: list[tuple[float, TokenIds]] = field(default_factory=list)

    def add(self, score: float, tokens: TokenIds) -> None:
        self.ranked.append((score, tokens))
        self.ranked.sort(key=lambda one: -one[0])
        del self.ranked[self.size :]

    @property
    def bar(self) -> float:
        """The score that an unfinished continuation must exceed to be useful."""
        return self.ranked[-1][0] if len(self.ranked) == self.size else -math.inf


class Search:
    """The beams of a batch: tokens `written_PKT` and log-probabilities `scores_PK`."""

    def __init__(
        self,
        model: CausalLM,
        prompts: Sequence[TokenIds],
        beams: int,
        room: Sequence[int],
        eos: int,
        length_penalty: float,
    ) -> None:
        self.vocabulary, self.beams = model.vocabulary, beams
        self.eos, self.length_penalty = eos, length_penalty
        self.finished = [Finished(beams) for _ in prompts]
        self.open = list(self.finished)  # of the P prompts that are not done
        self.decoder = Decoder(model, prompts)
        self.decoder.repeat(beams)
        self.shared = max(map(len, prompts))  # columns that the beams of a prompt have in common
        self.room_P1 = torch.tensor(room, device=self.decoder.device).unsqueeze(-1)
        self.written_PKT = self.room_P1.new_empty(len(prompts), beams, 0)
        self.scores_PK = torch.full((len(prompts), beams), -math.inf, device=self.decoder.device)
        self.scores_PK[:, 0] = 0.0  # all beams of a prompt are equal at first, so only one counts

    def run(self) -> list[TokenIds]:
        """The best finished continuation of each prompt."""
        while self.step():
            self.decoder.feed(self.written_PKT[:, :, -1].flatten())
        return [one.ranked[0][1] if one.ranked else [] for one in self.finished]

    def step(self) -> bool:
        """Extend all beams by one token; returns True while a prompt is not done."""
        scores_PC, beam_PC, tokens_PC = self._candidates()
        written_PCT = torch.cat([_take(self.written_PKT, beam_PC), tokens_PC.unsqueeze(-1)], -1)
        norm = written_PCT.shape[-1] ** self.length_penalty
        ends_PC = (tokens_PC == self.eos) | (self.room_P1 <= written_PCT.shape[-1])
        self._finish(scores_PC / norm, written_PCT, ends_PC)
        self.scores_PK, index_PK = scores_PC.masked_fill(ends_PC, -math.inf).topk(self.beams)
        self.written_PKT = _take(written_PCT, index_PK)
        bar_P = torch.tensor([one.bar for one in self.open], device=self.decoder.device)
        self._keep(self.scores_PK[:, 0] / norm > bar_P, beam_PC.gather(-1, index_PK))
        return bool(self.open)

    def _candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """[P, C], best first: the candidates' scores, their beams, their last tokens.

        At most k of the 2k candidates end with eos, so at least k are left to continue.
        """
        logits = self.decoder.logits.float()
        largest, tokens = best(logits, min(2 * self.beams, self.vocabulary))
        gained = largest - logits.logsumexp(-1, keepdim=True)
        each = self.scores_PK.unsqueeze(-1) + gained.unflatten(0, self.scores_PK.shape)
        scores_PC, index_PC = each.flatten(1).topk(min(2 * self.beams, each[0].numel()))
        tokens_PC = tokens.view(len(each), -1).gather(-1, index_PC)
        return scores_PC, index_PC // each.shape[-1], tokens_PC

    def _finish(self, final_PC: Tensor, written_PCT: Tensor, ends_PC: Tensor) -> None:
        """Store the candidates that ended; those below the first k would not become beams."""
        ended = (ends_PC & final_PC.isfinite())[:, : self.beams]
        for prompt, candidate in ended.nonzero().tolist():
            score, tokens = final_PC[prompt, candidate], written_PCT[prompt, candidate]
            self.open[prompt].add(score.item(), tokens.tolist())

    def _keep(self, going_P: Tensor, origin_PK: Tensor) -> None:
        """Continue only some prompts, with the beams that extend the beams `origin_PK`."""
        kept = closed_up(going_P)
        rows = (kept.unsqueeze(-1) * self.beams + origin_PK[kept]).flatten()
        self.decoder.select(rows, self.shared if len(kept) == len(going_P) else 0)
        self.open = [self.open[prompt] for prompt in kept.tolist()]
        self.room_P1, self.scores_PK = self.room_P1[kept], self.scores_PK[kept]
        self.written_PKT = self.written_PKT[kept]


def _take(each_PKT: Tensor, index_PC: Tensor) -> Tensor:
    """[P, C, T]: the rows of [P, K, T] at the indices [P, C]."""
    return each_PKT.take_along_dim(index_PC.unsqueeze(-1), dim=1)
