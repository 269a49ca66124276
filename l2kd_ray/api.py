"""Loading, listing, comparing and submitting studies, for notebooks and for `l2kd` itself."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.experiment import Experiment
from l2kd_ray.study import yaml12
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.pins import Revisions
from l2kd_ray.study.reading import parse_study, read_study
from l2kd_ray.study.schema import StudyConfig

if TYPE_CHECKING:
    from l2kd_ray.analysis.streams import Comparison
    from l2kd_ray.study.overview import StudyProgress
    from l2kd_ray.study.streams import Stream

DEFAULT_STORAGE: str = StudyConfig.model_fields["storage"].default


def load_study(
    study: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    /,
    **more: Any,
) -> Experiment:
    """Load a study by its file, by the name of one that was swept before, or as a mapping.

    Overrides are dotted keys: `load_study(path, {"kd.temperature": 2})`; keys without a dot may be
    keyword arguments: `load_study(path, seeds=[1, 2])`. Files that a mapping names are looked up
    from the working folder.

    Raises: InputError for anything in it that cannot be used. Nothing is started.
    """
    changes = {**(overrides or {}), **more}
    if isinstance(study, Mapping):
        config = parse_study(study, changes, base=Path())
        return _experiment(config, Path("study"), [config.name, f"storage={config.storage}"])
    words = [
        f"{key}={json.dumps(value, default=str, ensure_ascii=False)}"
        for key, value in changes.items()
    ]
    with _found(study, changes) as file:
        return _experiment(read_study(file, changes), file, [str(study), *words])


def _experiment(config: StudyConfig, file: Path, words: Sequence[str]) -> Experiment:
    """A study of a file as an experiment; `words`: how a command line names it."""
    from l2kd_ray.study import resolve_study

    store = open_store(config.storage)
    former = Folder(store, config.name).resolved
    if former is not None:  # hub names keep the commits of the last sweep
        try:
            config = Revisions.of(parse_study(yaml12.load(former))).pin(config)
        except InputError as error:  # such as a former file of another version
            print(
                f"the study's former file cannot be read, so the commits of hub names are "
                f"looked up anew: {str(error).splitlines()[0]}",
                file=sys.stderr,
            )
    command = " ".join(shlex.quote(word) for word in ["l2kd", "sweep", *words])
    return Experiment(resolve_study(config, file), store, command)


def compare_studies(
    studies: Sequence[str | Path],
    pair: tuple[str, str] | None = None,
    storage: str | None = None,
) -> tuple[Comparison, Mapping[str, Stream]]:
    """Compare methods over several studies, each a stream of tasks.

    Args:
        studies: files, or names of studies that were swept before.
        pair: two methods; default: all pairs that the studies have in common.
        storage: the storage of all studies, where it is not that of their files.

    Raises:
        InputError: a study cannot be used or compared (`study.streams`).
    """
    from l2kd_ray.analysis.streams import compare_streams
    from l2kd_ray.study.streams import pairs_of, streams_of

    overrides = {"storage": storage} if storage else {}
    experiments = [load_study(study, overrides) for study in studies]
    snapshots = [one.snapshot() for one in experiments]
    commands = [one.command for one in experiments]
    streams = streams_of(list(zip(snapshots, commands, strict=True)))
    scopes = {name: stream.scope for name, stream in streams.items()}
    found = compare_streams(scopes, pairs_of(scopes, pair))
    for one, now in zip(experiments, snapshots, strict=True):
        one.remember(now)
    return found, streams


def list_studies(storage: str | None = None) -> list[StudyProgress]:
    """The studies that were swept in a storage, the last changed first, with their progress.

    Raises: InputError if the storage does not answer.
    """
    from l2kd_ray.study.overview import overview

    store = open_store(storage)
    return overview(store, store.listing())


def open_store(storage: str | None = None) -> Store:
    """The store of a storage (default: that of a study file that names none).

    Raises: InputError if the storage does not answer.
    """
    store = Store(storage or DEFAULT_STORAGE)
    store.check_reachable()
    return store


def shipped_studies() -> dict[str, Path]:
    """The study files that come with the package, by name."""
    folder = Path(__file__).parent / "tune_configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def submit_study(
    path: str | Path, overrides: Mapping[str, Any], words: Sequence[str], address: str
) -> str:
    """Submit a study to a Ray cluster as a job; returns the job's id.

    Its names are resolved on the cluster, so data and models need not exist here. `words`: the
    overrides as typed on the command line.

    Raises: InputError for a study or storage that cannot be used from the cluster.
    """
    from l2kd_ray.cluster.submit import submit

    with _found(path, overrides) as file:
        config = read_study(file, overrides)
        text = file.read_text(encoding="utf-8-sig")
    return submit(text, words, name=config.name, storage=config.storage, address=address)


@contextmanager
def _found(path: str | Path, overrides: Mapping[str, Any]) -> Iterator[Path]:
    """The file of a study given by path or by name. Raises: InputError if there is none."""
    if Path(path).is_file() or Path(path).suffix in (".yaml", ".yml") or os.sep in str(path):
        yield Path(path)
        return
    storage = str(overrides.get("storage") or DEFAULT_STORAGE)
    store = open_store(storage)
    named = Folder(store, str(path)).resolved
    if named is None and str(path) in (shipped := shipped_studies()):
        yield shipped[str(path)]
        return
    if named is None:
        swept = [one.name for one in list_studies(storage)]
        files = [file.name for file in Path().glob("*.yaml")]
        question = did_you_mean(path, [*files, *swept, *shipped])
        raise InputError(
            "no such study",
            where=str(path),
            expected="a YAML file, or the name of a shipped study or of one that was swept in "
            f"{store.root}",
            fix=" ".join(filter(None, [question, "`l2kd list` names them"])),
        )
    with Scratch("study") as folder:
        file = Path(folder, f"{path}.yaml")
        file.write_text(named, encoding="utf-8")
        yield file
