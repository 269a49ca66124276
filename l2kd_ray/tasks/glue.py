"""The tasks of GLUE (Wang et al., ICLR 2019, arXiv 1804.07461), except WNLI.

The labels of its test splits are not public. So, as is usual, the validation split is the test
split here (MNLI: the matched one), and a dev split is carved from train: nothing is tuned on
reported data. Local files are glue/<task>/train.jsonl, test.jsonl and perhaps dev.jsonl below
`data_dir`, with the hub's columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from l2kd_ray.tasks.entries import Entry, jsonl
from l2kd_ray.tasks.spec import TaskKind

_HUB = "nyu-mll/glue"


def _glue(
    name: str,
    description: str,
    texts: tuple[str, ...],
    labels: tuple[str, ...] = (),
    metric: str = "em",
    extras: tuple[str, ...] = (),
    kind: TaskKind | None = None,
) -> Entry:
    columns = dict(zip(("context", "question"), texts, strict=False)) | {"id": "idx"}
    return Entry(
        kind or ("classify" if len(texts) == 1 else "pair"),
        metric,
        f"{description} (GLUE)",
        (jsonl(f"glue/{name}"),),
        hub=_HUB,
        config=name,
        splits={
            "train": "train",
            "test": "validation_matched" if name == "mnli" else "validation",
        },
        columns=columns,
        file_columns=columns,
        labels=labels,
        question=None if len(texts) == 2 else f"{labels[0]} or {labels[1]}?",
        extras=extras,
    )


_TWO = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not entailment")
_TASKS = (
    _glue(
        "cola",
        "whether a sentence is good English",
        ("sentence",),
        ("unacceptable", "acceptable"),
        "mcc",
        ("em",),
    ),
    _glue("sst2", "sentiment of film reviews", ("sentence",), ("negative", "positive")),
    _glue(
        "mrpc",
        "whether two sentences of news say the same",
        _TWO,
        ("not equivalent", "equivalent"),
        extras=("f1",),
    ),
    _glue(
        "qqp",
        "whether two questions ask the same",
        ("question1", "question2"),
        ("not duplicate", "duplicate"),
        extras=("f1",),
    ),
    _glue(
        "stsb",
        "how similar two sentences are, from 0 to 5",
        _TWO,
        metric="pearson",
        extras=("spearman",),
        kind="regress",
    ),
    _glue(
        "mnli",
        "whether a hypothesis follows, in five genres",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
    ),
    _glue("qnli", "whether a sentence answers a question", ("question", "sentence"), _ENTAILED),
    _glue("rte", "whether a sentence follows from another", _TWO, _ENTAILED),
)
GLUE: Mapping[str, Entry] = {f"glue.{entry.config}": entry for entry in _TASKS}
