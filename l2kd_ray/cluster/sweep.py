"""A sweep: Tune starts a cursor per trial, and cursors request their stages from the pool.

A cursor holds no CPU and does not import torch: it walks its trial's path and reports the scores.
The machine's resources belong to the stages.
"""

from __future__ import annotations

import math
import operator
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import mean
from typing import Any, cast

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune import TuneError
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler

from l2kd_ray import door
from l2kd_ray.cluster.executors import DRIVER, Job
from l2kd_ray.cluster.guard import kept_messages
from l2kd_ray.cluster.pool import StageFailed, StagePool
from l2kd_ray.cluster.progress import PATIENCE_S, Show, SweepProgress
from l2kd_ray.cluster.session import LOCAL, RayFailed, joined, started
from l2kd_ray.core.reader import StoreView
from l2kd_ray.core.scratch import Scratch
from l2kd_ray.core.stage import Stage, TrainingStage
from l2kd_ray.core.store import Store
from l2kd_ray.study import Study, Trial
from l2kd_ray.study.agenda import Wanted, batches, most
from l2kd_ray.study.folder import Failure, Folder
from l2kd_ray.study.garbage import droppable
from l2kd_ray.study.objectives import cells_of, known_scores, value
from l2kd_ray.study.plan import missing_stages
from l2kd_ray.study.search import Setting
from l2kd_ray.study.sections import Arm, Range, SearchObjective
from l2kd_ray.study.study import ArmSettings
from l2kd_ray.study.trial import stages_of

_POOL = "l2kd-stage-pool"
_OBJECTIVE = "dev/mean"
_TRAINED = "trained"
"""The epochs (or steps) after which the objective was measured, as Tune is told them."""
_TOLD_AT_ONCE = 1000
_SHORT_MEMORY = re.compile(
    r"Memory on the node \(IP: (?P<node>[^,]+),.*?\) was (?P<used>.+? used / .+? limit)"
    r".*?exceeded threshold of \S+ \((?P<threshold>\S+) of",
    re.DOTALL,
)


@dataclass(frozen=True)
class SweepOutcome:
    """The results of a sweep beside the stages in the store."""

    failures: Sequence[Failure] = field(default_factory=tuple)
    late: bool = False
    """True if the time limit was reached before all trials had finished."""


def sweep(
    study: Study,
    reader: StoreView,
    *,
    known: ArmSettings | None = None,
    cut: ArmSettings | None = None,
    address: str = LOCAL,
    seconds: float = math.inf,
    show: Show = lambda rows, failures: None,
) -> SweepOutcome:
    """Run all missing stages of the study; `reader` is renewed afterwards.

    `known`: the settings that an adaptive search has finished before, `cut` those that ASHA
    stopped; the search continues from there. `address`: a Ray cluster to join; by default Ray is
    started on this machine and ends with the sweep. `seconds`: time limit after which it ends.
    `show` is called with the progress, from another thread.

    Raises:
        InputError: there is no such cluster, or a stage needs more than it has.
        RayFailed: Ray or the machine failed.
    """
    store = reader.store
    known, cut = ({arm: list(own) for arm, own in (some or {}).items()} for some in (known, cut))
    every = study.trials(known) if study.is_adaptive else study.trials()
    if study.config.orders_arm:
        every = most(study, reader)
    missing = missing_stages(every, reader.listing())
    searches = _open_searches(study, known, cut)
    if not missing and not searches:
        return SweepOutcome()
    for module in door.modules():  # a plug-in's file does not exist on other nodes
        ray.cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    deadline, done = time.monotonic() + seconds, list[Trial]()
    failed, wanted = set[str](), set[Stage]()
    parts = [Wanted(every)] if study.is_adaptive else batches(study, reader, failed)
    folder = Folder(store, study.config.name)
    needed = missing | _searched_stages(study, searches)
    with _told(), _on_demand(study, store, address, every, needed) as start:
        for part in parts:
            folder.propose(stages_of(filter(study.is_proposed, part.trials)))
            done += part.trials
            failed.update(_finish(study, reader, start, part.trials, wanted, deadline, show))
            if time.monotonic() >= deadline:
                break  # the next batch must not be decided from an incomplete one
        if study.is_adaptive and time.monotonic() < deadline:
            pool, cpus = start()
            with SweepProgress(pool, (), show, open_ended=True):
                _search(study, reader, pool, known, cut, cpus, deadline)
            done = study.trials(known)
            reader.renew()
        begun = start.cache_info().currsize > 0
        failures = _failures(start()[0]) if begun else []
    left = missing_stages(done, reader.listing())
    unfinished = bool(left or _open_searches(study, known, cut))
    late = time.monotonic() >= deadline and unfinished
    return SweepOutcome(failures or ([] if late else _unfinished(left)), late)


