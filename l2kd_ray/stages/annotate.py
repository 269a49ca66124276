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
    from l2kd_ray.stages.curriculum import Row
    from l2kd_ray.stages.teachers import Live

OFFSETS, HEAD = "offsets.npy", "head.safetensors"
SHARD, HIDDEN = "hidden-{}.safetensors", "hidden"
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
    shards of `SHARD_POSITIONS` positions, hidden [positions, d] each.
    """

    kind = "annotate"
    teacher: Stage
    tokens: Tokens
    max_length: int | None
    parts: tuple[LossPart, ...]
    precision: Literal["float32", "bfloat16"]

    @property
    def most_bytes(self) -> int | None:
        """Of the hidden states, if each sequence were as long as it may be; None: not known."""
        width, rows = self.initial.width, self.tokens.rows * len(self.parts)
        return None if width is None else 2 * width * rows * (self.max_length or DEFAULT_LENGTH)

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
        encoded = Encoded.load(context.files_of(self.tokens))
        samples = Corpus(encoded, self.tokens.task, text.room(self.tokens.task, longest))
        rows = [
            Row(sequence(text, sample, part), part, index)
            for index, sample in enumerate(samples)
            for part in self.parts
        ]
        _write(rows, live, context, half=self.precision == "bfloat16")
        sizes = [len(row.sequence.tokens) - row.sequence.supervised for row in rows]
        np.save(context.out / OFFSETS, np.cumsum([0, *sizes], dtype=np.int64))
        head = {name: value.detach().cpu() for name, value in model.head.named_parameters()}
        save_file({name: value.clone() for name, value in head.items()}, context.out / HEAD)
        return {"positions": sum(sizes)}


def _write(rows: Sequence[Row], live: Live, context: Context, *, half: bool = False) -> None:
    """Leave the shards of what the teacher says at `rows`; `half` as its training computes it."""
    import torch
    from safetensors.torch import save_file

    waiting, number = torch.empty(0), 0
    for start in range(0, len(rows), BATCH):
        with torch.autocast(context.device, torch.bfloat16, enabled=half):
            said = live.listen(rows[start : start + BATCH], context.device).hidden
        said = said.half().cpu()
        waiting = torch.cat([waiting, said]) if len(waiting) else said
        last = start + BATCH >= len(rows)
        while len(waiting) >= SHARD_POSITIONS or (last and len(waiting)):
            shard, waiting = waiting[:SHARD_POSITIONS], waiting[SHARD_POSITIONS:]
            save_file({HIDDEN: shard.clone()}, context.out / SHARD.format(f"{number:05}"))
            number += 1
