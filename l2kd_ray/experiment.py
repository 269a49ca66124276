"""An experiment: a study with its store, and every verb of the command as a method of it."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2kd_ray.core.filetree import FileTree
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.study.folder import FailureRecord, Folder
from l2kd_ray.study.plan import html_table

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.analysis.foresight import Foresight
    from l2kd_ray.core.manifest import Manifest
    from l2kd_ray.core.stage import Stage
    from l2kd_ray.forecast.forecast import Prospect
    from l2kd_ray.report.blocks import Picture
    from l2kd_ray.study import Plan, Study, Trial
    from l2kd_ray.study.data import SplitData
    from l2kd_ray.study.outlook import Outlook
    from l2kd_ray.study.snapshot import Snapshot


@dataclass(frozen=True)
class Status:
    """Progress of a study: finished and wanted stages and trials, a live sweep, failures."""

    trials: int
    trials_done: int
    stages: Mapping[str, tuple[int, int]]
    """Role -> (number of stored stages, number of all stages)."""
    live: str | None
    failures: Sequence[FailureRecord]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        return html_table(
            ("stages", "done", "of"), ((role, *counts) for role, counts in self.stages.items())
        )


@dataclass(frozen=True)
class Ended:
    """The outcome of a sweep."""

    failures: Sequence[FailureRecord]
    late: bool
    """True if `tune.stop.budget_hours` were over before all trials had finished."""
    verdict: str
    """The stop rule's verdict at the last look in words; "" without one."""
    stages: int
    """Number of stages of the study that are finished."""
    ran: int
    """How many of them this sweep has run; the others were in the store."""
    seconds: float
    snapshot: Snapshot = field(repr=False)
    """The state of the study after the sweep."""


