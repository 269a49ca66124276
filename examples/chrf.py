"""A metric of one's own: chrF, the F-score of character n-grams (Popovic 2015).

It gives credit for a right stem with a wrong ending, which ROUGE over words does not.

    tasks:
      - {name: gen.rest, metric: "./examples/chrf.py:chrf"}
    chrf: {word_order: 2}    # chrF++ (Popovic 2017); without options, a metric needs no section
"""

from collections.abc import Sequence

from pydantic import Field

from l2kd_ray import door
from l2kd_ray.section import Section
from l2kd_ray.tasks import Example


class ChrfOptions(Section):
    """The key `chrf` of a study file."""

    word_order: int = Field(0, ge=0)
    """Longest word n-gram counted beside characters; 0 is chrF, 2 is chrF++."""


@door.options(ChrfOptions)
def chrf(
    predictions: Sequence[str], examples: Sequence[Example], *, options: ChrfOptions
) -> list[float]:
    """A score from 0 to 100 for each example, against the best of its references."""
    import sacrebleu

    return [
        min(
            100.0,
            sacrebleu.sentence_chrf(text, example.answers, word_order=options.word_order).score,
        )
        for text, example in zip(predictions, examples, strict=True)
    ]
