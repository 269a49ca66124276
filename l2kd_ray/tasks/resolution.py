"""From a study's description of a task to data: files are found, digested and checked."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from l2kd_ray.door import Plugin, PluginKind, find, named
from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.tasks import distil, labelled, tagging
from l2kd_ray.tasks.data import Source, Task, TaskData
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.metrics import (
    LESS_IS_BETTER,
    METRICS,
    check_labels,
    check_references,
    is_f1_of_class,
)
from l2kd_ray.tasks.readers import READERS, hub, reader_of, squad, tables
from l2kd_ray.tasks.readers.files import digest
from l2kd_ray.tasks.registry import Entry, entries
from l2kd_ray.tasks.spec import SPLITS, Format, Metric, Part, Split, TaskKind, TaskSpec
from l2kd_ray.tasks.summary import LABELLED, summarise

_SUFFIXES: Mapping[str, str] = {
    ".json": "squad",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".zip": "e2e",
    ".bz2": "wikisql",
    ".conll": "conll",
    ".conllu": "conllu",
}
_METRICS: Mapping[TaskKind, str] = {
    "classify": "em",
    "pair": "em",
    "regress": "pearson",
    "text-to-text": "rouge",
    "tag": "span_f1",
    "parse": "las",
}
_KINDS: Mapping[str, TaskKind] = {"conll": "tag", "conllu": "parse"}
_HUB_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("validation", "dev", "valid"),
    "test": ("test",),
}
_UNKNOWN = Entry("text-to-text", "", "")
"""Says nothing of a hub dataset that the registry does not have."""
_FORMATS = {name: reader for name, reader in READERS.items() if reader.of_file}
"""The readers that a study may name."""
Sources = dict[Split, Source]
FindPlugin = Callable[[PluginKind, str, Mapping[str, Any]], str | Plugin]


def find_plugin(kind: PluginKind, name: str, known: Mapping[str, Any]) -> str | Plugin:
    """A built-in's name, or a plug-in without options. Raises: InputError."""
    return name if name in known else find(kind, name, known)[1]


def resolve(
    spec: TaskSpec,
    *,
    data_dir: Path | None,
    data_seed: int,
    caps: Mapping[Split, int | None],
    where: str,
    seeds: Sequence[int] = (),
    base: Path | None = None,
    plugin: FindPlugin = find_plugin,
) -> Task:
    """Find, read and check a task's data.

    Args:
        data_dir: a folder with the files of named tasks; without one they come from the hub.
        data_seed: seed of the dev split (if upstream has none), of caps and of generated tasks.
        caps: maximum number of examples of a split, if `spec` does not say (`max_train` ...).
        where: the study, for messages.
        seeds: those with which the study draws training examples (`TaskData.drawn`); by default
            `data_seed`. The first one's are counted.
        base: folder in which relative paths are looked for after the working directory.
        plugin: finds a metric or reader from outside, with its options.

    Raises:
        InputError: something is missing, unreadable or malformed.
    """
    entry = entries().get(spec.name)
    sources = _sources(spec, entry, data_dir, data_seed, where, base, plugin)
    _check_keys(spec, sources, where)
    counted = {source: source.read_counted() for source in dict.fromkeys(sources.values())}
    read = {source: examples for source, (examples, _) in counted.items()}
    kind = spec.kind or (entry.kind if entry else _kind(sources["train"]))
    for examples in read.values():
        labelled.check(kind, examples, spec.name, where)
    if kind in LABELLED:
        _check_labels(spec.name, {split: read[source] for split, source in sources.items()}, where)
    limits = {split: getattr(spec, f"max_{split}") or caps.get(split) for split in SPLITS}
    _check_sources(spec.name, sources, limits, where)

    def rows_of(data: TaskData) -> list[Example]:
        return data.select(read[data.source])

    whole = {split: _uncapped(spec, split, sources, data_seed) for split in SPLITS}
    uncapped = {split: rows_of(data) for split, data in whole.items()}
    splits: dict[Part, TaskData] = {
        split: _capped(data, len(uncapped[split]), limits[split], data_seed)
        for split, data in whole.items()
    }
    remarks = () if "dev" in sources else _carved(spec, uncapped["train"], uncapped["dev"], where)
    if kind in LABELLED:
        remarks += _numbered(sources["train"], read[sources["train"]])
    drawn = [splits["train"].drawn(seed) for seed in dict.fromkeys(seeds or (data_seed,))]
    if splits["train"].cap is not None:
        samples = {one.cap_seed or 0: rows_of(one) for one in drawn}
        remarks += _drawn(uncapped["train"], samples, kind)
    if kind == "tag":
        _check_tags(spec.name, map(rows_of, drawn), where)
    if spec.distil:
        file = _find(spec.distil, base)
        splits["distil"] = distil.find(file, drawn, read[sources["train"]])
    metric = _metric(spec, entry.metric if entry else _METRICS[kind], plugin)
    # The task's own metric is still shown if the study sets another.
    named = (entry.metric, *entry.extras) if entry else ()
    extras = tuple(extra for extra in named if extra != metric)
    chosen: dict[Split, list[Example]] = {
        split: rows_of(drawn[0] if split == "train" else splits[split]) for split in SPLITS
    }
    for split, examples in chosen.items():
        for one in (metric, *extras):
            check_references(one, examples, where=where, key=f"tasks.{spec.name}.{split}")
    check_labels(metric, chosen["test"], where=where, key=f"tasks.{spec.name}.test")
    summaries = {
        split: summarise(
            chosen[split],
            None if split == "train" else chosen["train"],
            rows=counted[splits[split].source][1],
            kind=kind,
            metric=metric,
        )
        for split in SPLITS
    }
    return Task(
        spec.name,
        kind,
        metric,
        splits,
        extras,
        seen=TaskData(spec.name, "train", sources["train"]) if entry and entry.leaks else None,
        summaries=summaries,
        remarks=remarks,
    )


