"""A snapshot: the state of a study's storage at one moment, read once per verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from l2kd_ray.core.manifest import Manifest
from l2kd_ray.core.reader import StoreView
from l2kd_ray.study import agenda
from l2kd_ray.study.agenda import Wanted
from l2kd_ray.study.doubts import doubts
from l2kd_ray.study.folder import FailureRecord, Folder
from l2kd_ray.study.orders import order_id
from l2kd_ray.study.plan import Plan, plan
from l2kd_ray.study.study import ArmSettings, Study
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Design, Doubt, Instance
    from l2kd_ray.analysis.looks import Seen


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of a study at one moment, made once per verb and passed down.

    Each part is computed at its first use, from one listing of the storage and at most one read of
    each manifest, and does not change afterwards.
    """

    study: Study
    reader: StoreView
    failures: Sequence[FailureRecord] = ()
    """The stages that failed in the last sweep."""
    looks: Sequence[Seen] = ()
    """The sizes at which intervals of this study were shown before."""
    tried: ArmSettings | None = None
    """The settings that an adaptive search has finished; None if the search is not adaptive."""

    @classmethod
    def of(cls, study: Study, reader: StoreView, folder: Folder) -> Snapshot:
        """The state of a study by what `reader` sees of its store, and by its folder."""
        tried = study.of_this_search(folder.tried()) if study.is_adaptive else None
        return cls(study, reader, folder.failures(), folder.looks(), tried)

    @cached_property
    def wanted(self) -> Wanted:
        """The trials known to be wanted.

        In an adaptive search, those of the settings tried so far; in a study that stops or selects
        depending on results, those that its results so far call for.
        """
        if self.tried is not None:
            return Wanted(self.study.trials(self.tried))
        return agenda.wanted(self.study, self.reader, self.failed)

    @property
    def trials(self) -> Sequence[Trial]:
        return self.wanted.trials

    @cached_property
    def reported(self) -> Sequence[Trial]:
        """The wanted trials that means and tables are over: without what a search proposed."""
        return [trial for trial in self.trials if not self.study.is_proposed(trial)]

    @cached_property
    def proposed_scores(self) -> pd.DataFrame:
        """The scores of the trials that a search over orders has proposed, in the same form."""
        proposed = [trial for trial in self.trials if self.study.is_proposed(trial)]
        return self.study.scores(self.reader, proposed)

    @cached_property
    def failed(self) -> set[str]:
        """The keys of the stages that failed."""
        return {failure["key"] for failure in self.failures}

    @cached_property
    def failed_instances(self) -> Sequence[Instance]:
        """The instances of reported trials that cannot finish, since a stage of theirs failed."""
        return agenda.failed_instances(self.reported, self.failed)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the wanted trials: their stages, and those that are missing."""
        return plan(self.trials, self.reader)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of all finished stages of the wanted trials, by key."""
        kinds = {stage.key: stage.kind for stage in self.plan.every}
        return self.reader.manifests(dict(sorted(kinds.items())))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The long form of the reported score matrices (columns: `names.SCORE_COLUMNS`)."""
        return self.study.scores(self.reader, self.reported)

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per reported trial (`analysis.results`); without rows before the first score."""
        from l2kd_ray.analysis import results
        from l2kd_ray.analysis.retention import retained

        if not len(self.scores):
            return self.scores
        found = results(self.scores, list(self.study.config.search))
        if self.study.config.retention is None:
            return found
        return found.join(retained(self.retention), on="trial")

    @cached_property
    def retention(self) -> pd.DataFrame:
        """The measures of retention of the reported trials (`Study.retention`)."""
        return self.study.retention(self.reader, self.reported)

    @cached_property
    def selectable(self) -> pd.DataFrame:
        """The scores that a selection of settings may read."""
        return self.wanted.selectable(self.scores)

    @cached_property
    def design(self) -> Design:
        """The orders and seeds that are reported."""
        if self.study.config.tune.select_on:
            return agenda.halves_of(self.study).report
        return agenda.design_of(self.study)

    @cached_property
    def seen(self) -> Seen:
        """The size of the study now, in orders that every wanted trial has finished."""
        from l2kd_ray.analysis.looks import Seen

        ended = {trial.id for trial in self.done}
        ended |= {trial.id for trial in self.trials if trial.cannot_finish(self.failed)}
        waiting = {order_id(trial.order) for trial in self.trials if trial.id not in ended}
        known = {order_id(trial.order) for trial in self.trials} - waiting
        if any(trial.is_reference and trial.id not in ended for trial in self.trials):
            known = set()
        orders, design = takewhile(known.__contains__, self.design.orders), self.design
        return Seen(tuple(self.study.tasks), design.seeds, len(design.orders), len(list(orders)))

    @cached_property
    def doubts(self) -> Sequence[Doubt]:
        """The reasons to doubt the scores."""
        return doubts(self.scores, self.reported, self.manifests, self.study.resolved.tasks)

    @cached_property
    def done(self) -> list[Trial]:
        """The wanted trials whose evaluations are all finished."""
        missing = self.plan.missing
        return [t for t in self.trials if not any(cell.stage in missing for cell in t.cells)]
