"""Lookup of a stage by its key, and the differences between two stages."""

from __future__ import annotations

from typing import Any

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.errors import InputError


def find(reader: StoreView, key: str) -> Manifest:
    """The finished stage whose key begins with `key`. Raises: InputError for none or several."""
    finished = reader.listing().finished
    hits = {known: kind for known, kind in finished.items() if known.startswith(key)}
    found = list(reader.manifests(hits).values())
    if len(found) != 1:
        raise InputError(
            "no finished stage has this key" if not found else "several keys begin like this",
            where=reader.store.root,
            got=key,
            expected="a key of scores.parquet or of the report",
            fix="name the storage: --storage",
        )
    return found[0]


def differences(reader: StoreView, one: Manifest, other: Manifest) -> dict[str, Any]:
    """The fields in which two stages differ, each as [value of one, value of the other].

    If a field holds different inputs of one kind, its entry is the differences of those inputs, so
    that the deepest entry is the original cause.
    """
    if one.kind != other.kind:
        return {"kind": [one.kind, other.kind]}
    found: dict[str, Any] = {}
    if one.version != other.version:
        found["version"] = [one.version, other.version]
    for name in sorted({*one.settings, *other.settings}):
        value, theirs = one.settings.get(name), other.settings.get(name)
        if value == theirs:
            continue
        source, other_source = _input(reader, one, name), _input(reader, other, name)
        if source is not None and other_source is not None:
            found[name] = differences(reader, source, other_source)
        elif isinstance(value, dict) and isinstance(theirs, dict):
            found[name] = _apart(value, theirs)
        else:
            found[name] = [value, theirs]
    return found


def _apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    names = sorted({*one, *other})
    return {n: [one.get(n), other.get(n)] for n in names if one.get(n) != other.get(n)}


def _input(reader: StoreView, manifest: Manifest, name: str) -> Manifest | None:
    """The manifest of the input stage that a field holds; None if there is none in the store."""
    key = manifest.inputs.get(name, "")
    kind = reader.listing().finished.get(key)
    return None if kind is None else reader.manifests({key: kind}).get(key)
