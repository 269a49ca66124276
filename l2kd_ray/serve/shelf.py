"""The studies that the pages show, kept in memory and renewed while somebody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from l2kd_ray.analysis import compare, results
from l2kd_ray.analysis.design import ArmId
from l2kd_ray.api import load_study
from l2kd_ray.core.store import Listing
from l2kd_ray.experiment import Experiment
from l2kd_ray.names import REFERENCES
from l2kd_ray.report.labels import arm_labels
from l2kd_ray.serve.fresh import Fresh
from l2kd_ray.serve.storage import ReadOnlyStore
from l2kd_ray.study import Trial
from l2kd_ray.study.evidence import inference
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.overview import StudyProgress, overview
from l2kd_ray.study.search import setting_id
from l2kd_ray.study.snapshot import Snapshot


@dataclass(frozen=True)
class Contents:
    """The studies of a storage and its finished stages at one moment."""

    studies: Sequence[StudyProgress]
    listing: Listing


@dataclass(frozen=True)
class Loaded:
    """A study whose file has been read, with its state at one moment."""

    snapshot: Snapshot
    gaps: pd.DataFrame
    """`analysis.compare` of the scores so far; empty before the first score."""

    @property
    def trials(self) -> Sequence[Trial]:
        """The trials with an order, and others that are no references, in the study's sequence."""
        return [trial for trial in self.snapshot.trials if not trial.is_reference]

    @cached_property
    def arms(self) -> Mapping[ArmId, str]:
        """The label of each method and setting."""
        arms = [(one.method, setting_id(one.setting)) for one in self.trials]
        return arm_labels(pd.DataFrame(arms, columns=["method", "setting"]))

    @cached_property
    def progress(self) -> Mapping[ArmId, tuple[int, int]]:
        """The number of finished trials and of all trials, by method and setting."""
        done = {trial.id for trial in self.snapshot.done}
        counts: dict[ArmId, tuple[int, int]] = {}
        for trial in self.trials:
            arm = trial.method, setting_id(trial.setting)
            finished, every = counts.get(arm, (0, 0))
            counts[arm] = finished + (trial.id in done), every + 1
        return counts


class Shelf:
    """The studies of one storage. Its values are computed in threads, each by one at a time."""

    def __init__(self, root: str) -> None:
        self.store = ReadOnlyStore(root)
        self.contents = Fresh(self._contents)
        self._studies: dict[str, Fresh[Loaded]] = {}
        self._experiments: dict[str, tuple[str, Experiment]] = {}

    def loaded(self, name: str) -> Fresh[Loaded]:
        """The state of a study; `name` is one of `contents`."""
        return self._studies.setdefault(name, Fresh(lambda: self._load(name)))

    def report(self, name: str) -> bytes | None:
        """The page that the study's last report left; `name` is one of `contents`."""
        return self.store.read(f"studies/{name}/report.html")

    def _contents(self) -> Contents:
        listing = self.store.listing()
        return Contents(overview(self.store, listing), listing)

    def _load(self, name: str) -> Loaded:
        written = Folder(self.store, name).resolved or ""
        known = self._experiments.get(name)
        if known is None or known[0] != written:
            loaded = load_study(name, {"storage": self.store.root})
            known = written, Experiment(loaded.study, self.store, loaded.command)
            self._experiments[name] = known
        snapshot = known[1].snapshot()
        _ = snapshot.done, snapshot.manifests  # read here, in the thread, and not by the page
        return Loaded(snapshot, _gaps(snapshot))


def _gaps(snapshot: Snapshot) -> pd.DataFrame:
    """The gaps so far, without intervals: these are for the report, which counts the looks."""
    scores = snapshot.scores
    if scores.empty:
        return pd.DataFrame()
    given = inference(snapshot)
    table = compare(results(scores), results(scores, split="dev"), **given)
    return table[~table["method"].isin(REFERENCES)].reset_index(drop=True)