def _finish(
    study: Study,
    reader: StoreView,
    start: Any,
    trials: Sequence[Trial],
    wanted: set[Stage],
    deadline: float,
    show: Show,
) -> set[str]:
    """Run one batch of trials; returns the keys of the stages that have failed so far.

    `wanted`: the stages that the batches before had to run, to which this one's are added; the
    pool, too, counts over all batches.
    """
    missing = missing_stages(trials, reader.listing())
    unfinished = [t for t in trials if any(cell.stage in missing for cell in t.cells)]
    if not unfinished:
        return set()
    pool, cpus = start()
    if math.isinf(cpus):
        evaluations = (cell.stage for t in unfinished for cell in t.cells if cell.stage in missing)
        _show_demand(pool, list(dict.fromkeys(evaluations)))
    wanted |= missing
    with SweepProgress(pool, wanted, show):
        names = tune.grid_search([_name(trial) for trial in unfinished])
        _run(study, reader, pool, names, cpus, deadline)
    reader.renew()
    return {failure.key for failure in _failures(pool)}


def _failures(pool: Any) -> list[Failure]:
    """The stages that have failed so far. Raises: RayFailed if the pool does not answer."""
    try:
        failures: list[Failure] = ray.get(pool.progress.remote(), timeout=PATIENCE_S)["failures"]
    except (TimeoutError, RayActorError):
        raise RayFailed(
            "the stage pool, a process on the head, does not stay alive. Is the head's memory "
            f"short, or its l2kd-ray another version (`l2kd doctor`)?{kept_messages()}"
        ) from None
    return failures


@contextmanager
def _told() -> Iterator[None]:
    """Errors of Ray itself become one message; their tracebacks go to Ray's messages."""
    try:
        yield
    except (RayError, TuneError) as error:
        with open(2, "w", closefd=False) as messages:
            traceback.print_exc(file=messages)
        reason = str(error).strip().partition("\n")[0]
        raise RayFailed(f"Ray failed ({type(error).__name__}: {reason}){kept_messages()}") from None


@contextmanager
def _on_demand(
    study: Study, store: Store, address: str, trials: Sequence[Trial], missing: Iterable[Stage]
) -> Iterator[Any]:
    """Start Ray and the pool on first use, so that a finished sweep starts neither.

    Yields a function that returns (pool, number of CPUs).
    """
    with ExitStack() as stack:

        @cache
        def start() -> tuple[Any, float]:
            jobs = [Job.of(stage, study.config.scale) for stage in missing]
            own = started(jobs) if address == LOCAL else joined(address)
            cpus = stack.enter_context(own)
            readers = _readers(study, store, trials, missing)
            return _start_pool(study, store, cpus, readers, _titles(trials)), cpus

        yield start


def _show_demand(pool: Any, stages: Sequence[Stage]) -> None:
    """Submit the stages that cursors will request, so that an autoscaler sees the whole demand.

    The few running trials alone would show it only the stages that they wait for.
    """
    for start in range(0, len(stages), _TOLD_AT_ONCE):
        pool.expect.remote(stages[start : start + _TOLD_AT_ONCE])


def _unfinished(left: Iterable[Stage]) -> list[Failure]:
    """Failures for stages that are still missing at the end although none is known to have
    failed."""
    return [
        Failure(
            stage.kind, stage.key, "it was not done", "The sweep ended before it: run it again."
        )
        for stage in sorted(left, key=lambda stage: stage.key)
    ]


def _start_pool(
    study: Study,
    store: Store,
    cpus: float,
    readers: Mapping[str, set[str]],
    titles: Mapping[str, str],
) -> Any:
    """Start the stage pool as an actor that survives its own death and that of any worker."""
    actor = ray.remote(StagePool).options(
        name=_POOL,
        num_cpus=0,
        resources={DRIVER: 1},
        # If the pool's process dies, the sweep must not end: it restarts without limit, and its
        # callers' calls are repeated. It loses nothing, since finished stages are in the store.
        max_restarts=-1,
        max_task_retries=-1,
        # Each cursor holds one asynchronous call per cell that it waits for. With Ray's default of
        # 1,000, other calls, such as those for the progress display, would wait behind these.
        max_concurrency=10_000,
    )
    return actor.remote(store, study.config.scale, cpus, readers, titles, study.config.name)


