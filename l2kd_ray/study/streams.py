"""Several studies as the streams of one comparison, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from l2kd_ray.analysis import Doubt
from l2kd_ray.analysis.looks import Seen, smaller_plans
from l2kd_ray.analysis.scope import Scope
from l2kd_ray.analysis.streams import MethodPair, common_pairs
from l2kd_ray.errors import InputError
from l2kd_ray.names import REFERENCES
from l2kd_ray.study.evidence import is_read, selected_scope
from l2kd_ray.study.snapshot import Snapshot


@dataclass(frozen=True)
class Stream:
    """A study as it may be read now, and what weakens its numbers."""

    scope: Scope
    doubts: Sequence[Doubt]
    looks: Sequence[Seen]
    """The smaller plans that the study was read under before."""
    selected_of: Mapping[str, int]
    """The number of settings that a method's was selected from by the dev scores of the same
    models."""


def streams_of(studies: Sequence[tuple[Snapshot, str]]) -> dict[str, Stream]:
    """The streams of a comparison, by the studies' names. A study comes with its sweep's command.

    Raises: InputError for fewer than two studies, for two of one name or with trials in common, and
    for a study that has no tested difference yet.
    """
    names = [snapshot.study.config.name for snapshot, _ in studies]
    if len(set(names)) < max(len(names), 2):
        raise InputError(
            "a comparison needs two studies or more, each named once",
            key="STUDY",
            got=names,
            fix="name studies of different streams, each under a name of its own",
        )
    trained = [_final_evaluations(snapshot) for snapshot, _ in studies]
    for one, other in combinations(range(len(names)), 2):
        if trained[one] & trained[other]:
            raise InputError(
                "two studies share trials, which would count twice",
                key="STUDY",
                got=[names[one], names[other]],
                expected="studies of different tasks, data or models",
                fix="leave one of them out",
            )
    return {name: _readable(*study) for name, study in zip(names, studies, strict=True)}


def _final_evaluations(snapshot: Snapshot) -> set[str]:
    """The keys of the evaluations of students that have learned all tasks."""
    scores = snapshot.scores
    last = scores["i"] == len(snapshot.study.tasks)
    return set(scores.loc[last & ~scores["method"].isin(REFERENCES), "key"])


def _readable(snapshot: Snapshot, command: str) -> Stream:
    seen = snapshot.seen
    if len(snapshot.scores) and is_read(snapshot):
        scope = selected_scope(snapshot)
        if scope.reading.level:
            on = snapshot.study.config.tune.select_on
            selected = {} if on is not None and on.seeds else _settings(scope)
            looks = smaller_plans(snapshot.looks, seen)
            return Stream(scope, snapshot.doubts, looks, selected)
    raise InputError(
        "the study has no tested difference yet",
        where=snapshot.study.config.name,
        got=f"{seen.orders} of {seen.planned} orders finished; seeds {', '.join(seen.seeds)}",
        expected="two training seeds or more, and all orders or a planned look",
        fix=f"add seeds if there is only one, or go on: {command}",
    )


def _settings(scope: Scope) -> dict[str, int]:
    """The number of settings that each method has run with."""
    counts = scope.results.groupby("method")["setting"].nunique()
    return {method: int(counts[method]) for method, _ in scope.arms}


def pairs_of(streams: Mapping[str, Scope], chosen: MethodPair | None = None) -> list[MethodPair]:
    """The pairs of methods that all streams have, or the chosen one.

    Raises: InputError if there is none.
    """
    pairs = common_pairs(list(streams.values()))
    if chosen:
        pairs = [chosen for pair in pairs if set(pair) == set(chosen)]
    if not pairs:
        known = (f"{name}: {', '.join(dict(scope.arms))}" for name, scope in streams.items())
        raise InputError(
            "the studies have no such pair of methods in common",
            key="--pair" if chosen else "STUDY",
            got="; ".join(known),
            expected=" and ".join(chosen or ["two methods, each with a selected setting"]),
            fix="compare studies and methods that have been run in all of them",
        )
    return pairs
