"""A view of a store for one verb: one listing, and each manifest read at most once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from l2kd_ray.core.filetree import side_by_side
from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.store import Listing, Store

T = TypeVar("T")


class StoreView:
    """The finished stages at the time of the first call; later calls return the same until `renew`.

    Code that runs stages calls `renew` afterwards.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.renew()

    def renew(self) -> None:
        """Drop everything read so far, so that the next call reads the store again."""
        self._listing: Listing | None = None
        self._known: dict[str, Manifest | None] = {}

    def update(self) -> bool:
        """Read the listing again, and keep the manifests read before of stages that are still
        finished. Returns whether the listing has changed.

        For a process that looks again and again: a finished stage's manifest does not change.
        """
        former, self._listing = self._listing, self.store.listing()
        finished = self._listing.finished
        self._known = {key: one for key, one in self._known.items() if one and key in finished}
        return self._listing != former

    def listing(self) -> Listing:
        """Every finished stage."""
        if self._listing is None:
            self._listing = self.store.listing()
        return self._listing

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        """The manifests of the finished stages among `stages` (key -> kind), by key.

        They keep the order of `stages`; those not read before are read in parallel.
        """
        finished, known = self.listing().finished, self._known
        new = {k: kind for k, kind in stages.items() if k in finished and k not in known}
        known.update({**dict.fromkeys(new), **self.store.manifests(new)})
        return {key: manifest for key in stages if (manifest := known.get(key)) is not None}

    def each(
        self, stages: Iterable[Manifest], name: str, parse: Callable[[bytes], T]
    ) -> dict[str, T]:
        """Parse the file `name` of each stage; returns the results by key.

        Raises: store.Damaged if a file differs from what was published.
        """
        chosen = list(stages)
        found = side_by_side(lambda stage: parse(self.store.content(stage, name)), chosen)
        return {stage.key: one for stage, one in zip(chosen, found, strict=True)}

    def has_files(self, key: str) -> bool:
        """True if the stage is finished and its files were not dropped."""
        return key in self.listing().finished and key not in self.listing().dropped


AnyStore = Store | StoreView
"""Anything with `listing` and `manifests`; a `StoreView` reads each from its store only once."""
