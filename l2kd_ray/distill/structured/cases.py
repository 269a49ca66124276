"""The six cases and the baselines by name: the losses of a stage that distils a structured model.

    kd = distillation("1a", "structural", temperature=2.0)
    targets = kd.targets(teacher)             # once
    loss = kd.loss(student, targets)          # [B]

`case_table` lists the objectives that each case has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from l2kd_ray.distill.structured import baselines, projections
from l2kd_ray.distill.structured.case_table import CASES, Case, Objective
from l2kd_ray.distill.structured.chain import Chain, ChainParts
from l2kd_ray.distill.structured.eisner import Projective
from l2kd_ray.distill.structured.labelled import LabelledArcs, RelativeLabels
from l2kd_ray.distill.structured.objective import StructuralKD
from l2kd_ray.distill.structured.structure import Parts, Structure
from l2kd_ray.distill.structured.token import IndependentTokens
from l2kd_ray.distill.structured.trees import NonProjective

CaseProjection = Callable[..., Parts]


def to_trees(
    teacher: LabelledArcs, local: float = 1.0, *, trees: type[NonProjective] | type[Projective]
) -> Parts:
    """The marginals of the teacher's arcs with relations, given that its heads form a tree.

    Head selection gives sets of heads with cycles a probability, a tree distribution gives them
    none: the cross-entropy is infinite, and (1) with the teacher's own marginals is no
    cross-entropy.
    """
    arcs = teacher.first_order
    return projections.unchanged(replace(teacher, arcs=trees(arcs.scores, arcs.lengths)), local)


_PROJECTIONS: Mapping[str, CaseProjection] = {
    "1a": projections.chain_to_chain,
    "1b": projections.arcs_to_labels,
    "2a": projections.chain_to_tokens,
    "2b": projections.arcs_to_labels,
    "3": projections.tokens_to_chain,
    "4": projections.spans_to_tokens,
    "tree": partial(to_trees, trees=NonProjective),
    "projective": partial(to_trees, trees=Projective),
}
"""Projections from the teacher to the student's substructures."""
_POSTERIORS: Mapping[str, CaseProjection] = {
    "1a": projections.chain_to_tokens,
    "3": projections.unchanged,
}
"""Projections from the teacher to labels of words, where these differ from the substructures."""


def distillation(
    case: str,
    objective: Objective = "structural",
    temperature: float = 1.0,
    *,
    labels: RelativeLabels | None = None,
    k: int = 10,
    scope: Literal["global", "local"] = "global",
) -> StructuralKD:
    """The loss of a case with one of its objectives.

    Args:
        temperature: ignored by Top-K and Top-WK, whose targets are pseudo-labels.
        labels: the labels of the student of case 1b or 2b; the teacher must have their relations.
        k: number of sequences of Top-K and Top-WK.
        scope: `local` reproduces the released code, clamped as there.

    Raises: ValueError: the case has no such objective, or needs `labels`.
    """
    row, project = CASES[case], _PROJECTIONS[case]
    if objective not in row.objectives:
        raise ValueError(
            f"case {case}, {row.teacher} => {row.student}, has no objective {objective!r}"
        )
    if row.relative:
        if labels is None:
            raise ValueError(f"case {case} has a student of relative labels: pass them as `labels`")
        project = partial(project, labels=labels)
    loss = partial(StructuralKD, scope=scope)
    if objective == "structural":
        return loss(project, temperature)
    if objective == "posterior":
        view = baselines.token_posterior if case in _POSTERIORS else None
        return loss(_POSTERIORS.get(case, project), temperature, view=view)
    if objective == "token":
        return loss(baselines.token_targets, temperature, view=baselines.emissions)
    best = partial(baselines.top_k, k=k, weighted=objective == "top-wk")
    return StructuralKD(partial(_pseudo_labels, row=row, project=project, best=best))


def _pseudo_labels(
    teacher: Structure,
    local: float = 1.0,
    *,
    row: Case,
    project: CaseProjection,
    best: Callable[[Chain | IndependentTokens], ChainParts],
) -> Parts:
    """The label counts of the teacher's best sequences."""
    if not isinstance(teacher, Chain):  # words are labelled independently of each other
        tokens = isinstance(teacher, IndependentTokens)
        (mu,) = teacher.marginals() if tokens else project(teacher)
        teacher = IndependentTokens(mu.log(), teacher.lengths)
    parts = best(teacher)
    return parts if row.student == "chain" else (parts.tokens,)
