"""A store as one verb sees it: one listing, and each manifest read at most once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from l2kd_ray.core.store import SIDE_BY_SIDE, Listing, Manifest, Store

T = TypeVar("T")


class StoreView:
    """The finished stages at the moment of the first question; later ones get the same answer,
    until whoever has run stages says so (`renew`)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.renew()

    def renew(self) -> None:
        """Forget what there was."""
        self._listing: Listing | None = None
        self._known: dict[str, Manifest | None] = {}

    def listing(self) -> Listing:
        """Every finished stage."""
        if self._listing is None:
            self._listing = self.store.listing()
        return self._listing

    def manifests(self, stages: Mapping[str, str]) -> dict[str, Manifest]:
        """The manifests of those of `stages` (key -> kind) that are finished, by key, in their
        sequence. Those that were not asked for before are read side by side."""
        finished, known = self.listing().finished, self._known
        new = {k: kind for k, kind in stages.items() if k in finished and k not in known}
        known.update({**dict.fromkeys(new), **self.store.manifests(new)})
        return {key: manifest for key in stages if (manifest := known.get(key)) is not None}

    def each(
        self, stages: Iterable[Manifest], name: str, parse: Callable[[bytes], T]
    ) -> dict[str, T]:
        """What `parse` makes of one file of each stage, by key; read side by side.

        Raises: store.Damaged.
        """
        chosen = list(stages)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            found = threads.map(lambda stage: parse(self.store.content(stage, name)), chosen)
            return {stage.key: one for stage, one in zip(chosen, found, strict=True)}

    def has_files(self, key: str) -> bool:
        """Whether the stage is finished and its files are still there."""
        return key in self.listing().finished and key not in self.listing().dropped


AnyStore = Store | StoreView
"""Who is asked for a `listing` and for `manifests`: a Reader asks its store each only once."""
