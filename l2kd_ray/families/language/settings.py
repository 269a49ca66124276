"""Settings of a study of lifelong language models."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from l2kd_ray.core.stage import Optimisation, Sharding
from l2kd_ray.errors import InputError
from l2kd_ray.families.language.stages.on_policy import ANSWER
from l2kd_ray.families.settings import FamilySettings, TrainOverrides, TrainSettings
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.section import Location, Section
from l2kd_ray.tasks.spec import TaskSpec


class DecodeSettings(Section):
    """How an answer is decoded from a model."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    beams: int = Field(4, ge=2)
    """Read by `strategy: beam`."""
    top_k: int = Field(20, ge=1)
    """Read by `strategy: sample`, as is `temperature`."""
    temperature: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: with weights of that type, which take half of the memory."""


class SamplingSettings(Section):
    """How the student writes answers during its training."""

    temperature: float = Field(1.0, gt=0)
    """Read unless `top_k` is 1."""
    top_k: int | None = Field(None, ge=1)
    """Most likely tokens that are drawn from (default: the whole vocabulary; 1: greedy)."""
    max_new_tokens: int = Field(64, ge=1)
    """Largest number of tokens in an answer; one that has no end by then is learned without it."""
    renew_every: int = Field(1, ge=1)
    """Steps whose answers are written at once, by the student before the first of them."""


class DistilSettings(Section):
    """Distillation of a teacher into the student (L2KD)."""

    objective: Literal["word", "seq", "seq-soft"] = "word"
    """`word`: the teacher's distributions over the given answers; `seq`: answers that the teacher
    decoded; `seq-soft`: its distributions over those."""
    divergence: str = "forward"
    """Divergence between the teacher's distribution p and the student's q, for `word` and
    `seq-soft`: `forward` is KL(p || q), `reverse` KL(q || p), `jsd` beta KL(p || m) + (1 - beta)
    KL(q || m) with m = beta p + (1 - beta) q, `skew_forward` KL(p || skew p + (1 - skew) q),
    `skew_reverse` KL(q || (1 - skew) p + skew q), `tvd` 1/2 sum |p - q|; `uld`, sum |sort(p) -
    sort(q)|, for a teacher of another tokenizer; or a plug-in (./file.py:name,
    package.module:name)."""
    beta: float = Field(0.5, ge=0, le=1)
    """Read by `jsd`: the teacher's share in the mixture; 0 is forward KL, 1 reverse KL (GKD)."""
    jsd_scale: Literal["unit", "raw"] = "unit"
    """Read by `jsd`. `unit` divides by beta (1 - beta), so that 0 and 1 are its limits; `raw` does
    not (GKD's code), so that the loss is smaller towards both ends."""
    skew: float = Field(0.1, ge=0, lt=1)
    """Read by `skew_forward`, as the teacher's share in its mixture, and by `skew_reverse`, as the
    student's; 0 is forward or reverse KL."""
    scale: Literal["T2", "none"] = "T2"
    """Factor of a built-in divergence: the squared temperature, or none (TRL, DistiLLM)."""
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(1.0, ge=0, le=1)
    """w in `w * KD + (1 - w) * cross-entropy` on the given answers; 1 is the paper's value."""
    answer_weight: Literal["keep", "drop"] = "drop"
    """`keep` applies the class weight of `<ans>` to the KD term, too; `drop` does not (the
    paper)."""
    decode: DecodeSettings = DecodeSettings()
    """How the teacher's answers are decoded for `seq` and `seq-soft`."""
    teachers: Literal["new", "previous", "both", "self"] = "new"
    """`new`: a teacher of the new task, on its samples (the paper); `previous`: the student before
    this task, on replayed samples (DnR, Sun et al. 2020); `both`; `self`: the student itself, which
    is shown the given answer, on QA rows of the new samples (SDFT, Shenfeld et al. 2026)."""
    policy: Literal["data", "student", "mix"] = "data"
    """Answers that the teacher of the new samples is asked about: those of the `data` (and, for
    `seq-soft`, the teacher's), those that the `student` writes, or a `mix`."""
    student_share: Annotated[float, Field(gt=0, lt=1)] | Literal["adaptive"] = 0.5
    """Read by `policy: mix`: the chance that a sample has an answer by the student. `adaptive`: 0
    at first, and 0.1 more after each epoch in which the loss on dev grew by 0.1 (DistiLLM)."""
    sampling: SamplingSettings = SamplingSettings()
    """How the student writes its answers."""
    self_teacher: Literal["base", "ema", "live"] = "base"
    """Read by `teachers: self`. `base`: the student before the task; `ema`: a moving average of its
    weights; `live`: its weights as they are."""
    ema_rate: float = Field(0.01, gt=0, lt=1)
    """Read by `self_teacher: ema`: what the average takes of the student's weights in each step."""
    demonstration: str | None = (
        "This is an example for a response to the question: {answer} "
        "Now answer with a response of your own:"
    )
    """Read by `teachers: self`: how the teacher is shown the given answer, after the question; null
    shows it nothing."""
    skip_tokens: int = Field(0, ge=0)
    """Read by `teachers: self`: the first tokens of an answer that are not learned, such as those
    in which a teacher refers to its demonstration."""
    teacher: Literal["online", "cached", "auto"] = "auto"
    """`online` runs the teacher on each batch. `cached` stores its last hidden states in half
    precision as a stage, read by every training that shares the teacher. `auto` caches up to some
    gigabytes per task."""
    top_k: int | None = Field(None, ge=1)
    """Store only the teacher's k most likely tokens and treat the others as one class. This biases
    the gradient, more at higher temperatures; the sweep reports by how much."""
    teacher_seed: int | None = Field(None, ge=0)
    """Seed of one teacher for all replicates (default: each replicate has its own teachers)."""

    @model_validator(mode="after")
    def _live_only(self) -> Self:
        """Refuse a cache of outputs that cannot be known before the training."""
        if self.top_k is not None and self.teacher == "online":
            raise InputError(
                "needs a cached teacher",
                key="top_k",
                got=self.top_k,
                fix="set kd.teacher to cached or auto, or drop top_k",
            )
        cached = "top_k" if self.top_k is not None else "teacher"
        if self.policy != "data" and (self.top_k is not None or self.teacher == "cached"):
            raise InputError(
                "answers that the student writes have no cached teacher: it is run on each batch",
                key=cached,
                got=getattr(self, cached),
                fix=f"drop kd.{cached}, or set kd.policy: data",
            )
        return self

    @model_validator(mode="after")
    def _one_author(self) -> Self:
        decoded = ("seq",) if self.policy == "mix" else ("seq", "seq-soft")
        if self.policy != "data" and self.objective in decoded:
            raise InputError(
                "answers that the student writes take the place of those that the teacher decoded",
                key="objective",
                got=self.objective,
                expected="word, or seq-soft with kd.policy: mix",
                fix="set kd.objective: word, or kd.policy: data",
            )
        return self

    @field_validator("demonstration")
    @classmethod
    def _shows_the_answer(cls, template: str | None) -> str | None:
        if template is not None and template.count(ANSWER) != 1:
            raise InputError(
                "a demonstration shows the given answer once",
                key="demonstration",
                got=template,
                expected=f"a text with {ANSWER}, or null",
            )
        return template


