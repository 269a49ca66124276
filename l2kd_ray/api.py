"""The verbs of the command, for Python: what a notebook calls and what `l2kd` is made of."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import yaml

from l2kd_ray.core.store import Manifest, Store
from l2kd_ray.errors import InputError
from l2kd_ray.study.agenda import Agenda, halves_of
from l2kd_ray.study.pins import Revisions
from l2kd_ray.study.reading import parse_study, read_study
from l2kd_ray.study.schema import StudyConfig

if TYPE_CHECKING:
    import pandas as pd

    from l2kd_ray.forecast.forecast import Prospect
    from l2kd_ray.study import Plan, Study, Trial

DEFAULT_STORAGE: str = StudyConfig.model_fields["storage"].default


def load_study(
    path: str | Path, overrides: Mapping[str, Any] | None = None, /, **more: Any
) -> Experiment:
    """A study by its file, or by the name of one that was swept before.

    Overrides are dotted keys: `load_study(path, {"kd.temperature": 2})`; plain ones may be named:
    `load_study(path, seeds=[1, 2])`.

    Raises: InputError for anything in it that cannot be used as it is; nothing is started.
    """
    from l2kd_ray.study import resolve_study

    changes = {**(overrides or {}), **more}
    file = _find(path, changes)
    config = read_study(file, changes)
    store = Store(config.storage)
    former = store.read(f"studies/{config.name}/study.yaml")
    if former is not None:  # what a hub's names stood for in the last sweep, they stand for now
        with suppress(InputError):
            config = Revisions.of(parse_study(yaml.safe_load(former))).pin(config)
    study = resolve_study(config, file)
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]
    command = " ".join(shlex.quote(word) for word in ["l2kd", "sweep", str(path), *words])
    return Experiment(study, store, command)


def submit_study(
    path: str | Path, overrides: Mapping[str, Any], words: Sequence[str], address: str
) -> str:
    """Hand a study to a Ray cluster as a job of its own; the job's id. Its names are resolved
    there: data and models need not be at hand here. `words`: the overrides, as they were typed.

    Raises: InputError for a study or storage that cannot go there.
    """
    from l2kd_ray.cluster.submit import submit

    file = _find(path, overrides)
    config = read_study(file, overrides)
    return submit(file.read_text(), words, storage=config.storage, address=address)


def _find(path: str | Path, overrides: Mapping[str, Any]) -> Path:
    """The file of a study named by path or by name."""
    if Path(path).exists() or Path(path).suffix in (".yaml", ".yml") or os.sep in str(path):
        return Path(path)
    storage = str(overrides.get("storage", DEFAULT_STORAGE))
    named = Store(storage).read(f"studies/{path}/study.yaml")
    if named is None:
        raise InputError(
            "no such study",
            where=str(path),
            expected=f"a YAML file, or the name of a study in {storage}",
        )
    file = Path(tempfile.mkdtemp(prefix="l2kd-study-"), f"{path}.yaml")
    file.write_bytes(named)
    return file


@dataclass(frozen=True)
class Status:
    """How far a study is: finished and wanted stages and trials, a live sweep, failures."""

    trials: int
    trials_done: int
    stages: Mapping[str, tuple[int, int]]
    """Role -> (in the store, in all)."""
    live: str | None
    failures: Sequence[Mapping[str, str]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """How a sweep ended."""

    failures: Sequence[Mapping[str, str]]
    """kind, key, error and traceback of each stage that failed."""
    late: bool
    """Its time (`tune.stop.budget_hours`) was over before the work was."""
    verdict: str
    """What the stop rule said at the last look; "" without one."""


class Experiment:
    """A study with its store: plan it, sweep it, report it, again and again."""

    def __init__(self, study: Study, store: Store, command: str) -> None:
        self.study, self.store, self.command = study, store, command

    @property
    def name(self) -> str:
        return self.study.config.name

    @property
    def is_adaptive(self) -> bool:
        """Whether settings are proposed as results come in, and not named beforehand."""
        return bool(self.study.config.search) and self.study.config.tune.adaptive

    def plan(self) -> Plan:
        """What the study costs, and what of it is in the store.

        An upper bound where the study may stop before its end. Of an adaptive search, too:
        settings that it has not proposed yet are stood for by random ones.
        """
        from l2kd_ray.study import plan
        from l2kd_ray.study.search import settings_of

        if not self.is_adaptive:
            return plan(self.agenda().most(), self.store)
        tried, drawn = self._tried(), settings_of(self.study.config)
        names = [arm.name for arm in self.study.config.arms]
        settings = {name: [*tried.get(name, []), *drawn][: len(drawn)] for name in names}
        return plan(self.study.trials(settings), self.store)

    def forecast(
        self,
        cluster: str,
        deadline: str | None = None,
        budget: str | None = None,
        seconds: Sequence[str] = (),
        assume: Sequence[str] = (),
        prices: Path | None = None,
    ) -> Prospect:
        """What is missing, simulated on `cluster` ("head + 0..64 x g5.xlarge spot"): hours, money,
        and what is complete by a deadline ("8h") or for a budget ("200usd").

        Raises: InputError for words that say none of this.
        """
        from l2kd_ray.forecast import forecast as look
        from l2kd_ray.forecast.machines import Cluster, Prices
        from l2kd_ray.study.plan import ROLES

        return look.forecast(
            self.study,
            self.store,
            Cluster.parse(cluster, Prices.read(prices)),
            deadline_s=look.parse_duration(deadline) if deadline else None,
            budget_usd=look.parse_money(budget) if budget else None,
            seconds=look.parse_numbers("--seconds", seconds, ROLES),
            assumed=look.parse_assumptions(assume),
        )

    def trials(self) -> list[Trial]:
        """The trials that are known to be wanted: of an adaptive search those of the settings tried
        so far, and of one that stops or selects as it goes, those that its results ask for."""
        return self.study.trials(self._tried()) if self.is_adaptive else self.agenda().trials()

    def agenda(self) -> Agenda:
        """What is run, and when it may stop, given what there is."""
        failed = {failure["key"] for failure in self._read_json("failures.json", [])}
        return Agenda(self.study, self.store, failed)

    def sweep(self, executor: Literal["ray", "inline"] = "ray", address: str = "local") -> Ended:
        """Run what is missing, then write scores.parquet, results.parquet and the report.

        `inline` runs everything in this process, without Ray, and stops at the first failure;
        `address` names a Ray cluster to join (`auto`: the one of this machine).
        """
        self.store.check_writable()
        if any(stage.kind == "initial" for stage in self.plan().missing):
            self._check_models()
        self._keep_study()
        agenda, late = Agenda(self.study, self.store), False
        with self._live():
            if executor == "inline":
                failures = self._sweep_inline(agenda)
            else:
                from l2kd_ray.cluster.sweep import sweep

                hours = self.study.config.tune.stop.budget_hours
                outcome = sweep(
                    self.study,
                    self.store,
                    None if self.is_adaptive else agenda.batches(),
                    failed=agenda.failed,
                    known=self._tried(),
                    cut=self._cut(),
                    address=address,
                    seconds=math.inf if hours is None else 3600 * hours,
                )
                failures, late = [vars(failure) for failure in outcome.failures], outcome.late
                if outcome.settings is not None:
                    self._write_json("settings.json", outcome.settings)
                    self._write_json("cut.json", outcome.cut)
        self._write_json("failures.json", failures)
        self._keep_keys()
        if self.study.config.keep == "leaves" and not failures and not late:
            self._drop_intermediate()
        if failures or len(self.scores()):
            self.report()
        from l2kd_ray.report.sentences import verdict_words

        agenda = self.agenda()
        agenda.trials()  # of what is there now, be it from this sweep or from a former one
        verdict = verdict_words(agenda.verdict) if agenda.verdict else ""
        return Ended(failures, late, verdict)

    def status(self) -> Status:
        """How far the study is, whether or not a sweep of it is alive."""
        from l2kd_ray.study import plan as count_stages

        trials = self.trials()
        plan = count_stages(trials, self.store)
        done = [t for t in trials if not any(cell.stage in plan.missing for cell in t.cells)]
        stages = {
            role: (count.unique - count.todo, count.unique)
            for role, count in plan.stages.items()
            if count.unique
        }
        return Status(
            len(trials),
            len(done),
            stages,
            self._who_is_live(),
            self._read_json("failures.json", []),
        )

    def scores(self) -> pd.DataFrame:
        """The long form of the score matrices, of what is in the store."""
        return self.study.scores(self.store, self.trials())

    def results(self) -> pd.DataFrame:
        """One row per trial: setting, order, seed, scores, continual-learning metrics, gap.

        Raises: InputError where nothing is finished yet.
        """
        from l2kd_ray.analysis import results

        scores = self.scores()
        if scores.empty:
            raise InputError("nothing is finished yet", where=self.name, fix=self.command)
        return results(scores, list(self.study.config.search))

    def report(self, *, wandb: bool = True) -> list[Path]:
        """Write the result files, the report and the W&B mirror of what is in the store.

        Returns the report's files (in a temporary folder where the storage is remote; they are
        uploaded). Raises: InputError where nothing is finished yet.
        """
        from l2kd_ray.mirrors.wandb import mirror
        from l2kd_ray.report import write_report

        scores, status, agenda = self.scores(), self.status(), self.agenda()
        trials = self.trials() if self.is_adaptive else agenda.trials()
        read = agenda.selectable(scores)
        done = [finished for finished, _ in status.stages.values()]
        planned = {
            "trials": status.trials,
            "trials_done": status.trials_done,
            "stages": sum(total for _, total in status.stages.values()),
            "stages_done": sum(done),
        }
        config = self.study.config.to_data()
        tune = self.study.config.tune
        with self._folder() as folder:
            written = write_report(
                folder,
                read,
                study=config,
                planned=planned,
                failures=status.failures,
                costs=self._costs(),
                work=self.work(),
                command=self.command,
                **self.inference(agenda, trials),
                split=halves_of(self.study) if tune.select_on else None,
                notes=self._notes(),
                verdict=agenda.verdict,
                **self._evidence(trials, read),
            )
            scores.to_parquet(folder / "scores.parquet", index=False)
            if len(scores):
                self.results().to_parquet(folder / "results.parquet", index=False)
            if wandb and len(scores) and self.study.config.wandb.mode != "disabled":
                said = mirror(
                    folder,
                    self.study.config.wandb,
                    study=self.name,
                    config=config,
                    curves=self._curves(set(scores["model"])),
                    students=self._students(trials) if self.study.config.wandb.students else {},
                )
                print(said)
        return written

    def export(self, trial: str, folder: str | Path) -> Path:
        """Copy a trial's final student to `folder`, a Hugging Face model folder.

        `trial` is a trial's id (or the start of one), as the result files have it.
        Raises: InputError where there is no such trial, or its student is not finished.
        """
        chosen = [one for one in self.trials() if one.id.startswith(trial)]
        if len(chosen) != 1:
            raise InputError(
                "no such trial" if not chosen else "several trials begin like this",
                where=self.name,
                got=trial,
                expected="an id of the column `trial` of results.parquet",
            )
        model = chosen[0].steps[-1][0].stage.model
        if self.store.manifest(model.kind, model.key) is None:
            raise InputError(
                "the trial's student is not finished",
                where=self.name,
                got=trial,
                fix=self.command,
            )
        target = Path(folder)
        shutil.copytree(self.store.fetch(model.kind, model.key), target, dirs_exist_ok=True)
        return target

    # The study's own folder in the storage

    @property
    def folder(self) -> str:
        """Where the study's result files lie."""
        return f"{self.store.root.rstrip('/')}/{self._base}"

    @property
    def _base(self) -> str:
        return f"studies/{self.name}"

    def _tried(self) -> dict[str, list[dict[str, Any]]]:
        tried: dict[str, list[dict[str, Any]]] = self._read_json("settings.json", {})
        return tried

    def _cut(self) -> dict[str, list[dict[str, Any]]]:
        """Settings that ASHA cut, by arm: they have no final score."""
        cut: dict[str, list[dict[str, Any]]] = self._read_json("cut.json", {})
        return cut

    def _drop_intermediate(self) -> None:
        """What a sweep drops as it goes, where an earlier one left it."""
        from l2kd_ray.study.garbage import droppable

        for model in droppable(self.study, self.store, self.trials()):
            if self.store.has_files(model.kind, model.key):
                self.store.drop_files(model.kind, model.key)

    def _check_models(self) -> None:
        """Raises: InputError for a student or teacher from scratch that cannot be built."""
        sections = self.study.config.settings.family
        for key, spec in (("student", sections.student), ("teacher", sections.teacher)):
            if spec is None:
                continue
            try:
                self.study.builder.check(spec)
            except (ValueError, TypeError, RuntimeError) as error:
                got = {"arch": spec.arch, **spec.overrides}
                raise InputError(str(error), where=self.name, key=key, got=got) from None

    def _sweep_inline(self, agenda: Agenda) -> list[Mapping[str, str]]:
        from l2kd_ray.core.execute import obtain

        tune = self.study.config.tune
        if self.is_adaptive:
            raise InputError(
                "adaptive search needs Ray",
                where=self.name,
                key="tune",
                got=f"searcher {tune.searcher}, scheduler {tune.scheduler}",
                fix="leave the executor at ray, or set tune.searcher=random tune.scheduler=none",
            )
        scale = self.study.config.scale
        how = {
            "threads": max(1, int(scale.cpus_per_worker)),
            "device": "cuda" if scale.gpus_per_worker > 0 else "cpu",
            "checkpoint_seconds": scale.checkpoint_seconds,
        }
        for batch in agenda.batches():
            for cell in (cell for trial in batch for cell in trial.cells):
                obtain(cell.stage, self.store, **how)
        return []

    def _keep_study(self) -> None:
        """Write the resolved study and the keys of its stages; a changed study's old file stays."""
        from l2kd_ray.study.loading import to_yaml

        text, former = to_yaml(self.study), self.store.read(f"{self._base}/study.yaml")
        if former is not None and former.decode() != text:
            kept = f"study-until-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
            self.store.write(f"{self._base}/{kept}", former)
            print(
                f"{self.name} has changed since its last sweep; the former file is kept as {kept}"
            )
        self.store.write(f"{self._base}/study.yaml", text.encode())
        self._keep_keys()

    def _keep_keys(self) -> None:
        """The keys of the study's stages, which are its root for `gc`."""
        stages = {stage for trial in self.trials() for stage in trial.stages()}
        lines = sorted(f"{stage.kind} {stage.key}\n" for stage in stages)
        self.store.write(f"{self._base}/keys", "".join(lines).encode())

    @contextmanager
    def _live(self) -> Iterator[None]:
        """A note of this sweep in the study's folder, for `status`."""
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        self._write_json("live.json", note)
        try:
            yield
        finally:
            self.store.remove(f"{self._base}/live.json")

    def _who_is_live(self) -> str | None:
        note = self._read_json("live.json", None)
        if note is None:
            return None
        if note["host"] == socket.gethostname() and not Path(f"/proc/{note['pid']}").exists():
            return None
        return f"process {note['pid']} on {note['host']} since {note['since']}"

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A local folder that is, or becomes, the study's folder in the storage."""
        if self.store.is_local:
            folder = Path(self.store.base, self._base)
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        folder = Path(tempfile.mkdtemp(prefix=f"l2kd-{self.name}-"))
        yield folder
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.store.upload(path, f"{self._base}/{path.relative_to(folder)}")

    def _manifests(self) -> Iterator[Manifest]:
        for stage in {stage for trial in self.trials() for stage in trial.stages()}:
            manifest = self.store.manifest(stage.kind, stage.key)
            if manifest is not None:
                yield manifest

    def work(self) -> pd.DataFrame:
        """Steps, tokens and seconds of a trial of each method and setting, shared with nobody."""
        from l2kd_ray.study import work_by_method

        return work_by_method(self.trials(), {m.key: m for m in self._manifests()})

    def top_k_bias(self) -> list[str]:
        """How far teaching by a teacher's most likely tokens (`kd.top_k`) is from its whole
        distribution, a line a temperature; none where it is not used."""
        found: dict[float, list[Mapping[str, float]]] = {}
        for manifest in self._manifests():
            if "top_k/error" in manifest.scores:
                temperature = manifest.settings["objective"]["temperature"]
                found.setdefault(temperature, []).append(manifest.scores)

        def of(scores: list[Mapping[str, float]], name: str) -> float:
            return median(one[f"top_k/{name}"] for one in scores)

        return [
            f"kd.top_k at T = {temperature:g}: the kept tokens have {of(scores, 'mass'):.0%} of "
            f"the teacher's probability; a first gradient is off by {of(scores, 'error'):.0%} of "
            f"its norm (cosine {of(scores, 'cosine'):.2f})"
            for temperature, scores in sorted(found.items())
        ]

    def inference(
        self, agenda: Agenda | None = None, trials: Sequence[Trial] | None = None
    ) -> dict[str, Any]:
        """How far its numbers reach: the design, failed trials, whether looks could stop it."""
        agenda, tune = agenda or self.agenda(), self.study.config.tune
        return {
            "design": halves_of(self.study).report if tune.select_on else agenda.design,
            "failed": agenda.failures(self.trials() if trials is None else trials),
            "stopping": tune.stop.half_width is not None,
        }

    def _notes(self) -> list[str]:
        """What a reader of the report must know first."""
        tasks = self.study.resolved.tasks
        notes = [f"**{name}:** {note}" for name in self.study.tasks for note in tasks[name].notes]
        return notes + [f"**Biased:** {line}." for line in self.top_k_bias()]

    def _evidence(self, trials: Sequence[Trial], scores: pd.DataFrame) -> dict[str, Any]:
        """What the report shows beside the scores."""
        from l2kd_ray.analysis import results, select, shown_arms
        from l2kd_ray.study.evidence import over_examples, replay_quality, samples

        manifests = {manifest.key: manifest for manifest in self._manifests()}
        replay, last = replay_quality(trials, manifests)
        found = {"replay": replay, "samples": samples(last, self.store)}
        if len(scores):
            dev = results(scores, list(self.study.config.search), split="dev")
            arms = shown_arms(select(dev))
            found["over_examples"] = over_examples(trials, arms, manifests, self.store)
        return found

    def _costs(self) -> pd.DataFrame:
        """Finished stages and their seconds, by kind; `unshared`: stages of the trials alone."""
        import pandas as pd

        rows = [(manifest.kind, manifest.seconds) for manifest in self._manifests()]
        frame = pd.DataFrame(rows, columns=["kind", "seconds"])
        costs = frame.groupby("kind")["seconds"].agg(["count", "sum"]).reset_index()
        alone = Counter(stage.kind for trial in self.trials() for stage in trial.stages())
        costs = costs.assign(unshared=costs["kind"].map(alone))
        return costs.rename(columns={"count": "stages", "sum": "seconds"})

    def _curves(self, models: set[str]) -> dict[str, list[dict[str, float]]]:
        """The training curves of finished models, by key; none of a model that was dropped."""
        from l2kd_ray.core.stage import CURVE

        curves = {}
        for manifest in self._manifests():
            known = manifest.key in models and CURVE in manifest.files
            if known and self.store.has_files(manifest.kind, manifest.key):
                path = self.store.fetch(manifest.kind, manifest.key) / CURVE
                curves[manifest.key] = json.loads(path.read_text())
        return curves

    def _students(self, trials: Sequence[Trial]) -> dict[str, Path]:
        """The folders of the final students that are there, by key."""
        models = {cell.stage.model for trial in trials for cell in trial.steps[-1]}
        return {
            model.key: self.store.fetch(model.kind, model.key)
            for model in models
            if self.store.has_files(model.kind, model.key)
        }

    def _write_json(self, name: str, value: object) -> None:
        self.store.write(f"{self._base}/{name}", json.dumps(value, indent=1).encode())

    def _read_json(self, name: str, default: Any) -> Any:
        data = self.store.read(f"{self._base}/{name}")
        return default if data is None else json.loads(data)
