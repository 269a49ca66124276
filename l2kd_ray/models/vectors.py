"""Word vectors from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from l2kd_ray.errors import InputError


def read_vectors(path: Path, ids: Mapping[str, int], width: int) -> dict[int, list[float]]:
    """The vectors of known words in a file of GloVe's text format, by the words' ids.

    A line is a word and `width` numbers, separated by spaces; word2vec's header line is skipped.
    Some words of glove.840B hold spaces themselves, none of the first two.
    Raises: InputError, with the line, for a vector of another width.
    """
    vectors: dict[int, list[float]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.count(" ") == 1:
                continue
            word, *cells = line.rstrip().rsplit(" ", width)
            if len(cells) < width or (number <= 2 and " " in word):
                raise InputError(
                    "the vector's size differs from the model's",
                    where=f"{path}:{number}",
                    got=line.rstrip().count(" "),
                    expected=f"{width} numbers",
                )
            if word in ids:
                vectors[ids[word]] = [float(cell) for cell in cells]
    return vectors
