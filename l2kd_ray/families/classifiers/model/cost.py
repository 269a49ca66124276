"""The cost of a classifier: its number of parameters, and its time for a batch."""

from __future__ import annotations

import statistics
import time

import torch

from l2kd_ray.families.classifiers.model.classifier import Classifier


def parameters(model: Classifier) -> tuple[int, int]:
    """Number of all parameters, and of those outside the token embedding."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - model.body.embeddings.numel()


@torch.no_grad()
def latency(model: Classifier, task: str, *, batch: int, length: int, repeats: int = 9) -> float:
    """Median seconds for the logits of a batch of texts (or pairs) of `length` tokens.

    Measured on the model's device with the current threads; tokenization is not included.
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
    return statistics.median(seconds[1:])  # the first run allocates memory and selects kernels