def _check_keys(spec: TaskSpec, sources: Sources, where: str) -> None:
    """Refuse columns and labels that no reader of the task's data reads."""
    readers = [reader_of(source.reader) for source in sources.values()]
    roles = list(dict.fromkeys(role for reader in readers for role in reader.columns))
    unread = [f"columns.{role}" for role in spec.columns if role not in roles]
    if spec.labels and not any(reader.labels for reader in readers):
        unread.append("labels")
    if unread:
        raise InputError(
            "the format of the task's data has no use for this key",
            where=where,
            key=f"tasks.{spec.name}.{unread[0]}",
            got=" and ".join(dict.fromkeys(named(source.reader) for source in sources.values())),
            expected=f"no labels, columns of the roles: {', '.join(roles) or 'none'}",
            fix="leave it out",
        )


def _check_labels(task: str, examples: Mapping[Split, list[Example]], where: str) -> None:
    """Refuse a split of which training has no label at all: the labels are spelled differently."""
    known = labelled.labels(examples["train"])
    for split, rows in examples.items():
        found = labelled.labels(rows)
        if not set(known) & set(found):
            raise InputError(
                f"no label of the {split} split occurs in training",
                where=where,
                key=f"tasks.{task}.{split}",
                got=", ".join(found),
                expected=f"labels such as {', '.join(known[:20])}",
                fix="name the texts of numbers by the task's key `labels`, or correct the data",
            )


def _check_tags(task: str, samples: Iterable[Sequence[Example]], where: str) -> None:
    """Refuse training sentences whose words all have one tag, as of a wrong column."""
    for sentences in samples:
        found = {tag for sentence in sentences for tag in tagging.words(sentence.answers[0])}
        if len(found) == 1:
            raise InputError(
                f"all words of {len(sentences)} training sentences have one tag",
                where=where,
                key=f"tasks.{task}.train",
                got=found.pop(),
                expected="tags that can be told apart",
                fix="name the tags' column: columns: {label: ...}; or raise max_train",
            )


def _check_sources(
    task: str, sources: Sources, limits: Mapping[Split, int | None], where: str
) -> None:
    """Refuse test data that are the training data, or the dev data that settings are chosen on."""
    other: tuple[tuple[Split, str, str], ...] = (
        ("train", "training", "name a test file"),
        ("dev", "dev", "name another dev file, or none: dev is then carved from train"),
    )
    for split, name, way_out in other:
        if sources.get(split) == sources["test"] and limits[split] == limits["test"]:
            raise InputError(
                f"the {name} and the test data are the same",
                where=where,
                key=f"tasks.{task}.test",
                got=sources["test"].location,
                expected="test data that nothing is trained or chosen on",
                fix=f"{way_out}; to test on {name} data on purpose, set another max_test",
            )


