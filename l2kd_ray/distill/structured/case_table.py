"""The cases of Structural KD by name: what teacher and student compute, and what can be distilled.

Cases 1a to 4 are those of Wang et al. 2021, section 3; the last two condition the teacher on trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "token", "chain", "spans", "biaffine", "second-order", "tree", "projective", "labelling"
]
"""What a model's head computes: Tokens, Chain, Spans; LabelledArcs of Heads, SecondOrder,
NonProjective, Projective; Tokens of relative labels."""
Objective = Literal["structural", "token", "posterior", "top-k", "top-wk"]
_FLAT = {"token", "chain"}


@dataclass(frozen=True)
class Case:
    """A kind of teacher with a kind of student."""

    teacher: Kind
    student: Kind

    @property
    def tags(self) -> bool:
        """Whether it labels words; else it draws trees."""
        return bool({self.teacher, self.student} & {"token", "chain", "spans"})

    @property
    def relative(self) -> bool:
        """Whether the student spells arcs as relative labels, a word at a time."""
        return self.student == "labelling"

    @property
    def objectives(self) -> frozenset[Objective]:
        """What a student can learn from the teacher.

        A student of trees has the structural objective alone. Where words are labelled one by one,
        posterior KD is structural. Only what has a score for each label of a word has token KD; the
        k best of span sets and of trees are not searched.
        """
        found: set[Objective] = {"structural"}
        if self.student not in ("tree", "projective"):
            found.add("posterior")
        if {self.teacher, self.student} <= _FLAT:
            found.add("token")
        if self.teacher != "spans" and self.student in _FLAT | {"labelling"}:
            found |= {"top-k", "top-wk"}
        return frozenset(found)


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