class ReplaySettings(Section):
    """Pseudo-samples of former tasks, generated by the student itself (LAMOL)."""

    ratio: float = Field(0.2, ge=0, le=10)
    top_k: int = Field(20, ge=1)
    temperature: float = Field(1.0, gt=0)
    weight: Literal["natural", "separate"] | Annotated[float, Field(ge=0)] = "natural"
    """`natural`: one mean over the batch; `separate`: a mean of its own for replay (the paper's
    L2KD); a number: the weight of a replayed sample in the one mean."""
    shares: Literal["equal", "size"] = "equal"
    """Shares of the former tasks: equal (LAMOL), or in proportion to their training examples."""
    filters: tuple[str, ...] = ()
    """Conditions beside exactly one `<ans>`: `ended`, it ends with eos; `label`, a classification
    task's answer is one of its labels; `duplicate`, it was not generated before; or a plug-in
    (task, example) -> True to keep it."""
    agreement: float | None = Field(None, ge=0, le=100)
    """Keep a sample only if its task's teacher, answering its question, agrees with its answer: the
    task's metric is at least this."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: samples are drawn with weights of that type, which take half of the memory."""
    refill: bool = False
    """Generate again until the quota is full, at most 5 rounds."""


class LoraSettings(Section):
    """Low-rank adaptation (Hu et al. 2022), by peft's names. New tokens' embeddings are trained,
    too."""

    r: int = Field(8, ge=1)
    lora_alpha: int = Field(16, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] | None = None
    """Names of the layers, or all but the output layer (default: peft's choice for the
    architecture)."""
    load_in_4bit: bool = False
    """Keep the layers' own weights in 4 bits (nf4) during the training (QLoRA, Dettmers et al.
    2023; needs the extra `qlora`). The updates are merged into the weights as they were."""