def _numbered(source: Source, train: list[Example]) -> tuple[str, ...]:
    """A remark on labels that are bare numbers, where the user has not named them."""
    known = labelled.labels(train)
    if "label.0" in dict(source.options) or not all(label.isdigit() for label in known):
        return ()
    return (f"the labels are the numbers {', '.join(known[:20])}; `labels` can give them texts",)


def _carved(
    spec: TaskSpec, train: list[Example], dev: list[Example], where: str
) -> tuple[str, ...]:
    """A remark on a dev split of another size than asked for, as groups and inputs stay together.

    Raises: InputError if a side is empty, or is one group where there are several.
    """
    rows = len(train) + len(dev)
    groups = [{row.group for row in side} for side in (train, dev)]
    if not train or not dev or (min(map(len, groups)) == 1 and groups != [{None}, {None}]):
        units = f"{rows} training examples"
        if (known := len((groups[0] | groups[1]) - {None})) > 1:
            units += f" in {known} groups"
        raise InputError(
            f"{units} are too few to carve a dev split from",
            where=where,
            key=f"tasks.{spec.name}",
            got=f"{len(train)} rows of train, {len(dev)} of dev",
            fix="name a dev file, change dev_fraction, or name no column `group`",
        )
    if len(dev) - math.ceil(spec.dev_fraction * rows) <= 0.05 * rows:
        return ()
    return (
        f"dev holds {len(dev)} of {rows} training rows, {len(dev) / rows:.0%} where dev_fraction "
        f"is {spec.dev_fraction:.0%}, because rows of one group or input stay together",
    )


def _drawn(
    pool: list[Example], samples: Mapping[int, list[Example]], kind: TaskKind
) -> tuple[str, ...]:
    """Remarks on samples of the training split, by seed: their size, and labels they lack."""
    first = next(iter(samples))
    size = f"{len(samples[first])} of {len(pool)} rows"
    if len(samples) == 1:
        found = [f"train is a sample of {size}, drawn by seed {first}"]
    else:
        found = [f"each seed trains on its own sample of {size}; the counts are seed {first}'s"]
    known = set(labelled.labels(pool)) if kind in LABELLED else set()
    for seed, rows in samples.items():
        if lacking := known - set(labelled.labels(rows)):
            named = ", ".join(sorted(lacking)[:20])
            found.append(f"the sample of seed {seed} lacks {len(lacking)} labels: {named}")
    return tuple(found)


def _metric(spec: TaskSpec, default: str, plugin: FindPlugin) -> Metric:
    """The task's metric. Raises: InputError for an unknown one."""
    if spec.metric is not None and is_f1_of_class(spec.metric):
        return spec.metric
    known = {name: judge for name, judge in METRICS.items() if name not in LESS_IS_BETTER}
    return default if spec.metric is None else plugin("metrics", spec.metric, known)


def _uncapped(spec: TaskSpec, split: Split, sources: Sources, data_seed: int) -> TaskData:
    """A split with all of its examples; dev is carved from train if it has no source."""
    if "dev" in sources or split == "test":
        return TaskData(spec.name, split, sources[split])
    side: Literal["train", "dev"] = "dev" if split == "dev" else "train"
    return TaskData(spec.name, split, sources["train"], (spec.dev_fraction, side), data_seed)


def _capped(data: TaskData, rows: int, limit: int | None, data_seed: int) -> TaskData:
    """The split with its number of rows, and with a cap if that removes examples."""
    if limit is None or limit >= rows:
        return replace(data, rows=rows, available=rows)
    return replace(data, cap=limit, cap_seed=data_seed, rows=limit, available=rows)


def _kind(train: Source) -> TaskKind:
    """The kind of a task: from its format, or classification if its answers are labels."""
    if isinstance(train.reader, Plugin):
        return "text-to-text"
    if train.reader in _KINDS:
        return _KINDS[train.reader]
    options = dict(train.options)
    if train.reader == "hub":
        rows = hub.rows(options)
    elif train.reader in ("jsonl", "csv"):
        rows = tables.ROWS[train.reader](train.location, options)
    else:
        return "text-to-text"
    return "classify" if tables.has_labels(rows, options) else "text-to-text"


