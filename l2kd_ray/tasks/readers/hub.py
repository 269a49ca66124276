"""Datasets of the Hugging Face hub, read as tables at one commit.

Options: those of `tables`, and `hub` (the id), `config`, `split` and `commit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from l2kd_ray.errors import InputError
from l2kd_ray.tasks.examples import Row
from l2kd_ray.tasks.readers import tables

_TIMEOUT = 5.0
"""Seconds that the hub has to say which commit a revision is."""


def read(location: str, options: Mapping[str, str]) -> Iterator[Row]:
    return tables.read_rows(rows(options), options)


def rows(options: Mapping[str, str]) -> Iterator[tables.TableRow]:
    import datasets

    hub, split = options["hub"], options["split"]
    try:
        table = datasets.load_dataset(
            hub, options.get("config"), split=split, revision=options["commit"]
        )
    except Exception as error:  # the libraries below raise errors of many types
        raise _unreachable(hub, error, key=split) from None
    names = {
        column: feature.names
        for column, feature in table.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    for number, row in enumerate(table):
        where = f"{hub}: {split}[{number}]"
        labelled = {column: _label(row[column], names[column], options, where) for column in names}
        yield where, {**row, **labelled}


def _label(
    number: int | None, names: Sequence[str], options: Mapping[str, str], where: str
) -> int | str | None:
    """The name of a label of the hub, or its number where the user has a text for it."""
    if number is None or number == -1:  # as the hub writes labels that are not public
        return None
    if f"label.{number}" in options:
        return number
    if not 0 <= number < len(names):
        raise InputError("no such label", where=where, got=number, expected=", ".join(names))
    return names[number]


def commit(hub: str, revision: str | None) -> str:
    """The commit (40 hex digits) of a hub dataset's revision.

    The hub is asked even for a full commit: if it does not answer, this fails within seconds, while
    `datasets` would take half a minute. With HF_HUB_OFFLINE set, a full commit comes from the
    cache.

    Raises:
        InputError: there is no such dataset or revision, or the hub cannot be reached.
    """
    import huggingface_hub

    if huggingface_hub.is_offline_mode() and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return str(revision)
    try:
        info = huggingface_hub.HfApi().dataset_info(hub, revision=revision, timeout=_TIMEOUT)
    except Exception as error:
        raise _unreachable(hub, error, key=revision or "") from None
    return str(info.sha)


def splits(hub: str, config: str | None, revision: str) -> list[str]:
    """The names of a dataset's splits."""
    import datasets

    try:
        return list(datasets.get_dataset_split_names(hub, config, revision=revision))
    except Exception as error:
        raise _unreachable(hub, error, key=config or "") from None


def _unreachable(hub: str, error: Exception, key: str) -> InputError:
    return InputError(
        "the hub dataset cannot be read",
        where=hub,
        key=key,
        got=f"{type(error).__name__}: {error}".split("\n")[0],
        expected="a dataset of the Hugging Face hub, and a network connection to it",
        fix="name local files instead (train, dev, test), or data_dir, a folder that holds them",
    )