def _titles(trials: Iterable[Trial]) -> dict[str, str]:
    """The names of stages in Ray's dashboard, by key: kind, task and the first trial that needs it.

    Only stages at a trial's steps have one; the pool calls others by their kind.
    """
    titles: dict[str, str] = {}
    for trial in trials:
        setting = "".join(f" {key.split('.')[-1]}={value}" for key, value in trial.setting.items())
        who = f"{trial.method}{setting} seed {trial.seed}"
        for step, learnt in zip(trial.steps, ("", *trial.order), strict=False):
            for cell in step:
                model = cell.stage.model
                titles.setdefault(cell.stage.key, f"{cell.stage.kind} {cell.task} {who}")
                learnt = cell.task if trial.method == "single" else learnt
                for stage in (model, *(source for _, source in model.inputs())):
                    titles.setdefault(stage.key, " ".join(filter(None, [stage.kind, learnt, who])))
    return titles


def _readers(
    study: Study, store: Store, trials: Iterable[Trial], missing: Iterable[Stage]
) -> dict[str, set[str]]:
    """For each model that may be dropped (`keep: leaves`), the missing stages that read it.

    None in a search over orders, or an adaptive one, whose next proposals may read any: they are
    dropped at the end.
    """
    if study.config.keep == "all" or study.config.orders_arm or study.is_adaptive:
        return {}
    readers = {model.key: set[str]() for model in droppable(study, store, stages_of(trials))}
    for stage in missing:
        for _, source in stage.inputs():
            if source.key in readers:
                readers[source.key].add(stage.key)
    return {key: stages for key, stages in readers.items() if stages}


def _name(trial: Trial) -> dict[str, Any]:
    """The trial's identity (method, setting, order, seed), as sent to a Tune worker."""
    return {
        "method": trial.method,
        "setting": dict(trial.setting),
        "order": trial.order,
        "seed": str(trial.seed),
    }


def _run(
    study: Study,
    reader: StoreView,
    pool: Any,
    trials: Any,
    cpus: float,
    deadline: float,
    callbacks: Sequence[tune.Callback] = (),
    **tuning: Any,
) -> None:
    """Run cursors by Tune, enough of them at once to keep every CPU busy with a stage."""
    seconds = None if math.isinf(deadline) else deadline - time.monotonic()
    at_once = study.config.tune.max_concurrent or int(min(64, 2 * cpus + 2))
    folder = Folder(reader.store, study.config.name)
    walker = tune.with_parameters(cursor, study=study, pool=pool, folder=folder)
    # Tune passes AWS keys from the environment to its trials, and Ray logs them. A cursor needs
    # none.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )
    with Scratch("tune") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(walker, tune.PlacementGroupFactory([{DRIVER: 1}])),
            param_space={"trial": trials},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once, time_budget_s=seconds, reuse_actors=True, **tuning
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                callbacks=list(callbacks),
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        )
        results = tuner.fit()
    for error in results.errors:
        if short := _SHORT_MEMORY.search(str(error)):
            raise RayFailed(
                f"memory is short on the node {short['node']}: {short['used']}, above Ray's "
                f"threshold of {short['threshold']}; Ray kept killing the sweep's processes. Free "
                "memory there, run fewer stages at once (scale.cpus_per_worker=2), or raise "
                "RAY_memory_usage_threshold"
                f"{kept_messages()}"
            )


