"""Non-projective dependency trees: the matrix-tree theorem (Koo et al. 2007).

The sum over trees is the determinant of the Laplacian of exp(scores), in which the root's arcs
replace the first word's column, as the root has one arc. Marginals come from its inverse.

If words strongly prefer each other as heads, the Laplacian is singular in float64. Its condition
number shows this, and those sentences are solved again by eliminating one word after the other,
which adds and never subtracts (Grassmann et al. 1985).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2kd_ray.distill.structured.arcs import Arcs
from l2kd_ray.distill.structured.spanning_tree import best_trees
from l2kd_ray.distill.structured.structure import Parts, logsumexp, with_gradient

# Largest growth of relative errors that is accepted: 1e-16 in the Laplacian becomes 1e-10.
_CONDITION = 1e6


@dataclass(frozen=True, eq=False)
class NonProjective(Arcs):
    """P(y) over the trees y that span the sentence, with one arc from the root."""

    def log_partition(self) -> Tensor:
        """[B]: log Z; its gradient is the marginals, in closed form."""
        with torch.no_grad():
            log_z, marginals = self._infer()
        return with_gradient(log_z, (self.scores,), (marginals,))

    @torch.no_grad()
    def marginals(self) -> Parts:
        """(P(arc) [B, n, n+1],), closed form; constants."""
        return (self._infer()[1],)

    @torch.no_grad()
    def argmax(self) -> Tensor:
        """[B, n]: heads of the maximum spanning tree (Chu-Liu/Edmonds), 0 on padding."""
        return best_trees(self.potentials()[0], self.lengths)

    def _infer(self) -> tuple[Tensor, Tensor]:
        """log Z [B] and the marginals [B, n, n+1]."""
        scores = self.potentials()[0].double()
        log_z, marginals, condition = self._matrix_tree(scores[..., 0], scores[..., 1:])
        # Written as "not below" so that a condition of nan is solved again, too.
        again = (~(condition < _CONDITION)).nonzero().flatten()
        if len(again):
            log_z[again], marginals[again] = self._eliminate(scores[again], self.lengths[again])
        return log_z.to(self.scores.dtype), marginals.clamp_(min=0.0).to(self.scores.dtype)

    def _matrix_tree(self, root: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log Z, marginals and condition [B], from the scores of arcs to the root and to words.

        A relative error e of the entries changes log Z by at most n e times the condition.
        """
        # Factored out before exp: a factor per word, and one for all arcs of the root.
        row = words.amax(-1)
        row = torch.where(row.isfinite(), row, root).masked_fill(~self.valid, 0.0)
        root, words = root - row, (words - row[..., None]).exp_()
        column = root.amax(-1)
        root = (root - column[:, None]).exp_()
        out = words.sum(-1)
        laplacian = torch.diag_embed(out + ~self.valid) - words  # 1 for padding
        laplacian[..., 0] = root
        factors, pivots, _ = torch.linalg.lu_factor_ex(laplacian)
        log_z = factors.diagonal(dim1=1, dim2=2).abs().log().sum(-1) + row.sum(-1) + column
        identity = torch.eye(len(root[0])).to(root).expand_as(words)
        inverse = torch.linalg.lu_solve(factors, pivots, identity)
        by_root = inverse[:, 0].clone()
        inverse[:, 0] = 0.0  # the first column holds the root's arcs and no others
        by_word = inverse.diagonal(dim1=1, dim2=2)[..., None] - inverse.transpose(1, 2)
        marginals = torch.cat([(root * by_root)[..., None], words * by_word], -1)
        condition = (inverse.abs_() @ out[..., None]).amax((1, 2))
        return log_z, marginals, condition

    def _eliminate(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `_matrix_tree`, for scores [K, n, n+1]: in log space, word by word, by autograd."""
        # A word that can head all others: the eliminations never end in it.
        first = (best_trees(scores, lengths) == 0).int().argmax(-1)
        n = scores.shape[1]
        order = torch.arange(n, device=lengths.device).expand(len(lengths), n).clone()
        order[:, 0] = first
        order.scatter_(1, first[:, None], 0)
        with torch.enable_grad():
            leaf = scores.clone().requires_grad_()
            rows = torch.arange(len(lengths), device=lengths.device)[:, None]
            root = leaf[rows, order, 0]
            words = leaf[rows[..., None], order[..., None], order[:, None] + 1]
            log_z = _eliminate_words(root, words, order >= lengths[:, None])
            (marginals,) = torch.autograd.grad(log_z.sum(), leaf)
        return log_z.detach(), marginals


def _eliminate_words(root: Tensor, words: Tensor, padding: Tensor) -> Tensor:
    """[K]: log Z; root [K, n] and words [K, n, n] are the log weights of (dependent, head).

    Eliminating word k replaces the arcs i -> k -> j by i -> j: what trees have below k is summed.
    Z is the sum over the root's dependents m of their arc and the trees headed by m, which are in
    the proportions pi_m of the chain's stationary distribution.
    """
    n = root.shape[1]
    log_z, through = root.new_zeros(len(root)), []
    for k in range(n - 1, 0, -1):
        out = words[:, k, :k]
        total = logsumexp(out, -1).masked_fill(padding[:, k], 0.0)
        log_z = log_z + total
        share = words[:, :k, k] - total[:, None]
        through.append(share)
        around = share[..., None] + out[:, None]
        words = logsumexp(torch.stack([words[:, :k, :k], around]), 0)
    pi = torch.zeros_like(root[:, :1])
    for share in reversed(through):
        pi = torch.cat([pi, logsumexp(pi + share, -1)[:, None]], -1)
    return log_z + logsumexp(pi + root, -1)
