"""The six cases: from a teacher to the marginals of the *student's* substructures.

| case | teacher => student | function |
|---|---|---|
| 1a | linear chain => linear chain | `chain_to_chain` |
| 1b | head selection with relations => parsing as labelling | `arcs_to_labels` |
| 2a | linear chain => token softmax | `chain_to_tokens` |
| 2b | second-order arcs, by mean field => parsing as labelling | `arcs_to_labels` |
| 3 | token softmax => linear chain | `tokens_to_chain` |
| 4 | labelled spans => token softmax on BIOES tags | `spans_to_tokens` |

Beside them `unchanged`, if the teacher's marginals are the student's as they are. Source: Wang et
al. 2021, section 3. `local` is a temperature of the marginals, as in the released code: they are
raised to the power 1 / local and renormalised among the alternatives at a position; 1 leaves them
unchanged. Teacher and student have the same labels in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2kd_ray.distill.structured.bioes import BEGIN, END, INSIDE, SINGLE_WORD
from l2kd_ray.distill.structured.chain import Chain, ChainParts, PairMarginals
from l2kd_ray.distill.structured.labelled import LabelledArcs, RelativeLabels
from l2kd_ray.distill.structured.spans import Spans
from l2kd_ray.distill.structured.structure import Parts, Structure, at_end, valid_positions
from l2kd_ray.distill.structured.token import IndependentTokens


def unchanged(teacher: Structure, local: float = 1.0) -> Parts:
    """The teacher's marginals as they are, for equal substructures (tokens => tokens)."""
    return tuple(soften(mu, local) for mu in teacher.marginals())


def chain_to_chain(teacher: Chain, local: float = 1.0) -> ChainParts:
    """Case 1a: the chain's marginals."""
    if local == 1.0:
        return teacher.marginals()
    pairs, first, last = teacher.pair_marginals()
    softened = PairMarginals(soften(pairs, local, 2), soften(first, local), soften(last, local))
    return softened.collapse()


def chain_to_tokens(teacher: Chain, local: float = 1.0) -> Parts:
    """Case 2a: the chain's token marginals."""
    return (soften(teacher.marginals().tokens, local),)


def tokens_to_chain(teacher: IndependentTokens, local: float = 1.0) -> ChainParts:
    """Case 3: pair marginals are products of the neighbours', here summed over positions."""
    tokens = soften(teacher.marginals()[0], local)
    counts = tokens[:, :-1].transpose(1, 2) @ tokens[:, 1:]
    return ChainParts(tokens, counts, tokens[:, 0], at_end(tokens, teacher.lengths))


def spans_to_tokens(teacher: Spans, local: float = 1.0) -> Parts:
    """Case 4: ([B, n, 4R+1],), the marginals of the tags that spell the teacher's spans."""
    (spans,) = teacher.marginals()
    n = spans.shape[1]
    later = torch.ones(n, n, device=spans.device).triu(1)[..., None]  # (t, j): j after t
    longer = spans * later
    begun = longer.cumsum(1).roll(1, 1)  # at (t, j): spans that begin before t and end at j
    begun[:, 0] = 0.0
    single = spans.diagonal(dim1=1, dim2=2).transpose(1, 2)
    by_part = {BEGIN: longer.sum(2), INSIDE: (begun * later).sum(2), END: longer.sum(1)}
    by_part[SINGLE_WORD] = single
    in_spans = torch.stack([by_part[part] for part in sorted(by_part)], -1).flatten(2)
    tags = torch.cat([teacher.outside_marginals()[..., None], in_spans], -1)
    return (soften(tags, local),)


def arcs_to_labels(teacher: LabelledArcs, local: float = 1.0, *, labels: RelativeLabels) -> Parts:
    """Cases 1b and 2b: ([B, n, L],), P(head) * P(relation | arc), renormalised over L labels.

    The teacher has the labels' relations. Words of which no label says anything likely get the
    uniform distribution.
    """
    (arcs,) = teacher.arcs.marginals()
    joint = (arcs[..., None] * teacher.relations.softmax(-1)).flatten(2)
    heads = offset_heads(labels.offsets.to(arcs.device), teacher.lengths, arcs.shape[1])
    relations = labels.relation_ids.to(arcs.device)
    named = heads.clamp(min=0) * teacher.relations.shape[-1] + relations
    mass = joint.gather(2, named).masked_fill(heads < 0, 0.0)
    total = mass.sum(-1, keepdim=True)
    shares = torch.where(total > 0, mass / total, 1.0 / mass.shape[-1])
    valid = valid_positions(teacher.lengths, arcs.shape[1])
    return (soften(shares * valid[..., None], local),)


def offset_heads(offsets: Tensor, lengths: Tensor, n: int) -> Tensor:
    """[B, n, L]: the heads that relative positions [L] name; 0 is the root, -1 outside."""
    head = torch.arange(1, n + 1, device=offsets.device)[:, None] + offsets
    inside = (head >= 1) & (head <= lengths[:, None, None])
    return torch.where(inside, head, -1).masked_fill(offsets == 0, 0)


def soften(marginals: Tensor, temperature: float, alternatives: int = 1) -> Tensor:
    """marginals ** (1/T), renormalised over the last `alternatives` dimensions; 0 stays 0."""
    if temperature == 1.0:
        return marginals
    powers = marginals ** (1.0 / temperature)
    total = powers.sum(tuple(range(-alternatives, 0)), keepdim=True)
    return powers / total.masked_fill(total == 0, 1.0)