def cursor(config: dict[str, Any], study: Study, pool: Any, folder: Folder) -> None:
    """Walk the path of a trial (in an adaptive search, of all instances of a setting).

    A failed stage ends the trial but not the sweep; the pool records it for the report.
    """
    wanted, alone = config["trial"], "order" in config["trial"]
    if alone:
        trials = [study.trial(**wanted)]
    else:
        trials = study.instances(study.arm(wanted["method"]), wanted["setting"])
        folder.propose(stages_of(trials))
        if study.config.tune.scheduler == "asha":
            _climb(trials, study, pool)
    known, objectives = dict[str, float](), _objectives(study)
    for trial in trials:
        beside = {c: pool.scores.remote(c.stage) for c in (*trial.teachers, *trial.retention)}
        for number, step in enumerate(trial.steps):
            asked = {cell: pool.scores.remote(cell.stage) for cell in step}
            if number == len(trial.steps) - 1:
                asked |= beside
            try:
                found = ray.get(list(asked.values()))
            except StageFailed:
                tune.report({"failed": True, **dict.fromkeys(objectives, float("nan"))})
                return
            scores = {c: one[c.stage.metric_name] for c, one in zip(asked, found, strict=True)}
            if alone:
                dev = [scores[cell] for cell in step if cell.split == "dev"]
                values = {f"{cell.split}/{cell.task}": scores[cell] for cell in step}
                tune.report({"stage": number, _OBJECTIVE: mean(dev) if dev else 0.0, **values})
        known |= {cell.stage.key: score for cell, score in scores.items()}
    if not alone:
        reached = {metric: value(trials, name, known) for metric, name in objectives.items()}
        tune.report({**reached, _TRAINED: study.training_length})


def _climb(trials: Sequence[Trial], study: Study, pool: Any) -> None:
    """Report the mean dev score after each rung but the last, where ASHA may stop the trial."""
    for rung in (study.config.rungs or ())[:-1]:
        stages = [
            replace(cell.stage, model=model.at(rung))
            for trial in trials
            for cell in trial.steps[-1]
            if cell.split == "dev" and isinstance(model := cell.stage.model, TrainingStage)
        ]
        try:
            found = ray.get([pool.scores.remote(stage) for stage in stages])
        except StageFailed:
            return  # the last rung needs this stage and will report the failure
        scores = [one[stage.metric_name] for one, stage in zip(found, stages, strict=True)]
        tune.report({_OBJECTIVE: mean(scores), _TRAINED: rung})


def _open_searches(study: Study, known: ArmSettings, cut: ArmSettings) -> dict[str, int]:
    """The number of settings that an adaptive search has left to try, by arm that has any left."""
    if not study.is_adaptive:
        return {}
    wanted = study.config.tune.num_samples
    names = [arm.name for arm in study.config.arms if study.reads_search(arm)]
    left = {name: wanted - len(known.get(name, ())) - len(cut.get(name, ())) for name in names}
    return {name: number for name, number in left.items() if number > 0}


def _searched_stages(study: Study, arms: Iterable[str]) -> set[Stage]:
    """Stages like those that the searches of some arms will propose, on one order and seed.

    Whether this machine has the resources for them is checked before anything starts.
    """
    order, seed = study.orders[0], str(study.config.replicates[0])
    return stages_of(
        study.trial(name, setting, order, seed)
        for name in arms
        for setting in study.settings(study.arm(name))
    )


def _search(
    study: Study,
    reader: StoreView,
    pool: Any,
    tried: dict[str, list[Setting]],
    given_up: dict[str, list[Setting]],
    cpus: float,
    deadline: float,
) -> None:
    """Run the adaptive searches, one arm after another, until the deadline.

    Each setting that Optuna proposes is run on all (order, seed), and its mean dev score is
    reported back; with ASHA after each rung. The settings that finish are added to `tried`, those
    that ASHA stops to `given_up`, and both are stored at once, so that a sweep that is killed goes
    on with them.
    """
    folder = Folder(reader.store, study.config.name)
    for name, left in _open_searches(study, tried, given_up).items():
        if time.monotonic() >= deadline:
            break
        arm = study.arm(name)
        former, lost = tried.setdefault(name, []), given_up.setdefault(name, [])

        def note(setting: Setting, is_whole: bool, own: Any = (former, lost)) -> None:
            own[0 if is_whole else 1].append(setting)
            folder.keep_settings(tried, given_up)

        rewards = [(setting, _reward(study, reader, arm, setting)) for setting in former]
        known = [(one, reward) for one, reward in rewards if all(map(math.isfinite, reward))]
        _run(
            study,
            reader,
            pool,
            {"method": name},
            cpus,
            deadline,
            search_alg=_searcher(study, arm, known, len(former) + len(lost)),
            num_samples=left,
            callbacks=[SearchLog(study, name, [reward for _, reward in known], note)],
            **_cutting(study),
        )