def _sources(
    spec: TaskSpec,
    entry: Entry | None,
    data_dir: Path | None,
    data_seed: int,
    where: str,
    base: Path | None,
    plugin: FindPlugin,
) -> Sources:
    """The source of each split; dev may be missing."""
    if spec.train or spec.dev or spec.test:
        return _own_files(spec, entry, where, base, plugin)
    if spec.hub:
        return _hub(spec, entry, spec.hub, where)
    if entry is None:
        question = did_you_mean(spec.name, entries())
        raise InputError(
            "no such task",
            where=where,
            key="tasks",
            got=spec.name,
            expected=f"one of {', '.join(entries())}",
            fix=f"{question} " * bool(question)
            + "a task of your own needs files: {name: mine, train: a.jsonl, test: b.jsonl}",
        )
    if entry.generator:
        return _generated(entry.generator, spec.name, data_seed)
    if data_dir is not None:
        return _named_files(spec, entry, _find(data_dir, base), where)
    if entry.hub:
        return _hub(spec, entry, entry.hub, where)
    raise InputError(
        f"the data of {spec.name} are not on the hub",
        where=where,
        key="data_dir",
        expected="a folder with " + " or ".join(files["train"] for files in entry.files.values()),
        fix="set data_dir, or name the task's files (train, dev, test)",
    )


def _own_files(
    spec: TaskSpec, entry: Entry | None, where: str, base: Path | None, plugin: FindPlugin
) -> Sources:
    given = {split: getattr(spec, split) for split in SPLITS if getattr(spec, split)}
    for split in ("train", "test"):
        if split not in given:
            raise InputError(
                f"the task {spec.name} has no {split} split",
                where=where,
                key=f"tasks.{spec.name}.{split}",
                expected=f"a {split} file",
            )
    sources: Sources = {}
    for split, path in given.items():
        name = spec.format or _SUFFIXES.get(path.suffix.lower())
        if name is None:
            raise InputError(
                "the file's name does not tell its format",
                where=where,
                key=f"tasks.{spec.name}.{split}",
                got=str(path),
                expected=f"a name ending in {', '.join(_SUFFIXES)}, or the key `format`",
            )
        path = _find(path, base)
        if name == "squad" and spec.format is None and not squad.looks_like(path):
            name = "jsonl"
        sources[split] = _file(path, plugin("readers", name, _FORMATS), split, spec, entry)
    return sources


def _named_files(spec: TaskSpec, entry: Entry, data_dir: Path, where: str) -> Sources:
    """The first of the entry's sets of files whose train and test files exist."""
    tried = []
    for reader, files in entry.files.items():
        existing_files = {}
        for split, name in files.items():
            candidates = _candidates(data_dir, name)
            tried += candidates
            existing = [path for path in candidates if path.is_file()]
            if existing:
                existing_files[split] = existing[0]
        if "train" in existing_files and "test" in existing_files:
            return {
                split: _file(path, reader, split, spec, entry)
                for split, path in existing_files.items()
            }
    looked_for = [f"{path}{' (there)' if path.is_file() else ''}" for path in dict.fromkeys(tried)]
    raise InputError(
        f"the data of {spec.name} cannot be found",
        where=where,
        key="data_dir",
        got=str(data_dir),
        expected="a train and a test file; looked for:\n            "
        + "\n            ".join(looked_for),
        fix="set data_dir, name the files (train, dev, test)"
        + (
            f", or read the hub's copy: {{name: {spec.name}, hub: {entry.hub}}}"
            if entry.hub
            else ""
        ),
    )


def _candidates(data_dir: Path, name: str) -> list[Path]:
    """Paths where `name` may be, if `data_dir` holds all sets or is itself one of their folders."""
    parts = Path(name).parts
    tails = [parts[n:] for n in range(1, len(parts)) if data_dir.parts[-n:] == parts[:n]]
    paths = [data_dir / name, *(data_dir.joinpath(*tail) for tail in tails)]
    # A generic name (train.json) could belong to any task, so it needs its folder.
    if Path(name).stem not in ("train", "dev", "valid", "test"):
        paths.append(data_dir / parts[-1])
    if len(parts) == 1:
        paths.append(data_dir / "l2kd" / name)
    return list(dict.fromkeys(paths))


