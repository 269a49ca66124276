"""Maximum spanning trees (Chu and Liu 1965, Edmonds 1967) with one arc from the root.

The best head of every word is taken for the whole batch. Only sentences in which that is no tree
are solved one by one in numpy: the contraction of cycles has no batched form.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def best_trees(scores: Tensor, lengths: Tensor) -> Tensor:
    """[B, n] heads; scores [B, n, n+1] as (dependent, head), -inf where there is no arc."""
    heads = scores.argmax(-1)
    padding = torch.arange(heads.shape[1], device=heads.device) >= lengths[:, None]
    heads = heads.masked_fill(padding, 0)
    wrong = ~is_tree(heads) | (((heads == 0) & ~padding).sum(-1) != 1)
    for sentence in wrong.nonzero().flatten().tolist():
        n = int(lengths[sentence])
        arcs = scores[sentence, :n, : n + 1].double().cpu().numpy()
        heads[sentence, :n] = torch.from_numpy(maximum_spanning_tree(arcs)).to(heads)
    return heads


def is_tree(heads: Tensor) -> Tensor:
    """[B]: whether every word of heads [B, n] reaches the root."""
    ancestor = torch.nn.functional.pad(heads, (1, 0))  # the root is its own head
    # Each round doubles the distance looked ahead, so log2(n) rounds reach the root.
    for _ in range(heads.shape[1].bit_length()):
        ancestor = ancestor.gather(1, ancestor)
    return (ancestor == 0).all(1)


def maximum_spanning_tree(scores: Floats) -> Ints:
    """[n] heads of one sentence; scores [n, n+1].

    Arcs of -inf cost more than any tree, and so does every arc of the root: as few of both are
    taken as there must be (Stanojevic and Cohen 2021).
    """
    n = len(scores)
    finite = np.isfinite(scores)
    low, high = scores.min(where=finite, initial=0.0), scores.max(where=finite, initial=0.0)
    penalty = (n + 1) * (high - low + 1.0)
    weights = np.full((n + 1, n + 1), -np.inf)
    weights[1:] = np.where(finite, scores, low - (n + 1) * penalty)
    weights[1:, 0] -= penalty
    np.fill_diagonal(weights, -np.inf)
    heads: Ints = _contract(weights)[1:]
    return heads


def _contract(weights: Floats) -> Ints:
    """Heads of the best tree rooted in node 0; weights [N, N] as (dependent, head)."""
    heads: Ints = weights.argmax(1)
    heads[0] = 0
    cycle = _cycle(heads)
    if cycle is None:
        return heads
    inside = np.zeros(len(heads), dtype=bool)
    inside[cycle] = True
    rest = np.flatnonzero(~inside)
    kept = weights[cycle, heads[cycle]]
    entering = weights[np.ix_(cycle, rest)] - kept[:, None]  # what it costs to break the cycle
    leaving = weights[np.ix_(rest, cycle)]
    size = len(rest)  # the contracted node
    smaller = np.full((size + 1, size + 1), -np.inf)
    smaller[:size, :size] = weights[np.ix_(rest, rest)]
    smaller[size, :size] = entering.max(0)
    smaller[:size, size] = leaving.max(1)
    tree = _contract(smaller)
    broken = cycle[entering[:, tree[size]].argmax()]
    from_cycle = cycle[leaving.argmax(1)]
    expanded = heads.copy()
    # The modulo only keeps the index valid where `from_cycle` is chosen anyway.
    expanded[rest] = np.where(tree[:size] == size, from_cycle, rest[tree[:size] % size])
    expanded[broken] = rest[tree[size]]
    expanded[0] = 0
    return expanded


def _cycle(heads: Ints) -> Ints | None:
    """The nodes of one cycle, in order, or None; node 0 is the root."""
    state = np.zeros(len(heads), dtype=np.int64)  # 0: not seen, else the walk that saw it
    state[0] = -1
    for start in range(1, len(heads)):
        node = start
        while state[node] == 0:
            state[node] = start
            node = heads[node]
        if state[node] == start:
            cycle = [node]
            while heads[cycle[-1]] != node:
                cycle.append(heads[cycle[-1]])
            return np.array(cycle)
    return None
