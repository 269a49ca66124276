"""The studies of a storage: how far each is, from its small files and one listing of the stages.

No study file is read for it, so that it also shows studies whose data are not at hand.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from l2kd_ray.core.filetree import side_by_side
from l2kd_ray.core.store import Listing, Store
from l2kd_ray.study.folder import FailureRecord, Folder


@dataclass(frozen=True)
class StudyProgress:
    """The progress of one study of a storage, and the headline of its last report."""

    name: str
    wanted: Mapping[str, int]
    """Kind of stage -> number of stages that the study needs; at most, where it may stop early."""
    done: Mapping[str, int]
    """Kind of stage -> number of those that are finished."""
    live: str | None
    """A description of the sweep that is running; None if none is."""
    failures: Sequence[FailureRecord]
    headline: str
    """The first sentence of the last report; "" before the first report."""
    changed: float
    """When its folder last changed, in seconds since 1970."""

    @property
    def stages(self) -> int:
        return sum(self.wanted.values())

    @property
    def stages_done(self) -> int:
        return sum(self.done.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overview(store: Store, listing: Listing) -> list[StudyProgress]:
    """The studies that were swept in a storage, the last changed first."""
    names = store.folders("studies")
    found = side_by_side(lambda name: progress_of(Folder(store, name), listing), names)
    return sorted(filter(None, found), key=lambda one: (-one.changed, one.name))


def progress_of(folder: Folder, listing: Listing) -> StudyProgress | None:
    """The progress of one study; None if its folder holds no list of stages."""
    files, lines = folder.files(), folder.needed()
    if not lines:
        return None
    pairs = [line.split() for line in lines]
    return StudyProgress(
        folder.name,
        Counter(kind for kind, _ in pairs),
        Counter(kind for kind, key in pairs if key in listing.finished),
        folder.who_is_live(),
        folder.failures(),
        headline_of((folder.report() or b"").decode(errors="replace")),
        max((entry.modified.timestamp() for entry in files), default=time.time()),
    )


def headline_of(report: str) -> str:
    """The headline of a report in Markdown: the last paragraph before its sections that is no
    title and no notice; without its reference to what stands above it there."""
    head = report.split("\n## ", 1)[0]
    paragraphs = [part.strip() for part in head.split("\n\n")]
    found = next((one for one in reversed(paragraphs) if one and one[0] not in "#>"), "")
    return found.replace(" (see above)", "")
