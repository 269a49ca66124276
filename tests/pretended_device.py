"""A device `pret` that computes on the CPU and notes what a real one would refuse or wait for.

A tensor of this device is a wrapper around a tensor of the CPU. While `pretended` is active, each
operation is seen: one on tensors of two devices raises, as CUDA does, and each wait of the host
for the device is noted with the line that caused it. It knows no kernels, no speed, no memory, no
autocast and no recurrent layers.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
import torch.utils.backend_registration
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pret"
_aten = torch.ops.aten
_SIZED_BY_VALUES = {
    _aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}  # fmt: skip
_READS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default}
_COPIES = {_aten._to_copy.default, _aten.copy_.default}


@cache
def register() -> None:
    """Make the name known to torch, for the rest of this process; torch has no way back."""
    registration: Any = torch.utils.backend_registration
    setup = getattr(registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        pytest.skip("this torch lets no Python code be a device")
    setup(NAME)
    # Asked by `torch.autocast`, which stays off.
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]


class Pretended(Tensor):
    """A tensor of the pretended device; `held` is the tensor of the CPU behind it."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def tolist(self) -> Any:  # torch's own has none for subclasses
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `pretended`")


@dataclass
class Notes(TorchDispatchMode):
    """What was seen: each wait of the host, and each copy that it did not wait for."""

    waits: list[str] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def clear(self) -> None:
        self.waits.clear()
        self.sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        ours = [one for one in tensors if isinstance(one, Pretended)]
        target = kwargs.get("device")
        to_us = target is not None and torch.device(target).type == NAME
        if not ours and not to_us:
            return func(*args, **kwargs)
        if func in _COPIES:
            crosses = _crosses(func, args, target)
            # From the device the host waits in any case: it wants to read what arrives.
            if crosses == "out" or (crosses == "in" and not _unblocked(func, args, kwargs)):
                self._wait(func)
            self.sent += crosses == "in"
        else:
            for other in tensors:
                # As on CUDA, a number (no dimensions) of the CPU may stand beside.
                assert isinstance(other, Pretended) or other.ndim == 0, f"{func} mixes devices"
            indices = args[1] if func in (_aten.index.Tensor, _aten.index_put_.default) else ()
            masked = any(i is not None and i.dtype == torch.bool for i in indices)
            if func in _READS | _SIZED_BY_VALUES or masked:
                self._wait(func)
        if target is not None:
            kwargs["device"] = torch.device("cpu") if to_us else target
        leaves_us = func is _aten._to_copy.default and target is not None and not to_us
        found = func(*_bare(args), **_bare(kwargs))
        if leaves_us or func is _aten.copy_.default:
            return args[0] if func is _aten.copy_.default else found
        return _like_its_inputs(func, found, args, kwargs)

    def _wait(self, func: Any) -> None:
        own = [f for f in traceback.extract_stack() if "torch/" not in f.filename]
        where = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in own[:-2][-3:]]
        self.waits.append(f"{func} at {' < '.join(reversed(where))}")


def _crosses(func: Any, args: Any, target: Any) -> str:
    """`in`: a copy to the device; `out`: from it; empty: neither."""
    if func is _aten.copy_.default:
        to, source = (isinstance(one, Pretended) for one in args[:2])
    else:
        source = isinstance(args[0], Pretended)
        to = source if target is None else torch.device(target).type == NAME
    return "" if to == source else ("in" if to else "out")


def _unblocked(func: Any, args: Any, kwargs: Any) -> bool:
    return bool(kwargs.get("non_blocking") or (func is _aten.copy_.default and args[2:] == (True,)))


def _bare(tree: Any) -> Any:
    return tree_map(lambda one: one.held if isinstance(one, Pretended) else one, tree)


def _like_its_inputs(func: Any, found: Any, args: Any, kwargs: Any) -> Any:
    """The results as tensors of the device; one that an operation changes in place stays itself."""
    known = {id(one.held): one for one in tree_leaves((args, kwargs)) if isinstance(one, Pretended)}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return known[id(one)] if id(one) in known else Pretended(one)

    return tree_map(wrapped, found)


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """Attention in plain products: torch picks a fused kernel by the device, and has none here."""
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        shape = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return nn.functional.dropout(scores.softmax(-1), dropout_p) @ value


_tensor = torch.tensor


def tensor(data: Any, *, device: Any = None, **how: Any) -> Tensor:
    """As `torch.tensor`, which copies to its device where no dispatch mode sees it."""
    made = _tensor(data, **how)
    return made if device is None else made.to(device)


_to = nn.Module.to


def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """As `nn.Module.to`; a parameter stays itself, so that layers that share it go on to do so."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return _to(self, *args, **kwargs)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    """See every operation until the end."""
    register()
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
    monkeypatch.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
    monkeypatch.setattr(torch.inference_mode, "__init__", lambda self, mode=True: None)
    monkeypatch.setattr(nn.Module, "to", to)
    with Notes() as notes:
        yield notes