def _file(path: Path, reader: Format, split: Split, spec: TaskSpec, entry: Entry | None) -> Source:
    options: dict[str, str] = {}
    labels = entry.labels if entry else ()
    if isinstance(reader, Plugin):
        options = {"split": split, **_table_options(spec, entry, spec.columns, labels)}
        return Source(reader, 0, digest(path), tuple(sorted(options.items())), str(path))
    if READERS[reader].per_split:
        options["split"] = split
    if reader in tables.ROWS or reader in ("conll", "conllu", "text"):
        known = dict(entry.file_columns) if entry else {}
        options |= _table_options(spec, entry, known | dict(spec.columns), labels)
    if reader == "conll" and spec.scheme is not None:
        options["scheme"] = spec.scheme
    if reader == "csv" and spec.quoting is not None:
        options["quoting"] = spec.quoting
    if reader == "superni" and spec.question is not None:
        options["question"] = spec.question
    if reader in ("squad", "superni", *tables.ROWS) and spec.unanswered is not None:
        options["unanswered"] = spec.unanswered
    return _source(reader, digest(path), options, str(path))


def _hub(spec: TaskSpec, entry: Entry | None, hub_id: str, where: str) -> Sources:
    """The hub's splits at one commit; the registry's columns and labels are its own hub id's."""
    known = entry if entry and entry.hub == hub_id else _UNKNOWN
    config = spec.config or known.config
    commit = hub.commit(hub_id, spec.revision)
    existing = hub.splits(hub_id, config, commit)
    options = _table_options(spec, entry, {**known.columns, **spec.columns}, known.labels)
    options |= {"hub": hub_id, "commit": commit} | ({"config": config} if config else {})
    options |= {"unanswered": spec.unanswered} if spec.unanswered else {}
    given: dict[Split, str] = {**known.splits, **spec.splits}
    # A split that serves as another one must not become dev, too: GLUE's validation is test here.
    free = () if known.splits else [n for n in _HUB_SPLITS["dev"] if n not in given.values()]
    usual: Mapping[Split, Sequence[str]] = {**_HUB_SPLITS, "dev": free}
    sources: Sources = {}
    for split in SPLITS:
        wanted = (given[split],) if split in given else usual[split]
        names = [name for name in wanted if name in existing]
        if names:
            sources[split] = _source("hub", commit, {**options, "split": names[0]}, hub_id)
        elif split != "dev" or split in spec.splits:
            raise InputError(
                f"the hub dataset has no split {wanted[0]}",
                where=where,
                key=f"tasks.{spec.name}.splits.{split}",
                got=existing,
                expected=f"the hub's name of the {split} split, or local files",
            )
    return sources


def _generated(reader: str, task: str, data_seed: int) -> Sources:
    identity = hashlib.sha256(f"{task}/{READERS[reader].version}".encode()).hexdigest()
    options = {"task": task, "data_seed": str(data_seed)}
    return {split: _source(reader, identity, {**options, "split": split}, "") for split in SPLITS}


def _table_options(
    spec: TaskSpec, entry: Entry | None, columns: Mapping[Any, str], labels: Sequence[str]
) -> dict[str, str]:
    """The options of a table's reader; `labels` are those of the registry."""
    options = {f"column.{role}": name for role, name in columns.items()}
    options |= {f"label.{number}": text for number, text in enumerate(spec.labels or labels)}
    question = spec.question  # an empty one is one, too
    if question is None and entry:
        question = entry.question
    if question is None and (spec.kind or (entry.kind if entry else None)) == "regress":
        question = ""  # no second text
    return options | ({"question": question} if question is not None else {})


def general_text(path: Path, base: Path | None) -> TaskData:
    """A file of texts, one a line. Raises: InputError if it is not readable, or has none."""
    file = _find(path, base)
    source = _source("lines", digest(file), {}, str(file))
    rows = len(source.read())
    return TaskData("texts", "test", source, rows=rows, available=rows)


def _source(reader: str, digest: str, options: Mapping[str, str], location: str) -> Source:
    version = READERS[reader].version
    return Source(reader, version, digest, tuple(sorted(options.items())), location)


def _find(path: Path, base: Path | None) -> Path:
    """The absolute path of `path`, from the working directory, or else from `base`."""
    if base is not None and not path.exists() and (base / path).exists():
        path = base / path
    return Path(os.path.abspath(path))
