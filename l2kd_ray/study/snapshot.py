"""A study as its storage has it at one moment: what every verb reads, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.store import Manifest
from l2kd_ray.study import agenda
from l2kd_ray.study.agenda import Wanted
from l2kd_ray.study.folder import FailureRecord
from l2kd_ray.study.plan import Plan, plan
from l2kd_ray.study.study import ArmSettings, Study
from l2kd_ray.study.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis import Instance


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Made once a verb and handed down. Each part is found when it is first asked for, from one
    listing of the storage and one reading of each manifest, and is the same ever after."""

    study: Study
    reader: StoreView
    failures: Sequence[FailureRecord] = ()
    """The stages that failed in the last sweep."""
    tried: ArmSettings | None = None
    """The settings that an adaptive search has finished; None where the study names its own."""

    @cached_property
    def wanted(self) -> Wanted:
        """The trials that are known to be wanted: of an adaptive search those of the settings
        tried so far; of a study that stops or selects as it goes, those that its results ask for.
        """
        if self.tried is not None:
            return Wanted(self.study.trials(self.tried))
        return agenda.wanted(self.study, self.reader, self.failed)

    @property
    def trials(self) -> Sequence[Trial]:
        return self.wanted.trials

    @property
    def failed(self) -> set[str]:
        """The keys of the stages that failed."""
        return {failure["key"] for failure in self.failures}

    @cached_property
    def failed_instances(self) -> Sequence[Instance]:
        """The trials that will not end."""
        return agenda.failed_instances(self.trials, self.failed)

    @cached_property
    def plan(self) -> Plan:
        """The stages of the wanted trials, and what is missing of them."""
        return plan(self.trials, self.reader)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Of every finished stage of the wanted trials, by key."""
        kinds = {stage.key: stage.kind for stage in self.plan.every}
        return self.reader.manifests(dict(sorted(kinds.items())))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The long form of the score matrices (columns: `names.SCORE_COLUMNS`)."""
        return self.study.scores(self.reader, self.trials)

    @cached_property
    def selectable(self) -> pd.DataFrame:
        """The scores that a selection may read."""
        return self.wanted.selectable(self.scores)

    @property
    def done(self) -> list[Trial]:
        """The wanted trials of which every evaluation is finished."""
        missing = self.plan.missing
        return [t for t in self.trials if not any(cell.stage in missing for cell in t.cells)]
