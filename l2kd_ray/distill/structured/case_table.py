"""The cases of Structural KD by name: kinds of teacher and student, and their objectives.

Cases 1a to 4 are those of Wang et al. 2021, section 3; the last two condition the teacher on trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

HeadKind = Literal[
    "token", "chain", "spans", "biaffine", "second-order", "tree", "projective", "labelling"
]
"""The distribution that a model's head computes.

In this order: IndependentTokens, Chain, Spans; LabelledArcs of Heads, SecondOrder,
NonProjective, Projective; IndependentTokens of relative labels.
"""
Objective = Literal["structural", "token", "posterior", "top-k", "top-wk"]
_FLAT = {"token", "chain"}


@dataclass(frozen=True)
class Case:
    """A kind of teacher with a kind of student."""

    teacher: HeadKind
    student: HeadKind

    @property
    def tags(self) -> bool:
        """True if the case labels words, False if it draws trees."""
        return bool({self.teacher, self.student} & {"token", "chain", "spans"})

    @property
    def relative(self) -> bool:
        """True if the student labels each word with its arc (relative labels)."""
        return self.student == "labelling"

    @property
    def objectives(self) -> frozenset[Objective]:
        """The objectives by which the student can learn from the teacher.

        A student of trees has the structural objective only. Where words are labelled
        independently, posterior KD equals the structural objective. Token KD needs a score for each
        label of a word. The k best span sets or trees are not searched.
        """
        objectives: set[Objective] = {"structural"}
        if self.student not in ("tree", "projective"):
            objectives.add("posterior")
        if {self.teacher, self.student} <= _FLAT:
            objectives.add("token")
        if self.teacher != "spans" and self.student in _FLAT | {"labelling"}:
            objectives |= {"top-k", "top-wk"}
        return frozenset(objectives)


CASES: Mapping[str, Case] = {
    "1a": Case("chain", "chain"),
    "1b": Case("biaffine", "labelling"),
    "2a": Case("chain", "token"),
    "2b": Case("second-order", "labelling"),
    "3": Case("token", "chain"),
    "4": Case("spans", "token"),
    "tree": Case("biaffine", "tree"),
    "projective": Case("biaffine", "projective"),
}