class FsdpSettings(Section):
    """How a model is shared out, by Hugging Face's names."""

    reshard_after_forward: bool = True
    """False keeps a layer whole from its forward to its backward pass: faster, more memory."""
    cpu_offload: bool = False
    """Keep the chunks, and step the optimizer, in the host's memory."""
    transformer_layer_cls_to_wrap: tuple[str, ...] = ()
    """Classes of the modules that are put together one at a time (default: the model's layers)."""


class LanguageTrainSettings(TrainSettings):
    """Training of a causal LM."""

    lm_weight: float = Field(0.25, ge=0)
    answer_weight: float = Field(5.0, gt=0)
    """Class weight of the token `<ans>` in cross-entropy."""
    bucket_batches: int = Field(1, ge=1)
    """Number of batches sorted by length together, which reduces padding (1: no sorting)."""
    average: float = Field(0.0, ge=0, lt=1)
    """Weight of the student before the task in the average with the one after it (0: none)."""
    lora: LoraSettings | None = None
    """Train only low-rank updates, merged into the model at the end (needs the extra `lora`)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    shard: Literal["none", "fsdp2"] = "none"
    """`fsdp2`: the workers of a training share out student, teachers, gradients and the optimizer's
    moments, instead of having them whole each."""
    fsdp_config: FsdpSettings = FsdpSettings()

    def optimisation(self, overrides: TrainOverrides | None = None) -> Optimisation:
        return replace(
            super().optimisation(overrides),
            gradient_checkpointing=self.gradient_checkpointing,
            shard=self.sharding,
        )

    @property
    def sharding(self) -> Sharding | None:
        """How models are shared out; None if each worker has them whole."""
        if self.shard == "none":
            return None
        own = self.fsdp_config
        layers = own.transformer_layer_cls_to_wrap
        return Sharding(own.reshard_after_forward, own.cpu_offload, layers)


class EvaluateSettings(Section):
    """Decoding of students' answers in evaluation."""

    max_new_tokens: int = Field(64, ge=1)
    """Largest number of tokens in a decoded answer."""
    decode: DecodeSettings = DecodeSettings()
    """Greedy by default, for every arm; the original code samples (`strategy: sample`)."""


class TokenizerSettings(Section):
    """The tokenizer of a student from scratch: trained, or that of a pretrained model."""

    model: Location | None = None
    """Hub id or folder of a model whose tokenizer is used, such as a pretrained teacher's."""
    revision: str | None = None
    tasks: tuple[TaskSpec, ...] | None = None
    """Tasks on whose training text it is trained. Default: the study's tasks; if all of those are
    generated tasks, their whole family, so that adding one keeps the tokenizer."""
    vocab_size: int = Field(1024, ge=260)


class LanguageSettings(FamilySettings):
    """The sections of a study of lifelong language models."""

    tokenizer: TokenizerSettings = TokenizerSettings()
    task_prompt: Literal["token", "text"] = "token"
    kd: DistilSettings = DistilSettings()
    replay: ReplaySettings = ReplaySettings()
    train: LanguageTrainSettings = LanguageTrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if self.tokenizer.model is not None and self.student.model is not None:
            raise InputError(
                "a pretrained student brings its own tokenizer",
                key="tokenizer.model",
                got=self.tokenizer.model,
                fix="remove it",
            )
        return self

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        own = self.tokenizer
        more = () if own.model is None else (ModelSpec(model=own.model, revision=own.revision),)
        return (*super().model_specs, *more)
