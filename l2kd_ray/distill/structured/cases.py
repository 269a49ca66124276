"""The six cases and the baselines by name: what a stage needs to distil a structured model.

    kd = distillation("1a", "structural", temperature=2.0)
    targets = kd.targets(teacher)             # once
    loss = kd.loss(student, targets)          # [B]

| case | teacher => student | token KD | posterior KD | Top-K, Top-WK |
|---|---|---|---|---|
| 1a | chain => chain | yes | yes | yes |
| 1b | biaffine => labelling | | as structural | yes |
| 2a | chain => token | yes | as structural | yes |
| 2b | second-order => labelling | | as structural | yes |
| 3 | token => chain | yes | yes | yes |
| 4 | spans => token | | as structural | |
| tree, projective | biaffine => trees | | | |

Cases 1a to 4 are those of Wang et al. 2021, section 3; the last condition the teacher on trees. A
student that is normalised a word at a time has no posterior beside its scores. Only what has a
score for each label of a word has token KD; the k best of span sets and of trees are not searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from l2kd_ray.distill.structured import baselines, projections
from l2kd_ray.distill.structured.chain import Chain, ChainParts
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import LabelledArcs, RelativeLabels
from l2kd_ray.distill.structured.objective import StructuralKD
from l2kd_ray.distill.structured.structure import Parts, Structure
from l2kd_ray.distill.structured.token import Tokens
from l2kd_ray.distill.structured.trees import NonProjective

Kind = Literal[
    "token", "chain", "spans", "biaffine", "second-order", "tree", "projective", "labelling"
]
"""What a model's head computes: Tokens, Chain, Spans; LabelledArcs of Heads, SecondOrder,
NonProjective, Projective; Tokens of relative labels."""
Objective = Literal["structural", "token", "posterior", "top-k", "top-wk"]
Projection = Callable[..., Parts]


@dataclass(frozen=True)
class Case:
    teacher: Kind
    student: Kind
    project: Projection
    """From the teacher to the student's substructures."""
    posterior: Projection | None = None
    """From the teacher to labels of words, where that is another thing."""


def to_labels(teacher: LabelledArcs, local: float = 1.0, *, labels: RelativeLabels) -> Parts:
    """Cases 1b and 2b, of a student with these labels."""
    device, n = teacher.relations.device, teacher.relations.shape[1]
    heads = projections.offset_heads(labels.offsets.to(device), teacher.lengths, n)
    ids = labels.relation_ids.to(device)
    return projections.arcs_to_labels(teacher, local, heads=heads, relations=ids)


def to_trees(
    teacher: LabelledArcs, local: float = 1.0, *, trees: type[NonProjective] | type[Projective]
) -> Parts:
    """The teacher's arcs with relations, given that its heads form a tree."""
    arcs = teacher.first_order
    return projections.unchanged(replace(teacher, arcs=trees(arcs.scores, arcs.lengths)), local)


CASES = {
    "1a": Case("chain", "chain", projections.chain_to_chain, projections.chain_to_tokens),
    "1b": Case("biaffine", "labelling", to_labels),
    "2a": Case("chain", "token", projections.chain_to_tokens),
    "2b": Case("second-order", "labelling", to_labels),
    "3": Case("token", "chain", projections.tokens_to_chain, projections.unchanged),
    "4": Case("spans", "token", projections.spans_to_tokens),
    "tree": Case("biaffine", "tree", partial(to_trees, trees=NonProjective)),
    "projective": Case("biaffine", "projective", partial(to_trees, trees=Projective)),
}


def distillation(
    case: str,
    objective: Objective = "structural",
    temperature: float = 1.0,
    *,
    labels: RelativeLabels | None = None,
    k: int = 10,
    scope: Literal["global", "local"] = "global",
) -> StructuralKD[Any]:
    """The loss of a case, or of a baseline in its place.

    Args:
        temperature: not read by Top-K and Top-WK, which have pseudo-labels.
        labels: those of the student of case 1b or 2b; the teacher has their relations.
        k: sequences of Top-K and Top-WK.
        scope: `local` reproduces the released code, clamped as there.

    Raises: ValueError: the case has no such baseline, or needs `labels`.
    """
    row = CASES[case]
    project = row.project
    if row.student == "labelling":
        if labels is None:
            raise ValueError(f"case {case} has a student of relative labels: say which, by labels")
        project = partial(to_labels, labels=labels)
    loss = partial(StructuralKD[Any], scope=scope, clamp=scope == "local")
    if objective == "structural":
        return loss(project, temperature)
    if objective == "posterior" and row.student not in ("tree", "projective"):
        view = baselines.token_posterior if row.posterior else None
        return loss(row.posterior or project, temperature, view=view)
    if objective == "token" and {row.teacher, row.student} <= {"token", "chain"}:
        return loss(baselines.token_targets, temperature, view=baselines.emissions)
    flat = row.teacher != "spans" and row.student in ("token", "chain", "labelling")
    if objective in ("top-k", "top-wk") and flat:
        best = partial(baselines.top_k, k=k, weighted=objective == "top-wk")
        return StructuralKD(partial(_pseudo_labels, row=row, project=project, best=best))
    raise ValueError(f"case {case}, {row.teacher} => {row.student}, has no objective {objective!r}")


def _pseudo_labels(
    teacher: Structure,
    local: float = 1.0,
    *,
    row: Case,
    project: Projection,
    best: Callable[[Chain | Tokens], ChainParts],
) -> Parts:
    """The label counts of the teacher's best sequences."""
    if not isinstance(teacher, Chain):  # words are labelled independently of each other
        mu = (teacher.marginals() if isinstance(teacher, Tokens) else project(teacher))[0]
        teacher = Tokens(mu.log(), teacher.lengths)
    parts = best(teacher)
    return parts if row.student == "chain" else (parts.tokens,)