def _searcher(
    study: Study, arm: Arm, known: Sequence[tuple[Setting, list[float]]], begun: int
) -> Any:
    """The searcher of an arm: proposals by Optuna's model, or at random.

    `known`: the settings of earlier sweeps, with their objectives. `begun`: how many settings they
    began; with the same seed their proposals would be repeated.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # `SearchLog` says what it is told

    class Search(OptunaSearch):
        """Ray's, which tells Optuna of one value only of what was tried before."""

        def add_evaluated_point(
            self, parameters: dict[Any, Any], value: Any, *args: Any, **kwargs: Any
        ) -> None:
            study, space = cast(Any, self._ot_study), cast(Any, self._space)
            trial = optuna.trial.create_trial(values=value, params=parameters, distributions=space)
            study.add_trial(trial)

    samplers = optuna.samplers
    is_random = study.config.tune.searcher == "random"
    sampler = samplers.RandomSampler if is_random else samplers.TPESampler
    metrics = list(_objectives(study))
    several = len(metrics) > 1
    return Search(
        space={
            f"trial/setting/{key}": _distribution(space)
            for key, space in study.config.search.items()
            if isinstance(space, Range) and key in study.searched(arm)
        },
        metric=metrics if several else metrics[0],
        mode=["max"] * len(metrics) if several else "max",
        sampler=sampler(seed=study.config.tune.seed + begun),
        points_to_evaluate=[
            {f"trial/setting/{key}": value for key, value in setting.items()}
            for setting, _ in known
        ],
        evaluated_rewards=[reward for _, reward in known],
    )


class SearchLog(tune.Callback):
    """Notes each setting that a searcher is told the objectives of, and prints a line."""

    def __init__(
        self,
        study: Study,
        arm: str,
        known: Iterable[Sequence[float]],
        note: Callable[[Setting, bool], None],
    ) -> None:
        self._arm, self._objectives, self._known = arm, _objectives(study), list(known)
        self._length, self._note = study.training_length, note

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        setting, told = trial.config["trial"]["setting"], trial.last_result
        if "failed" in told or _TRAINED in told:  # not cut short by the time limit
            self._note(setting, "failed" in told or told[_TRAINED] == self._length)
        words = [self._arm, *(f"{key}={_short(value)}" for key, value in setting.items())]
        reached = [told.get(metric, math.nan) for metric in self._objectives]
        if not all(map(math.isfinite, reached)):
            print(f"{' '.join(words)}: failed", file=sys.stderr)
            return
        named = zip(self._objectives.values(), reached, strict=True)
        line = ", ".join(f"{name} {value:.2f}" for name, value in named)
        if _TRAINED in told:
            line += f" after {told[_TRAINED]}"
        if all(any(map(operator.gt, reached, former)) for former in self._known):
            line += ", best so far" if len(reached) == 1 else ", nothing is as good in both so far"
        self._known.append(reached)
        print(f"{' '.join(words)}: {line}", file=sys.stderr)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cutting(study: Study) -> dict[str, Any]:
    """The Tune settings of ASHA on the rungs of the students' training; empty if not chosen."""
    how, rungs = study.config.tune, study.config.rungs
    if how.scheduler != "asha" or rungs is None:
        return {}
    halving = ASHAScheduler(
        time_attr=_TRAINED,
        metric=_OBJECTIVE,
        mode="max",
        max_t=rungs[-1],
        grace_period=rungs[0],
        reduction_factor=how.reduction,
    )
    return {"scheduler": halving}


def _objectives(study: Study) -> dict[str, SearchObjective]:
    """The objectives of an adaptive search, by the name that Tune is told."""
    chosen = study.config.tune.objectives
    return {_OBJECTIVE: "dev"} if chosen is None else {f"objective/{one}": one for one in chosen}


def _reward(study: Study, reader: StoreView, arm: Arm, setting: Setting) -> list[float]:
    """The objectives of a setting tried before; NaN where a score is missing."""
    trials, names = study.instances(arm, setting), _objectives(study).values()
    cells = (cell for trial in trials for name in names for cell in cells_of(trial, name))
    known = known_scores(reader, cells)
    return [value(trials, name, known) for name in names]


def _distribution(space: Range) -> Any:
    import optuna

    if space.uniform is not None:
        return optuna.distributions.FloatDistribution(*space.uniform)
    if space.loguniform is not None:
        return optuna.distributions.FloatDistribution(*space.loguniform, log=True)
    if space.randint is not None:
        low, high = space.randint
        return optuna.distributions.IntDistribution(low, high - 1)
    return optuna.distributions.CategoricalDistribution(list(space.choice or ()))
