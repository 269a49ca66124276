"""Attention masks of transformers, made without questions that wait for the device.

transformers asks of each batch whether it may leave the mask out, and reads the answer back. On a
GPU such a question costs more than a mask, once a training step and once a decoded token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import masking_utils


def ask_nothing() -> None:
    """Answer the questions for all models of this process; versions without them keep theirs."""
    functions: Any = masking_utils
    # No row of ours holds two sequences.
    functions.find_packed_sequence_indices = lambda position_ids: None
    functions.fast_all = _all_on_the_cpu


def _all_on_the_cpu(mask: Tensor) -> bool:
    """True if all are true, as far as that is known without waiting: a mask is always right."""
    return mask.device.type == "cpu" and bool(mask.all())
