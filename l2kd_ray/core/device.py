"""The device that a stage runs on: checked before it is used, shared fairly, and described."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2kd_ray.errors import InputError

OWN = 0.9
"""Part of a process's share of a card that its tensors may take; CUDA itself needs the rest."""


def device_of(gpus: float) -> str:
    """The device of a worker that holds so many GPUs. Raises: InputError if torch sees none."""
    if gpus == 0:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "a stage asks for a GPU, and torch sees none on this machine",
            key="scale.gpus_per_worker",
            got=gpus,
            expected="0 here",
            fix="set scale.gpus_per_worker=0, or install NVIDIA's driver and a torch for CUDA "
            "(l2kd doctor shows what torch sees)",
        )
    return "cuda"


def prepare(device: str, gpus: float) -> None:
    """Set up this process for stages that hold so many GPUs each."""
    if device != "cuda":
        return
    # Read when CUDA starts: less waste where lengths differ, and sums that can be repeated.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device_of(gpus or 1)
    import torch

    torch.cuda.set_per_process_memory_fraction(OWN * gpus if 0 < gpus < 1 else 1.0)
    # True by default: recurrent layers and convolutions would round as TF32 does.
    torch.backends.cudnn.allow_tf32 = False


def reset_peak(device: str) -> None:
    """Begin to measure the peak of memory."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()  # of the stage before, which may have been of another model
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5", "utf-8")
        except OSError:
            return  # then the peak is that of the process's whole life


def peak(device: str) -> int:
    """Most bytes of the device that this process has held since `reset_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_reserved()
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * int(next(ln.split()[1] for ln in lines if ln.startswith("VmHWM")))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def describe(device: str) -> Mapping[str, Any]:
    """Describe the device: a result depends on it, beside the versions of packages."""
    if device != "cuda":
        return {"device": device}
    import torch

    private: Any = torch._C
    major, minor = torch.cuda.get_device_capability()
    return {
        "device": device,
        "gpu": torch.cuda.get_device_name(),
        "capability": f"{major}.{minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": private._cuda_getDriverVersion(),
    }
