"""What a classifier costs: its parameters, and its time for a batch."""

from __future__ import annotations

import statistics
import time

import torch

from l2kd_ray.families.classifiers.model.classifier import Classifier


def parameters(model: Classifier) -> tuple[int, int]:
    """All of them, and those that are no token's embedding."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - model.body.embeddings.numel()


@torch.no_grad()
def latency(model: Classifier, task: str, *, batch: int, length: int, repeats: int = 9) -> float:
    """Seconds for the logits of a batch of texts (or pairs) of `length` tokens: a median.

    On the device and with the threads that there are; tokenization is not in it.
    """
    device = next(model.parameters()).device
    inputs = model.body.blank(batch, length, task in model.pairs).to(str(device))
    training, seconds = model.training, []
    model.eval()
    for _ in range(repeats + 1):
        start = time.perf_counter()
        logits = model(inputs, task).logits
        if logits.is_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    model.train(training)
    return statistics.median(seconds[1:])  # the first one finds its memory and its kernels
