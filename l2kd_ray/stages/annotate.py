"""Teacher outputs as a stage: computed once, read by every training that shares the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from l2kd_ray.config import LossPart
from l2kd_ray.stages.base import Context, Scores, Stage
from l2kd_ray.stages.start import Initial
from l2kd_ray.stages.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from l2kd_ray.distill.linear_loss import Knowledge
    from l2kd_ray.stages.curriculum import Row
    from l2kd_ray.stages.teachers import Live

OFFSETS, HEAD, PROBE = "offsets.npy", "head.safetensors", "probe.safetensors"
SHARD, HIDDEN = "hidden-{}.safetensors", "hidden"
PROBED = 16
"""Samples whose hidden states stand beside top-k, so that a student can say how far it is off."""
SHARD_POSITIONS = 2**18
BATCH = 32
DEFAULT_LENGTH = 512
"""Of a sequence, in estimates, where `train.max_length` sets no bound."""


@dataclass(frozen=True, eq=False)
class Annotate(Stage):
    """A teacher's last hidden states at the supervised positions of all rows, in half precision.

    They serve every temperature, weight, order and epoch, and every student that shares the
    teacher: what is kept is before the output layer, so nothing of the distribution is cut off.
    Files: its output layer; `offsets.npy` [rows + 1], the rows of sample 0, then of sample 1;
    shards of `SHARD_POSITIONS` positions, hidden [positions, d] each. With `top_k` the shards are
    of `distill.top_k.MostLikely`, and the hidden states are those of `PROBED` samples alone.
    """

    kind = "annotate"
    teacher: Stage
    tokens: Tokens
    max_length: int | None
    parts: tuple[LossPart, ...]
    precision: Literal["float32", "bfloat16"]
    top_k: int | None = None

    @property
    def most_bytes(self) -> int | None:
        """Of what is kept, if each sequence were as long as it may be; None: not known."""
        width, rows = self.initial.width, self.tokens.rows * len(self.parts)
        position = 6 * self.top_k + 4 if self.top_k else width and 2 * width
        return position and position * rows * (self.max_length or DEFAULT_LENGTH)

    @property
    def initial(self) -> Initial:
        """What the teacher was made from."""
        stage: Any = self.teacher
        while not isinstance(stage, Initial):
            stage = stage.start
        return stage

    def run(self, context: Context) -> Scores:
        import numpy as np
        from safetensors.torch import save_file

        from l2kd_ray.models.causal_lm import CausalLM
        from l2kd_ray.models.corpus import Corpus, Encoded
        from l2kd_ray.models.sequences import SequenceFormat
        from l2kd_ray.stages.curriculum import Row, sequence
        from l2kd_ray.stages.teachers import Live

        folder = context.files_of(self.teacher)
        text, model = SequenceFormat.load(folder), CausalLM.load(folder)
        live, longest = Live(model), min(self.max_length or model.context, model.context)
        live.to(context.device)
        if self.top_k is not None and self.top_k >= live.vocabulary:
            raise ValueError(f"kd.top_k={self.top_k}: the vocabulary has {live.vocabulary} tokens")
        encoded = Encoded.load(context.files_of(self.tokens))
        samples = Corpus(encoded, self.tokens.task, text.room(self.tokens.task, longest))
        rows = [
            Row(sequence(text, sample, part), part, index)
            for index, sample in enumerate(samples)
            for part in self.parts
        ]
        _write(rows, live, context, half=self.precision == "bfloat16", top_k=self.top_k)
        if self.top_k is not None:
            probed = [row for row in rows if row.index < PROBED]
            exact = live.listen(probed, context.device).hidden
            save_file({HIDDEN: exact.half().cpu()}, context.out / PROBE)
        sizes = [len(row.sequence.tokens) - row.sequence.supervised for row in rows]
        np.save(context.out / OFFSETS, np.cumsum([0, *sizes], dtype=np.int64))
        head = {name: value.detach().cpu() for name, value in model.head.named_parameters()}
        save_file({name: value.clone() for name, value in head.items()}, context.out / HEAD)
        return {"positions": sum(sizes)}


def _write(
    rows: Sequence[Row],
    live: Live,
    context: Context,
    *,
    half: bool = False,
    top_k: int | None = None,
) -> None:
    """Leave the shards of what the teacher says at `rows`; `half` as its training computes it."""
    import torch
    from safetensors.torch import save_file

    waiting: dict[str, torch.Tensor] = {}
    number = count = 0
    for start in range(0, len(rows), BATCH):
        with torch.autocast(context.device, torch.bfloat16, enabled=half):
            said = live.listen(rows[start : start + BATCH], context.device)
        kept = _best(said, top_k) if top_k else {HIDDEN: said.hidden.half().cpu()}
        waiting = {n: torch.cat([waiting[n], v]) if waiting else v for n, v in kept.items()}
        count = len(next(iter(waiting.values())))
        last = start + BATCH >= len(rows)
        while count >= SHARD_POSITIONS or (last and count):
            shard = {name: value[:SHARD_POSITIONS].clone() for name, value in waiting.items()}
            save_file(shard, context.out / SHARD.format(f"{number:05}"))
            waiting = {name: value[SHARD_POSITIONS:] for name, value in waiting.items()}
            number, count = number + 1, max(0, count - SHARD_POSITIONS)


def _best(said: Knowledge, k: int) -> dict[str, Tensor]:
    """The fields of `MostLikely` as they are stored: logits less their largest, in half."""
    import torch

    from l2kd_ray.distill.top_k import MostLikely

    with torch.inference_mode():
        logits = torch.nn.functional.linear(said.hidden, said.head.weight, said.head.bias).float()
        best = MostLikely.of(logits - logits.amax(-1, keepdim=True), k)
    kept = {"tokens": best.tokens.int(), "logits": best.logits.half(), "rest": best.rest}
    return {name: value.cpu() for name, value in kept.items()}
