"""The stages of a lifelong language model, from a study's settings."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, Literal

from l2kd_ray.config import (
    Arm,
    Decoding,
    Distillation,
    Elastic,
    InputError,
    ModelSpec,
    Part,
    Seed,
    StudyConfig,
    Training,
)
from l2kd_ray.methods.builder import Builder, Method, Order
from l2kd_ray.stages.annotate import DEFAULT_LENGTH, Annotate
from l2kd_ray.stages.constraints import Penalty, Projection
from l2kd_ray.stages.decode import Decode
from l2kd_ray.stages.evaluate_lm import EvaluateLM
from l2kd_ray.stages.importance import Importance
from l2kd_ray.stages.learn import Learn, Multitask
from l2kd_ray.stages.replay import Judge, Quota, RealSamples, Replay
from l2kd_ray.stages.start import Initial, Tokenizer
from l2kd_ray.stages.tokens import Tokens
from l2kd_ray.tasks import TaskData


class LanguageBuilder(Builder):
    """Stages of causal LMs that read and write every task as text: L2KD and its baselines."""

    references = ("multitask", "single", "multilm")

    @classmethod
    def check_arm(cls, config: StudyConfig, arm: Arm, where: str) -> None:
        if config.train.lora is None:
            return
        if arm.method in ("ewc", "mas"):
            raise InputError(
                f"{arm.method} holds each parameter by its importance, and with LoRA none is "
                "trained",
                where=where,
                key="train.lora",
                mend="give the other methods train.lora in their settings, or leave "
                f"{arm.name} out",
            )
        if find_spec("peft") is None:
            raise InputError(
                "low-rank training needs the package peft",
                where=where,
                key="train.lora",
                mend="pip install 'l2kd-ray[lora]'",
            )

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.models.causal_lm import check_architecture

        if spec.arch is not None:
            check_architecture(spec.arch, spec.overrides)

    def initial(self, seed: Seed) -> Initial:
        return self._initial(self.config.student, seed)

    def teacher(self, task: str, seed: Seed) -> Learn:
        """The teacher of a task: what LAMOL makes of a first task (L2KD, section 3)."""
        spec, seed = self.config.teacher or self.config.student, self._teacher_seed(seed)
        return self._once(
            ("teacher", task, seed), lambda: self.learn(self._initial(spec, seed), task, seed)
        )

    def single(self, task: str, seed: Seed) -> Learn:
        """The student's architecture trained on one task alone: the single-task reference."""
        return self._once(
            ("single", task, seed), lambda: self.learn(self.initial(seed), task, seed)
        )

    def reference(self, name: str, task: str, seed: Seed) -> Learn:
        if name == "single":
            return self.single(task, seed)
        return self.multitask(seed, lm=name == "multilm")

    def multitask(self, seed: Seed, *, lm: bool = False) -> Multitask:
        """All tasks at once, by the QA loss or with `lm` by both; one budget and setting,
        whatever is searched."""
        own = self.config.multitask.model_dump(exclude_none=True)
        plain = {"average": 0.0, **_UNREAD} | ({} if lm else _QA_ONLY)
        training = self.config.train.model_copy(update=own | plain)
        names = sorted(self.resolved.tasks)
        tasks = tuple(self._tokens(self._data(task, "train")) for task in names)
        return Multitask(self.initial(seed), tasks, training, seed.train)

    def learn(
        self,
        start: Initial | Learn,
        task: str,
        seed: Seed,
        *,
        lm: bool = True,
        replay: Replay | RealSamples | None = None,
        distil: bool = False,
        constraint: Penalty | Projection | None = None,
    ) -> Learn:
        """`start` learns a task; with `distil` from the teachers that the study's `kd` names."""
        knowledge = self._knowledge(task, seed, replay is not None) if distil else {}
        return Learn(
            start,
            (self._tokens(self._data(task, "train")),),
            self._training(lm=lm, first=isinstance(start, Initial)),
            seed.train,
            replay=replay,
            replay_weight=self._replay_weight() if replay is not None else None,
            constraint=constraint,
            **knowledge,
        )

    def replay(self, model: Initial | Learn, former: Order, task: str, seed: Seed) -> Replay | None:
        """Pseudo-samples of the former tasks, `ratio` of the new task's size."""
        settings, draws = self.config.replay, self.config.replay.top_k > 1
        quotas = self._quotas(former, task)
        if not quotas:
            return None
        return self._once(
            ("replay", model, quotas, seed.replay),
            lambda: Replay(
                model,
                quotas,
                settings.top_k,
                settings.temperature if draws else None,
                self.config.train.max_length,
                seed.replay if draws else None,
                tuple(sorted(set(settings.filters))),
                self._judges(quotas, seed),
                settings.refill,
            ),
        )

    def real_replay(self, former: Order, task: str, seed: Seed) -> RealSamples | None:
        """Real samples of the former tasks, as many as `replay` would have written."""
        return self._real(self._quotas(former, task), seed)

    def memory(self, former: Order, seed: Seed) -> Projection | None:
        """GEM's constraint: `ratio` of each former task's samples."""
        ratio = self.config.gem.ratio
        data = [self._data(task, "train") for task in sorted(former)]
        samples = self._real(tuple(Quota(d, _share(ratio, d.rows)) for d in data), seed)
        return None if samples is None else Projection(samples, self.config.gem.margin)

    def importance(
        self,
        method: Method,
        former: Order,
        seed: Seed,
        measure: Literal["fisher", "sensitivity"],
        samples: int,
    ) -> Importance | None:
        """What the parameters of `method`'s student matter to the former tasks."""
        if not former:
            return None
        *before, last = former
        return self._once(
            ("importance", method, former, seed),
            lambda: Importance(
                self.student(method, former, seed),
                self._data(last, "train"),
                measure,
                samples,
                self.config.train.max_length,
                seed.train,
                self.importance(method, tuple(before), seed, measure, samples),
            ),
        )

    def penalty(
        self,
        method: Method,
        former: Order,
        seed: Seed,
        measure: Literal["fisher", "sensitivity"],
        settings: Elastic,
    ) -> Penalty | None:
        """What holds parameters by their importance to the former tasks; None without effect."""
        importance = self.importance(method, former, seed, measure, settings.samples)
        if importance is None or settings.strength == 0:
            return None
        halves = 2 if measure == "sensitivity" else 1  # MAS's penalty has no 1/2, EWC's has
        return Penalty(importance, halves * settings.strength)

    def evaluate(self, model: Initial | Learn, task: str, split: Part, seed: Seed) -> EvaluateLM:
        def make() -> EvaluateLM:
            about, decoding = self.resolved.tasks[task], self.config.evaluate.decode.normalised()
            return EvaluateLM(
                model,
                self._data(task, split),
                about.metric,
                about.extras,
                about.seen if split == "test" else None,
                self.config.evaluate.max_new_tokens,
                decoding,
                seed.train if decoding.draws else None,
            )

        return self._once(("evaluate", model, task, split, seed), make)

    def _training(self, *, lm: bool, first: bool) -> Training:
        """What has no effect is at its default: averaging with an untrained model is not meant,
        and without the LM part `<ans>` is never a target."""
        changes: dict[str, Any] = {**_UNREAD, **({"average": 0.0} if first else {})}
        if not lm or self.config.train.lm_weight == 0:
            changes |= _QA_ONLY
        return self.config.train.model_copy(update=changes)

    def _replay_weight(self) -> str | float:
        """Counted once is natural."""
        weight = self.config.replay.weight
        return "natural" if weight == 1 else weight

    def _knowledge(self, task: str, seed: Seed, replays: bool) -> dict[str, Any]:
        """The fields of a stage that distils: who teaches what. None where nobody does."""
        kd = self.config.kd
        new, recall = kd.teachers != "previous", kd.teachers != "new" and replays
        if kd.weight == 0 or not (new or recall):
            return {}
        soft = recall or kd.objective != "seq"
        distillation = Distillation(
            objective=kd.objective if new else "word",
            weight=kd.weight,
            temperature=kd.temperature if soft else 1.0,
            answer_weight=kd.answer_weight if soft else "drop",
        )
        targets = None
        if new and kd.objective != "word":
            targets = self._tokens(self._targets(task, seed))
        answers = targets or self._tokens(self._data(task, "train"))
        return {
            "teacher": self._speaker(task, seed, answers)
            if new and kd.objective != "seq"
            else None,
            "targets": targets,
            "recall": recall,
            "distillation": distillation,
        }

    def _speaker(self, task: str, seed: Seed, answers: Tokens) -> Learn | Annotate:
        """The teacher itself, or what it says at these answers, computed once."""
        teacher, training = self.teacher(task, seed), self._training(lm=True, first=True)
        parts = training.parts
        rows, length = self._data(task, "train").rows, training.max_length
        few = rows * len(parts) * (length or DEFAULT_LENGTH) <= _CACHED_POSITIONS
        same = length is not None or self.config.teacher is None  # both see the same positions
        how, top_k = self.config.kd.teacher, self.config.kd.top_k
        if how == "online" or (how == "auto" and top_k is None and not (few and same)):
            return teacher
        return self._once(
            ("annotate", teacher, answers, top_k),
            lambda: Annotate(teacher, answers, length, parts, training.precision, top_k),
        )

    def _targets(self, task: str, seed: Seed) -> Decode | TaskData:
        """Seq-KD's answers: those of a file that the study names, or the teacher's."""
        given = self.resolved.tasks[task].splits.get("distil")
        if given is not None:
            return given
        seed = self._teacher_seed(seed)
        decoding: Decoding = self.config.kd.decode.normalised()
        return self._once(
            ("decode", task, seed),
            lambda: Decode(
                self.teacher(task, seed),
                self._data(task, "train"),
                decoding,
                self.config.evaluate.max_new_tokens,
                seed.train if decoding.draws else None,
            ),
        )

    def _quotas(self, former: Order, task: str) -> tuple[Quota, ...]:
        """`ceil(ratio * |D|)` samples: in equal shares, rounded down to a multiple of the number
        of tasks (LAMOL), or in proportion to the tasks' sizes."""
        wanted = _share(self.config.replay.ratio, self._data(task, "train").rows)
        data = [self._data(name, "train") for name in sorted(former)]
        total = sum(one.rows for one in data)
        equal, filters = self.config.replay.shares == "equal", self.config.replay.filters
        counts = [wanted // len(data) if equal else wanted * one.rows // total for one in data]
        return tuple(
            Quota(one, count, "label" in filters and self._is_classification(one.task))
            for one, count in zip(data, counts, strict=True)
            if count > 0
        )

    def _is_classification(self, task: str) -> bool:
        return self.resolved.tasks[task].kind == "classify"

    def _judges(self, quotas: tuple[Quota, ...], seed: Seed) -> tuple[Judge, ...]:
        least = self.config.replay.agreement
        if least is None:
            return ()
        tokens, tasks = self.config.evaluate.max_new_tokens, self.resolved.tasks
        return tuple(
            Judge(self.teacher(q.task, seed), tasks[q.task].metric, least, tokens) for q in quotas
        )

    def _real(self, quotas: tuple[Quota, ...], seed: Seed) -> RealSamples | None:
        """The same samples for every method: those of the untrained model's tokenizer."""
        if not quotas:
            return None
        length = self.config.train.max_length
        plain = tuple(Quota(quota.data, quota.count) for quota in quotas)
        return self._once(
            ("real", plain, seed),
            lambda: RealSamples(self.initial(seed), plain, length, seed.replay),
        )

    def _initial(self, spec: ModelSpec, seed: Seed) -> Initial:
        pretrained = self.resolved.models.get(spec.model or "")
        return self._once(
            ("initial", spec, seed),
            lambda: Initial(
                source=pretrained,
                arch=spec.arch,
                overrides=dict(sorted(spec.overrides.items())),
                tokenizer=self._tokenizer(),
                seed=None if pretrained else seed.train,
                trust_remote_code=spec.trust_remote_code,
            ),
        )

    def _tokenizer(self) -> Tokenizer:
        """The student's own, or a named one, or a trained one; the teacher reads the same."""
        name = self.config.student.model or self.config.tokenizer.model or ""
        source = self.resolved.models.get(name)
        prompts = tuple(sorted(self.resolved.tasks)) if self.config.task_prompt == "token" else None
        return self._once(
            ("tokenizer",),
            lambda: Tokenizer(
                source=source,
                corpus=() if source else self.resolved.corpus,
                vocab_size=None if source else self.config.tokenizer.vocab_size,
                prompts=prompts,
                owner=self.owner,
            ),
        )

    def _tokens(self, source: TaskData | Decode) -> Tokens:
        return self._once(("tokens", source), lambda: Tokens(self._tokenizer(), source))

    def _teacher_seed(self, seed: Seed) -> Seed:
        """A teacher's own, where the study names one for all replicates."""
        one = self.config.kd.teacher_seed
        return seed if one is None else Seed(train=one, replay=one)


def _share(ratio: float, rows: int) -> int:
    """`ceil(ratio * rows)`; 0.07 of 100 are 7, though floats say a little more."""
    return math.ceil(round(ratio * rows, 6))


# Positions whose hidden states `kd.teacher: auto` keeps for a task: 3 GB at a width of 768.
_CACHED_POSITIONS = 2**21
_UNREAD = {"rungs": None, "patience": None}
_QA_ONLY = {"lm_weight": 0.0, "answer_weight": 1.0}
