"""The stages of a lifelong language model, from a study's settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal

from l2kd_ray.core.randomness import Seed
from l2kd_ray.distill.divergences import DIVERGENCES
from l2kd_ray.distill.objectives import SoftTargets
from l2kd_ray.errors import InputError
from l2kd_ray.families.builder import Builder
from l2kd_ray.families.evaluate import Measure
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.settings import DecodeSettings, LanguageSettings, LoraSettings
from l2kd_ray.families.language.stages.adapters import LoraUpdate
from l2kd_ray.families.language.stages.annotate import DEFAULT_SEQUENCE_LENGTH, Annotate
from l2kd_ray.families.language.stages.answers import Decoding
from l2kd_ray.families.language.stages.constraints import Penalty
from l2kd_ray.families.language.stages.decode import Decode
from l2kd_ray.families.language.stages.evaluate import EvaluateLM
from l2kd_ray.families.language.stages.importance import Importance
from l2kd_ray.families.language.stages.learn import Learn, Multitask
from l2kd_ray.families.language.stages.on_policy import OwnTeacher, Sampling
from l2kd_ray.families.language.stages.replay import (
    FILTERS,
    FormerSamples,
    Judge,
    Quota,
    RealSamples,
    Replay,
)
from l2kd_ray.families.language.stages.retention import Drift, Harness, TextLoss
from l2kd_ray.families.language.stages.start import Initial, Tokenizer, initial_of
from l2kd_ray.families.language.stages.tokens import LossPart, Tokens
from l2kd_ray.families.method import Order
from l2kd_ray.families.settings import Settings, TrainOverrides
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks import Task
from l2kd_ray.tasks.registry import family as generated_family
from l2kd_ray.tasks.spec import Part, TaskSpec

Student = Initial | Learn
"""A language model, untrained or trained."""


class LanguageBuilder(Builder):
    """Stages of language models that treat every task as text: L2KD and its baselines."""

    references = ("multitask", "single", "multilm")
    retains = True

    settings: LanguageSettings

    def check_settings(self) -> None:
        super().check_settings()
        lora = self.settings.train.lora
        if lora is not None:
            self.check_peft("train.lora")
        if lora is not None and lora.load_in_4bit:
            self.check_whole("weights in 4 bits are not cut")
            self._check_installed("bitsandbytes", "qlora", "train.lora.load_in_4bit")

    def check_whole(self, what: str) -> None:
        """Raise InputError if the workers share the model out, but `what` needs a whole one."""
        if self.settings.train.shard != "none":
            raise InputError(
                f"{what}, and of a model that is shared out a worker has a part",
                key="train.shard",
                got=self.settings.train.shard,
                fix="set train.shard to none, or leave this out",
            )

    def check_peft(self, key: str) -> None:
        """Raise InputError if what stands at `key` cannot be trained: peft is not installed."""
        self._check_installed("peft", "lora", key)

    @staticmethod
    def _check_installed(package: str, extra: str, key: str) -> None:
        if find_spec(package) is None:
            raise InputError(
                f"it needs the package {package}", key=key, fix=f"pip install 'l2kd-ray[{extra}]'"
            )

    @classmethod
    def corpus(
        cls, settings: Settings, tasks: Mapping[str, Task], find: Callable[[TaskSpec], Task]
    ) -> list[Task]:
        sections: Any = settings.family
        if sections.student.model or sections.tokenizer.model:
            return []
        if sections.tokenizer.tasks is not None:
            return [find(spec) for spec in sections.tokenizer.tasks]
        # With its whole family, a generated task can be added without changing any stage.
        whole = generated_family(next(iter(tasks)))
        if set(tasks) <= set(whole):
            return [find(TaskSpec(name=name)) for name in whole]
        return [tasks[name] for name in sorted(tasks)]

    def check(self, spec: ModelSpec) -> None:
        from l2kd_ray.families.language.model.causal_lm import load_pretrained
        from l2kd_ray.families.language.model.checks import (
            check_arch,
            check_layers,
            check_limit,
            check_model,
        )
        from l2kd_ray.families.language.model.vocabulary import load
        from l2kd_ray.models import loading

        longest = self.settings.train.max_length
        if spec.arch is not None:
            check_arch(spec.arch, spec.overrides, longest)
            if self.settings.tokenizer.model is not None:
                load(self.resolved.models[self.settings.tokenizer.model])
            return
        source = self.resolved.models[spec.model or ""]
        config = loading.load_config(source)
        check_limit(config, longest)
        check_layers(config)
        loading.check_vocabulary(config, load(source)[0], source.location)
        if loading.is_small(source):
            check_model(load_pretrained(source))

    def initial(self, seed: Seed) -> Initial:
        return self._initial(self.settings.student, seed)

    def teacher(self, task: str, seed: Seed) -> Learn:
        """The teacher of a task: LAMOL's student after that task as its first (L2KD, section 3)."""
        spec, seed = self.settings.teacher or self.settings.student, self._teacher_seed(seed)
        start = self._initial(spec, seed)
        return self._once(
            ("teacher", task, seed),
            lambda: Learn(
                start=start,
                tasks=(self._tokens(self.teacher_examples(task, seed), start.tokenizer),),
                seed=seed.train,
                **self._training(
                    lm=True,
                    first=True,
                    train=self._settings.teacher_train,
                    overrides=self.settings.teaching,
                ),
            ),
        )

    def teacher_of_new(self, task: str, seed: Seed) -> Learn | None:
        """The teacher of a new task; None if `kd` has none, or reads its answers from a file."""
        kd, given = self.settings.kd, "distil" in self.resolved.tasks[task].splits
        if kd.teachers in ("previous", "self") or (kd.objective == "seq" and given):
            return None
        return self.teacher(task, seed)

    def reference(self, name: str, task: str, seed: Seed) -> Learn:
        if name == "single":  # the student's architecture trained on one task alone
            return self.learn(self.initial(seed), task, seed)
        return self.multitask(seed, lm=name == "multilm")

    def multitask(self, seed: Seed, *, lm: bool = False) -> Multitask:
        """The multi-task bound: all tasks at once, by the QA loss, or with `lm` by both losses.

        It has one budget and setting, whatever is searched.
        """
        names = sorted(self.resolved.tasks)
        return Multitask(
            start=self.initial(seed),
            tasks=tuple(self._tokens(self.train_examples(task, seed)) for task in names),
            seed=seed.train,
            **self._training(lm=lm, first=True, overrides=self.settings.multitask),
        )

    def learn(
        self,
        start: Initial | Learn,
        task: str,
        seed: Seed,
        *,
        lm: bool = True,
        replay: FormerSamples | None = None,
        distil: bool = False,
        own: bool = False,
        stage: type[Learn] = Learn,
        **fields: Any,
    ) -> Learn:
        """Train `start` on a task; with `distil` also from the teachers that `kd` names.

        With `own` it is its own teacher instead, on answers that it writes. `stage`: the class of
        the training; `fields`: more of its fields (`constraint`, `adapter`, ...), in place of what
        the settings say.
        """
        if fields.get("constraint") is not None:
            self.check_whole("a constraint changes the gradient of the whole model")
        training = self._training(lm=lm, first=isinstance(start, Initial))
        if distil or own:
            training |= self._knowledge(task, seed, replay is not None, training["objective"], own)
        if replay is not None and "replay_weight" not in fields:
            weight = self.settings.replay.weight
            if weight == "separate" and fields.get("replay_batch"):
                weight = 1  # samples that are drawn at each step have a mean of their own anyway
            training["replay_weight"] = self.replay_weight(weight)
        return stage(
            start=start,
            tasks=(self._tokens(self.train_examples(task, seed)),),
            seed=seed.train,
            replay=replay,
            **{**training, **fields},
        )

    def replay(self, model: Initial | Learn, former: Order, task: str, seed: Seed) -> Replay | None:
        """Pseudo-samples of the former tasks, `replay.ratio` times the new task's size in all."""
        settings, quotas = self.settings.replay, self._quotas(former, task, seed)
        if not quotas:
            return None
        filters = tuple(self.plugin("filters", name, FILTERS) for name in sorted(settings.filters))
        if "label" in filters:
            kinds = {name: task.kind for name, task in self.resolved.tasks.items()}
            quotas = tuple(
                replace(quota, labelled=kinds[quota.task] == "classify") for quota in quotas
            )
        draws = settings.top_k > 1
        return Replay(
            model=model,
            quotas=quotas,
            top_k=settings.top_k,
            temperature=settings.temperature if draws else None,
            max_length=self.settings.train.max_length,
            seed=seed.replay if draws else None,
            filters=tuple(dict.fromkeys(filters)),
            judges=self._judges(quotas, seed),
            refill=settings.refill,
            precision=_half(settings.precision),
        )

    def real_replay(self, former: Order, task: str, seed: Seed) -> RealSamples | None:
        """Real samples of the former tasks, as many as `replay` would generate."""
        return self._real(self._quotas(former, task, seed), seed)

    def kept(self, former: Order, seed: Seed, ratio: float) -> RealSamples | None:
        """The share `ratio` of each former task's training examples; None if that is nothing."""
        data = [self.train_examples(name, seed) for name in sorted(former)]
        quotas = (Quota(one, share_of(ratio, one.rows)) for one in data)
        return self._real(tuple(quota for quota in quotas if quota.count > 0), seed)

    def importance(
        self, former: Order, seed: Seed, measure: Literal["fisher", "sensitivity"], samples: int
    ) -> Importance | None:
        """The importance of the student's parameters to the former tasks; None if there are
        none."""
        if not former:
            return None
        *before, last = former
        return self._once(
            ("importance", former, seed, measure, samples),
            lambda: Importance(
                model=self.student(former, seed),
                examples=self.train_examples(last, seed),
                measure=measure,
                samples=min(samples, self.train_examples(last, seed).rows),
                max_length=self.settings.train.max_length,
                seed=seed.train,
                former=self.importance(tuple(before), seed, measure, samples),
            ),
        )

    def penalty(
        self,
        former: Order,
        seed: Seed,
        measure: Literal["fisher", "sensitivity"],
        samples: int,
        strength: float,
    ) -> Penalty | None:
        """The penalty on changing parameters that matter to former tasks; None without effect."""
        importance = self.importance(former, seed, measure, samples)
        if importance is None or strength == 0:
            return None
        halves = 2 if measure == "sensitivity" else 1  # MAS's penalty has no 1/2, EWC's has
        return Penalty(importance, halves * strength)

    def evaluate(self, model: Initial | Learn, task: str, split: Part, seed: Seed) -> EvaluateLM:
        def make() -> EvaluateLM:
            decoding = _decoding(self.settings.evaluate.decode)
            return EvaluateLM(
                **self._evaluation(model, task, split),
                max_new_tokens=self.settings.evaluate.max_new_tokens,
                decoding=decoding,
                seed=seed.train if decoding.draws else None,
            )

        return self._once(("evaluate", model, task, split, seed), make)

    def retained(self, model: Any, learned: str | None, seed: Seed) -> Mapping[str, Measure]:
        longest = self.settings.train.max_length
        found: dict[str, Measure] = {
            name: self.evaluate(model, name, "test", seed) for name in self.resolved.held_out
        }
        if (texts := self.resolved.texts) is not None:
            found["texts"] = TextLoss(
                model, self.examples(texts), "cross_entropy", max_length=longest
            )
        if (harness := self.resolved.lm_eval) is not None:
            more = {"limit": harness.limit, "num_fewshot": harness.num_fewshot}
            found |= {
                f"lm_eval.{name}": Harness(
                    model, name=name, metric=metric, release=_harness(), **more
                )
                for name, metric in harness.tasks.items()
            }
        if learned is not None:
            found["kl"] = Drift(
                model,
                self.examples(self.resolved.tasks[learned].splits["test"]),
                "kl",
                initial=self.initial(seed),
                max_length=longest,
            )
        return found

    def _training(
        self,
        *,
        lm: bool,
        first: bool,
        train: Any = None,
        overrides: TrainOverrides | None = None,
    ) -> dict[str, Any]:
        """The fields that configure a training stage; those without effect stay at their default.

        Weights are not averaged with an untrained model, and without the LM loss `<ans>` is never a
        target, so that its class weight has no effect. `train`: by default the student's.
        """
        train = train or self.settings.train
        lm_weight = train.lm_weight if lm else 0.0
        average = 0.0 if first else train.average
        return {
            "optimisation": train.optimisation(overrides),
            "precision": train.precision,
            "max_length": train.max_length,
            "bucket_batches": train.bucket_batches,
            "adapter": train.lora and self.lora(train.lora),
            "average": average,
            "lm_weight": lm_weight,
            "objective": SoftTargets(answer_weight=train.answer_weight if lm_weight > 0 else 1.0),
        }

    @staticmethod
    def replay_weight(weight: str | float) -> str | float:
        """A weight of replayed samples; 1 means the same as `natural`, so both get one key."""
        return "natural" if weight == 1 else weight

    @staticmethod
    def lora(settings: LoraSettings) -> LoraUpdate:
        """The low-rank updates of some settings."""
        alpha, dropout = settings.lora_alpha, settings.lora_dropout
        four = settings.load_in_4bit or None
        return LoraUpdate(settings.r, alpha, dropout, settings.target_modules, load_in_4bit=four)

    def _knowledge(
        self, task: str, seed: Seed, replays: bool, objective: SoftTargets, own: bool
    ) -> dict[str, Any]:
        """The fields of a distilling training stage: teachers, targets and objective.

        Empty if no teacher takes part.
        """
        kd = self.settings.kd
        teachers = "self" if own else kd.teachers
        new, recall = teachers != "previous", teachers in ("previous", "both") and replays
        if kd.weight == 0 or not (new or recall):
            return {}
        found: dict[str, Any] = {"kd_weight": kd.weight, "recall": recall}
        aim = kd.objective if teachers in ("new", "both") else "word"
        if recall or aim != "seq":
            found["objective"] = replace(
                objective,
                temperature=kd.temperature,
                weigh_kd=objective.answer_weight != 1 and kd.answer_weight == "keep",
                **self._divergence(),
            )
        if not new:
            return found
        sampling = None if aim == "seq" else self._sampling("student" if own else kd.policy)
        found["sampling"] = sampling
        if sampling is not None and sampling.share is None:
            dev = self.examples(self.resolved.tasks[task].splits["dev"])
            found["dev"] = self._tokens(dev)
        if teachers == "self":
            return found | {"own_teacher": self._own_teacher()}
        if aim != "seq":
            self._check_translated()
        if aim != "word":
            found["targets"] = self._tokens(self._targets(task, seed))
        answers = found.get("targets") or self._tokens(self.train_examples(task, seed))
        if sampling is not None:
            found["teacher"] = self.teacher(task, seed)
        elif aim != "seq":
            found["teacher"] = self._teacher_outputs(task, seed, answers)
        return found

    @property
    def _own_tokenizer(self) -> str:
        """The model whose tokenizer the student has; "" for one that is trained."""
        return self.settings.student.model or self.settings.tokenizer.model or ""

    def _tokenizer_of(self, spec: ModelSpec) -> str:
        """The model whose tokenizer a student or teacher has: the student's, but for a pretrained
        model of another vocabulary, which has its own."""
        own, models = self._own_tokenizer, self.resolved.models
        if spec.model is None or spec.model == own:
            return own
        from l2kd_ray.models.loading import vocabulary_of

        if own and vocabulary_of(models[own]) == vocabulary_of(models[spec.model]):
            return own
        return spec.model

    def _check_translated(self) -> None:
        """Raise InputError if the teacher has another tokenizer and cannot be compared with the
        student token by token."""
        spec, kd = self.settings.teacher, self.settings.kd
        if spec is None or self._tokenizer_of(spec) == self._own_tokenizer:
            return
        one = "one tokenizer for teacher and student: tokenizer.model of a student from scratch"
        from l2kd_ray.families.language.model.translation import PROBE, spells

        for name in filter(None, (self._own_tokenizer, spec.model)):
            if not spells(self.resolved.models[name]):
                raise InputError(
                    "the teacher has another tokenizer, and their tokens cannot be compared: those "
                    "of one do not spell a text",
                    key="teacher.model",
                    got=f"{name}, {PROBE!r}",
                    expected="tokenizers of bytes (GPT-2's kind) or of SentencePiece's kind",
                    fix="set kd.objective: seq",
                )
        if kd.divergence != "uld":
            raise InputError(
                "the teacher has another tokenizer, and this compares probabilities token by token",
                key="kd.divergence",
                got=kd.divergence,
                expected=f"uld, or {one}",
                fix="set kd.divergence: uld, or kd.objective: seq",
            )
        if kd.top_k is not None:
            raise InputError(
                "the teacher has another tokenizer, and the student has no class of the others",
                key="kd.top_k",
                got=kd.top_k,
                expected=one,
                fix="drop kd.top_k",
            )

    def _sampling(self, policy: Literal["data", "student", "mix"]) -> Sampling | None:
        """How the student writes the answers that it is taught on; None if it writes none."""
        if policy == "data":
            return None
        self.check_whole("the student writes its answers on each worker by itself")
        kd = self.settings.kd
        how, share = kd.sampling, kd.student_share if policy == "mix" else 1.0
        return Sampling(
            share=None if share == "adaptive" else share,
            max_new_tokens=how.max_new_tokens,
            temperature=None if how.top_k == 1 else how.temperature,
            top_k=how.top_k,
            renew_every=how.renew_every,
        )

    def _own_teacher(self) -> OwnTeacher:
        kd = self.settings.kd
        if kd.self_teacher != "base":
            self.check_whole("a teacher that follows the student reads all of its weights")
        lora = self.settings.train.lora
        if kd.self_teacher == "ema" and lora is not None and lora.load_in_4bit:
            raise InputError(
                "weights in 4 bits have no moving average",
                key="kd.self_teacher",
                got="ema",
                expected="base or live",
            )
        rate = kd.ema_rate if kd.self_teacher == "ema" else None
        return OwnTeacher(kd.self_teacher, rate, kd.demonstration, kd.skip_tokens)

    def _divergence(self) -> dict[str, Any]:
        """The fields of the objective that say what is compared; those without effect are left out.

        A limit of a divergence is named by what it is: `jsd` with beta 0 and a skew of 0 are KL.
        """
        kd = self.settings.kd
        named = self.plugin("divergences", kd.divergence, DIVERGENCES)
        if not isinstance(named, str):
            return {"divergence": named}
        parameters: dict[str, float | bool] = {}
        if named == "jsd":
            parameters = {"beta": kd.beta, "unit": kd.jsd_scale == "unit"}
            limit = {0.0: "forward", 1.0: "reverse"}.get(kd.beta)
        elif named.startswith("skew_"):
            parameters = {"skew": kd.skew}
            limit = named.removeprefix("skew_") if kd.skew == 0 else None
        else:
            limit = named
        return {
            "divergence": limit or named,
            "parameters": None if limit else tuple(parameters.items()),
            "unscaled": (kd.scale == "none" and kd.temperature != 1) or None,
        }

    def _teacher_outputs(self, task: str, seed: Seed, answers: Tokens) -> Learn | Annotate:
        """The teacher, to be run live, or a stage with its outputs on `answers` (`kd.teacher`)."""
        teacher, kd, train = self.teacher(task, seed), self.settings.kd, self.settings.train
        parts: tuple[LossPart, ...] = ("qa", "lm") if train.lm_weight > 0 else ("qa",)
        length = train.max_length or DEFAULT_SEQUENCE_LENGTH
        few = answers.rows * len(parts) * length <= _CACHED_POSITIONS
        # With one context length, teacher and student have the same supervised positions.
        same = train.max_length is not None or self.settings.teacher is None
        top_k, own = kd.top_k, answers.tokenizer
        uncached = kd.teacher == "auto" and top_k is None and not (few and same)
        if uncached or kd.teacher == "online":
            return teacher
        return self._once(
            ("annotate", teacher, answers, top_k),
            lambda: Annotate(
                teacher=teacher,
                tokens=answers,
                max_length=train.max_length,
                parts=parts,
                precision=train.precision,
                top_k=top_k,
                tokenizer=None if own == initial_of(teacher).tokenizer else own,
            ),
        )

    def _targets(self, task: str, seed: Seed) -> Decode | Examples:
        """Seq-KD's targets: answers from the task's `distil` file, or decoded by the teacher."""
        given = self.resolved.tasks[task].splits.get("distil")
        if given is not None:
            return self.examples(given.drawn(seed.data))
        decoding = _decoding(self.settings.kd.decode)
        draws = self._teacher_seed(seed).train if decoding.draws else None
        return self._once(
            ("decode", task, seed),
            lambda: Decode(
                teacher=self.teacher(task, seed),
                source=self.train_examples(task, seed),
                decoding=decoding,
                max_new_tokens=self.settings.evaluate.max_new_tokens,
                seed=draws,
            ),
        )

    def _quotas(self, former: Order, task: str, seed: Seed) -> tuple[Quota, ...]:
        """Divide `ceil(ratio * |D|)` samples among the former tasks.

        Equal shares are rounded down (LAMOL); `shares: size` is in proportion to the tasks' sizes.
        """
        settings = self.settings.replay
        wanted = share_of(settings.ratio, self.train_examples(task, seed).rows)
        if wanted == 0 or not former:
            return ()
        data = [self.train_examples(name, seed) for name in sorted(former)]
        total, equal = sum(one.rows for one in data), settings.shares == "equal"
        counts = [wanted // len(data) if equal else wanted * one.rows // total for one in data]
        return tuple(
            Quota(one, count) for one, count in zip(data, counts, strict=True) if count > 0
        )

    def _judges(self, quotas: tuple[Quota, ...], seed: Seed) -> tuple[Judge, ...]:
        """The judge of each quota's task; empty if `replay.agreement` is not set."""
        least, spec = self.settings.replay.agreement, self.settings.teacher
        if least is None:
            return ()
        if spec is not None and self._tokenizer_of(spec) != self._own_tokenizer:
            raise InputError(
                "the teacher has another tokenizer, and cannot read the student's samples",
                key="replay.agreement",
                got=least,
                fix="remove it",
            )
        tokens, tasks = self.settings.evaluate.max_new_tokens, self.resolved.tasks
        return tuple(
            Judge(self.teacher(task, seed), tasks[task].metric, least, tokens)
            for task in (quota.task for quota in quotas)
        )

    def _real(self, quotas: tuple[Quota, ...], seed: Seed) -> RealSamples | None:
        """Real samples, cut by the untrained model's tokenizer: the same for every method."""
        if not quotas:
            return None
        return RealSamples(
            initial=self.initial(seed),
            quotas=quotas,
            max_length=self.settings.train.max_length,
            seed=seed.replay,
        )

    def _initial(self, spec: ModelSpec, seed: Seed) -> Initial:
        pretrained = self.resolved.models.get(spec.model or "")
        return self._once(
            ("initial", spec, seed),
            lambda: Initial(
                source=pretrained,
                arch=spec.arch,
                overrides=dict(sorted(spec.overrides.items())),
                tokenizer=self._tokenizer(self._tokenizer_of(spec)),
                seed=None if pretrained else seed.train,
                shard=self.settings.train.sharding,
            ),
        )

    def _tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer of a pretrained model; of "", the one that is trained."""
        source = self.resolved.models.get(name)
        tasks = tuple(sorted(self.resolved.tasks))
        prompts = tasks if self.settings.task_prompt == "token" else None
        return self._once(
            ("tokenizer", name),
            lambda: Tokenizer(
                source=source,
                corpus=() if source else tuple(map(self.examples, self.resolved.corpus)),
                vocab_size=None if source else self.settings.tokenizer.vocab_size,
                prompts=prompts,
                owner=self.owner,
            ),
        )

    def _tokens(self, source: Examples | Decode, tokenizer: Tokenizer | None = None) -> Tokens:
        """A tokenized split; by default in the student's tokens."""
        chosen = tokenizer or self._tokenizer(self._own_tokenizer)
        return self._once(("tokens", source, chosen), lambda: Tokens(chosen, source))

    def _teacher_seed(self, seed: Seed) -> Seed:
        """The seed of teachers: `kd.teacher_seed` if set, else the replicate's."""
        one = self.settings.kd.teacher_seed
        return seed if one is None else Seed.of(one)


def _harness() -> str:
    """The version of lm-eval. Raises: InputError if it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise InputError(
            "these tasks need the package lm-eval",
            key="retention.lm_eval",
            fix="pip install 'l2kd-ray[lm-eval]'",
        ) from None


def share_of(ratio: float, rows: int) -> int:
    """`ceil(ratio * rows)`, rounded first: 0.07 * 100 in floats is slightly more than 7."""
    return math.ceil(round(ratio * rows, 6))


# Positions whose hidden states `kd.teacher: auto` keeps for a task: 3 GB at a width of 768.
_CACHED_POSITIONS = 2**21


def _decoding(settings: DecodeSettings) -> Decoding:
    """The decoding with only the fields that its strategy reads, so that others change no key."""
    found = Decoding("greedy")
    if settings.strategy == "beam":
        found = Decoding("beam", beams=settings.beams)
    elif settings.strategy == "sample":
        found = Decoding("sample", top_k=settings.top_k, temperature=settings.temperature)
    return replace(found, precision=_half(settings.precision))


def _half(precision: str) -> str | None:
    """A precision of weights; None for float32, whose stages keep their keys."""
    return None if precision == "float32" else precision