class Experiment:
    """A study with its store, to be planned, swept and reported any number of times."""

    def __init__(self, study: Study, store: Store, command: str) -> None:
        self.study, self.store, self.command = study, store, command
        self._folder = Folder(store, study.config.name)

    @property
    def name(self) -> str:
        return self.study.config.name

    @property
    def folder(self) -> str:
        """The folder or URI of the study's result files."""
        return str(self._folder)

    def __repr__(self) -> str:
        return f"Experiment({self.name!r} in {self.store.root!r})"

    def _repr_html_(self) -> str:
        """The study in a notebook: its tasks and methods, and how far it is."""
        state = self.status()
        arms = ", ".join(arm.name for arm in self.study.config.arms)
        tasks = ", ".join(self.study.tasks)
        return (
            f"<p><b>{escape(self.name)}</b>: {escape(arms)} on {escape(tasks)}; "
            f"{state.trials_done:,} of {state.trials:,} trials are finished</p>"
            f"{state._repr_html_()}"
        )

    @property
    def first_order(self) -> str | None:
        """The order that is run first, as `a>b>c`; None if no method depends on the order."""
        from l2kd_ray.study.orders import order_id

        return order_id(self.study.orders[0]) or None

    @property
    def first_seed(self) -> str:
        return str(self.study.config.replicates[0])

    def snapshot(self) -> Snapshot:
        """The current state of the study in its storage; each verb takes one and reads nothing
        else."""
        return self._snapshot(StoreView(self.store))

    def _snapshot(self, reader: StoreView) -> Snapshot:
        from l2kd_ray.study.snapshot import Snapshot

        return Snapshot.of(self.study, reader, self._folder)

    def plan(self, std: Sequence[str] = ()) -> Plan:
        """The counts of the study's stages, stored and to do, with estimates of time and disk.

        They are an upper bound if the study may stop early. For an adaptive search, random settings
        represent those not proposed yet. `std`: standard deviations of a gap in points, such as
        "seed=4" and "order=2", for which the precision is foretold; else a pilot's.

        Raises: InputError for a model that cannot be used, or text that cannot be parsed.
        """
        from l2kd_ray.study import plan
        from l2kd_ray.study.changes import changes_since
        from l2kd_ray.study.data import data_of

        reader = StoreView(self.store)
        most = self._most(reader)
        planned = plan(most, reader)
        self._check_models(planned.missing)
        foresight = self._foresight(reader, std) if planned.missing or std else None
        return replace(
            planned,
            data=data_of(self.study, most, reader),
            changes=changes_since(self._folder, self.study, planned.every),
            foresight=foresight,
        )

    def measure(self) -> Iterator[Manifest]:
        """Run a small stage of each kind of which the store has none of this study, and what it
        reads, in this process; yields its manifest. A sweep uses these stages.

        Raises: InputError for a model that cannot be used, and for a GPU where torch sees none.
        """
        from l2kd_ray.core.execute import obtain
        from l2kd_ray.study import plan
        from l2kd_ray.study.inline import inline_settings
        from l2kd_ray.study.plan import to_measure

        self.store.check_writable()
        reader = StoreView(self.store)
        planned = plan(self._most(reader), reader)
        self._check_models(planned.missing)
        for stage in to_measure(planned, reader.listing()):
            obtain(stage, self.store, **inline_settings(self.study))
            if (found := self.store.manifest(stage.kind, stage.key)) is not None:
                yield found

    def _foresight(self, reader: StoreView, std: Sequence[str]) -> Foresight | None:
        """The expected precision of the study, from its finished trials where no std is given; None
        if these are too few, or where settings are searched."""
        from l2kd_ray.analysis import results
        from l2kd_ray.analysis.foresight import GIVEN, foresee, foresee_given
        from l2kd_ray.forecast.forecast import parse_numbers
        from l2kd_ray.names import NO_SETTING

        now = self._snapshot(reader)
        if std:
            stds = parse_numbers("--std", std, GIVEN)
            return foresee_given(stds, len(self.study.config.arms), now.design)
        if self.study.config.search or now.scores.empty:
            return None
        arms = [(arm.name, NO_SETTING) for arm in self.study.config.arms]
        return foresee(results(now.scores), arms, now.design)

    def _most(self, reader: StoreView) -> list[Trial]:
        """All trials that the study can reach."""
        from l2kd_ray.study.agenda import most
        from l2kd_ray.study.search import settings_of

        if not self.study.is_adaptive:
            return most(self.study, reader)
        tried = self.study.of_this_search(self._folder.tried())
        drawn = settings_of(self.study.config)
        names = [arm.name for arm in self.study.config.arms]
        return self.study.trials(
            {name: [*tried.get(name, []), *drawn][: len(drawn)] for name in names}
        )

    def forecast(
        self,
        cluster: str,
        deadline: str | None = None,
        budget: str | None = None,
        seconds: Sequence[str] = (),
        assume: Sequence[str] = (),
        prices: Path | None = None,
    ) -> Prospect:
        """Simulate the missing stages on `cluster`, such as "head + 0..64 x g5.xlarge spot".

        Returns hours and money, and the trials complete by a deadline ("8h") or for a budget
        ("200usd"). Raises: InputError for text that cannot be parsed.
        """
        from l2kd_ray.core.stage import kinds
        from l2kd_ray.forecast import forecast as look
        from l2kd_ray.forecast.machines import Cluster, Prices

        return look.forecast(
            self.study,
            StoreView(self.store),
            Cluster.parse(cluster, Prices.read(prices)),
            deadline_s=look.parse_duration(deadline) if deadline else None,
            budget_usd=look.parse_money(budget) if budget else None,
            seconds=look.parse_numbers("--seconds", seconds, kinds()),
            assumed=look.parse_assumptions(assume),
        )

    def sweep(self, executor: Literal["ray", "inline"] = "ray", address: str = "local") -> Ended:
        """Run the missing stages, then write scores.parquet, results.parquet and the report.

        `inline` runs everything in this process, without Ray, and stops at the first failure;
        `address` names a Ray cluster to join (`auto`: the one of this machine).
        """
        from l2kd_ray.mirrors.process import mirrored
        from l2kd_ray.report.sentences import verdict_words
        from l2kd_ray.study.garbage import drop_intermediate
        from l2kd_ray.study.loading import to_yaml
        from l2kd_ray.study.plan import missing_stages
        from l2kd_ray.study.trial import stages_of

        started = time.monotonic()
        self.store.check_writable()
        if (other := self._folder.who_is_live()) is not None:
            print(
                f"A sweep of {self.name} is running already ({other}). What both do at the same "
                "time is done twice; `l2kd watch` shows how far it is.",
                file=sys.stderr,
            )
        before = self.snapshot()
        finished, known = before.reader.listing().finished, before.manifests
        if any(stage.key in finished and stage.key not in known for stage in before.plan.every):
            before = self.snapshot()  # without the stages that have just been found damaged
            finished = before.reader.listing().finished
        self._check_models(missing_stages(self._most(before.reader), before.reader.listing()))
        with (
            self._folder.local() as files,
            mirrored(self.study, self.store, files, live=True) as ending,
        ):
            with self._folder.live():
                # While this sweep counts as live: another one of this name that ends now then keeps
                # what is listed here (`Folder.settle_keys`).
                self._folder.add_keys(stages_of(self.study.trials(before.tried)))
                self._folder.keep_study(to_yaml(self.study))
                failures, late = self._run(before.reader, executor, address)
            ending.stages_have_ended()
            self._folder.keep_failures(failures)
            after = self._snapshot(before.reader)
            if failures or late:
                ending.state = "failed" if failures else "late"
                ending.failures = [
                    f"{one['kind']} {one['key']}: {one['error']}" for one in failures
                ]
            else:
                self._folder.settle_keys(after.plan.every)
            if failures or len(after.scores):
                self._write_report(after, files)
        _print(ending.lines)
        if self.study.config.keep == "leaves" and ending.state == "finished":
            drop_intermediate(self.study, after.reader, after.plan.every)
        verdict = after.wanted.verdict
        done = {stage.key for stage in after.plan.every} & after.reader.listing().finished.keys()
        return Ended(
            failures,
            late,
            verdict_words(verdict) if verdict else "",
            len(done),
            len(done - finished.keys()),
            time.monotonic() - started,
            after,
        )

    def _run(
        self, reader: StoreView, executor: Literal["ray", "inline"], address: str
    ) -> tuple[Sequence[FailureRecord], bool]:
        """Run the missing stages; returns the failures, and whether the time limit was reached."""
        from l2kd_ray.report.live import LiveView

        hours = self.study.config.tune.stop.budget_hours
        seconds = math.inf if hours is None else 3600 * hours
        if executor == "inline":
            from l2kd_ray.study.inline import sweep_inline

            with LiveView(self.look(), sys.stderr) as view:
                return [], sweep_inline(self.study, reader, view.watch, seconds)
        from l2kd_ray.cluster.sweep import sweep

        with LiveView(self.look(), sys.stderr) as view:
            outcome = sweep(
                self.study,
                reader,
                known=self.study.of_this_search(self._folder.tried()),
                cut=self.study.of_this_search(self._folder.cut()),
                address=address,
                seconds=seconds,
                show=view,
            )
        return [vars(failure) for failure in outcome.failures], outcome.late

    def look(self) -> Callable[[], Outlook]:
        """A function that returns the study's outlook: what is done, what runs where, when it will
        end, and the gap so far.

        It may be called again and again: of the storage it reads only what is new.
        """
        from l2kd_ray.study.outlook import outlook

        reader = StoreView(self.store)

        def now() -> Outlook:
            reader.update()
            live, since = self._folder.who_is_live(), self._folder.live_since()
            return outlook(self._snapshot(reader), since, live)

        return now

    def status(self, snapshot: Snapshot | None = None) -> Status:
        """The progress of the study, whether or not a sweep of it is running."""
        now = snapshot or self.snapshot()
        stages = {
            role: (count.unique - count.todo, count.unique)
            for role, count in now.plan.stages.items()
            if count.unique
        }
        live = self._folder.who_is_live()
        return Status(len(now.trials), len(now.done), stages, live, now.failures)

    def data(self, snapshot: Snapshot | None = None) -> list[SplitData]:
        """The data of each task and split: rows read and kept, labels, what is cut."""
        from l2kd_ray.study.data import data_of

        now = snapshot or self.snapshot()
        return data_of(self.study, now.trials, now.reader)

    def trials(self) -> Sequence[Trial]:
        """The trials that are known to be wanted: `Snapshot.wanted`."""
        return self.snapshot().trials

    def scores(self) -> pd.DataFrame:
        """The long form of the score matrices from all stored evaluations; without the orders
        that a search proposed."""
        return self.snapshot().scores

    def results(self) -> pd.DataFrame:
        """One row per trial: setting, order, seed, scores, continual-learning metrics, gap, and
        the reasons to doubt them (`analysis.sanity`).

        Raises: InputError if nothing is finished yet.
        """
        now = self.snapshot()
        if now.scores.empty:
            raise InputError("nothing is finished yet", where=self.name, fix=self.command)
        return self._results(now)

    def _results(self, snapshot: Snapshot) -> pd.DataFrame:
        from l2kd_ray.analysis import doubted

        return snapshot.results.assign(doubts=doubted(snapshot.results, snapshot.doubts))

    def answers(
        self,
        task: str | None = None,
        method: str | None = None,
        order: str | None = None,
        seed: str | int | None = None,
        *,
        snapshot: Snapshot | None = None,
    ) -> pd.DataFrame:
        """The students' answers to the test examples, after each task of their stream.

        Args:
            task, method, seed: only these. order: only this one, as `a>b>c`.

        Returns:
            One row for each trial, example and step: method, setting (JSON), order, seed, trial,
            task, i (number of tasks learned so far), j (position of the task in the order),
            example (its id), input, reference, answer, score.

        Raises:
            InputError: the study has no such task, method, order or seed.
        """
        from l2kd_ray.study.answers import answers

        now = snapshot or self.snapshot()
        own = self._chosen(now.trials, method=method, order=order, seed=seed)
        if task is not None and task not in self.study.tasks:
            raise self._no_such("task", task, self.study.tasks)
        return answers(now, own, None if task is None else [task])

    def curves(
        self, method: str | None = None, order: str | None = None, seed: str | int | None = None
    ) -> pd.DataFrame:
        """The training curves, of at most 100 points a training.

        Returns:
            One row for each trial, training and point: method, setting (JSON), order, seed, trial,
            role (student or teacher), i (number of tasks learned with this training), task ("" for
            all at once), key, step, loss and its terms, grad_norm, lr, tokens, tokens_per_second.

        Raises:
            InputError: the study has no such method, order or seed.
        """
        from l2kd_ray.study.curves import curves_of

        now = self.snapshot()
        return curves_of(now, self._chosen(now.trials, method=method, order=order, seed=seed))

    def _chosen(self, trials: Iterable[Trial], **asked: str | int | None) -> list[Trial]:
        """The trials with these values of method, order and seed; None: any.

        Raises: InputError for a value that no trial has.
        """
        from l2kd_ray.study.orders import order_id

        chosen = list(trials)
        for name, value in asked.items():
            if value is None:
                continue
            have = [
                order_id(one.order) if name == "order" else str(getattr(one, name))
                for one in chosen
            ]
            chosen = [one for one, its in zip(chosen, have, strict=True) if its == str(value)]
            if not chosen:
                raise self._no_such(name, value, sorted(set(have) - {""}))
        return chosen

    def _no_such(self, what: str, got: object, names: Collection[str]) -> InputError:
        return InputError(
            f"no such {what}",
            where=self.name,
            got=got,
            expected=", ".join(names) or "a finished evaluation",
            fix=did_you_mean(got, names),
        )

    def report(self, snapshot: Snapshot | None = None, *, mirror: bool = True) -> list[str]:
        """Write the result files and the report from the store or from a snapshot, and show them
        in the mirrors of `report_to`.

        Returns the paths or URIs of the report's files. Raises: InputError if nothing is finished
        yet, or if another study was swept under this name.
        """
        from l2kd_ray.mirrors.process import mirrored

        now = snapshot or self.snapshot()
        if (words := self.unlike_the_last_sweep(now)) is not None:
            raise InputError(
                "it is not the study that was swept last under this name, whose report it would "
                "replace",
                where=self.name,
                got=words,
                fix=f"what was swept: l2kd report {self.name}; to sweep this one: {self.command}, "
                "with name=... to keep the other's report",
            )
        with self._folder.local() as files:
            written = self._write_report(now, files)
            if mirror and len(now.scores):
                with mirrored(self.study, self.store, files, live=False) as ending:
                    ending.state = "failed" if now.failures else "finished"
                _print(ending.lines)
        return written

    def unlike_the_last_sweep(self, snapshot: Snapshot) -> str | None:
        """The settings by which this study has stages that the last sweep under its name had not;
        None where it has none."""
        from l2kd_ray.report.planning import setting_words
        from l2kd_ray.study.changes import changes_since

        every = snapshot.plan.every
        changes = changes_since(self._folder, self.study, every)
        if changes is None or changes.used == len(every):
            return None
        return setting_words(changes)

    def figure(self, name: str) -> Picture:
        """A figure of the report, such as `gap_by_method`: a notebook shows it, and
        `figure("gap_by_method").save("slide.pdf")` writes it; `.figure` is matplotlib's.

        It counts as a look at the study, like the report's. Raises: InputError for another name.
        """
        from l2kd_ray.report.write import pictures

        now = self.snapshot()
        found = {one.name: one for one in pictures(now.selectable, **self._inputs(now))}
        self.remember(now)
        if name not in found:
            raise self._no_such("figure", name, found)
        return found[name]

    def _inputs(self, now: Snapshot) -> dict[str, Any]:
        """The arguments of a report beside the scores."""
        from l2kd_ray.forecast.machines import priced
        from l2kd_ray.study.evidence import shown

        inputs = shown(now)
        more = {"study": self.study.config.to_data(), "command": self.command}
        return {**inputs, **more, "spent": priced(inputs["spent"])}

    def _write_report(self, now: Snapshot, folder: Path) -> list[str]:
        from l2kd_ray.report import write_report

        written = write_report(folder, now.selectable, **self._inputs(now))
        files, scores = FileTree(str(folder)), now.scores
        files.write("scores.parquet", scores.to_parquet(index=False))
        if len(now.proposed_scores):
            files.write("proposed.parquet", now.proposed_scores.to_parquet(index=False))
        if len(scores):
            files.write("results.parquet", self._results(now).to_parquet(index=False))
            if self.study.config.retention is not None:
                files.write("retention.parquet", now.retention.to_parquet(index=False))
        self.remember(now)
        return [f"{self.folder}/{path.relative_to(folder)}" for path in written]

    def remember(self, shown: Snapshot) -> None:
        """Keep the size of a snapshot whose intervals are shown, for later looks at the study."""
        from l2kd_ray.study.evidence import is_read

        if is_read(shown):
            self._folder.keep_look(shown.seen)

    def export(
        self,
        trial: str,
        folder: str | Path,
        task: str | None = None,
        snapshot: Snapshot | None = None,
    ) -> Path:
        """Copy a trial's final student to `folder`, a Hugging Face model folder.

        `trial` is a trial's id (or the start of one), as the result files have it; `task` chooses
        the student where each task has its own.
        Raises: InputError if there is no such trial or task, no `task` where there are several
            students, or the student is not finished.
        """
        now = snapshot or self.snapshot()
        chosen = [one for one in now.trials if one.id.startswith(trial)]
        if len(chosen) != 1:
            raise InputError(
                "no such trial" if not chosen else "several trials begin like this",
                where=self.name,
                got=trial,
                expected="an id of the column `trial` of results.parquet",
            )
        models = {cell.task: cell.stage.model for cell in chosen[0].steps[-1]}
        wanted = task or (next(iter(models)) if len(set(models.values())) == 1 else "")
        if wanted not in models:
            raise InputError(
                "no such task" if task else "each task of this trial has a student of its own",
                where=self.name,
                got=task or trial,
                expected=f"--task with one of {', '.join(models)}",
            )
        model = models[wanted]
        manifest = now.reader.manifests({model.key: model.kind}).get(model.key)
        if manifest is None:
            raise InputError(
                "the trial's student is not finished",
                where=self.name,
                got=trial,
                fix=self.command,
            )
        files = self.store.fetch(model.kind, model.key, manifest)
        return Path(shutil.copytree(files, folder, dirs_exist_ok=True))

    def _check_models(self, missing: Collection[Stage]) -> None:
        """Raise InputError for a student or teacher that cannot be loaded, built or used."""
        if not any(stage.kind == "initial" for stage in missing):
            return
        seen = set()
        for key, build in (("", self.study.builder), *self.study.builders()):
            for role in ("student", "teacher"):
                spec = getattr(build.settings, role)
                known = spec and (spec.model_dump_json(), build.settings.train.max_length)
                if spec is None or known in seen:
                    continue
                seen.add(known)
                try:
                    build.check(spec)
                except InputError as error:
                    part = f"{role}.{'arch' if spec.arch else 'model'}"
                    raise error.at("", part).at(self.name, key) from None
                except Exception as error:  # transformers raises errors of many types
                    got = {"arch": spec.arch, **spec.overrides}
                    raise InputError(str(error), key=role, got=got).at(self.name, key) from None


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)
