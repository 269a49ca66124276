"""What a study may say to lifelong language models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from l2kd_ray.families.settings import FamilySettings, TrainSettings
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.section import Section
from l2kd_ray.tasks.spec import TaskSpec


class DecodeSettings(Section):
    """How an answer is decoded from a model."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    beams: int = Field(4, ge=2)
    """Read by `strategy: beam`."""
    top_k: int = Field(20, ge=1)
    """Read by `strategy: sample`, as is `temperature`."""
    temperature: float = Field(1.0, gt=0)


class DistilSettings(Section):
    """Distillation of a teacher into the student (L2KD)."""

    objective: Literal["word", "seq", "seq-soft"] = "word"
    """`word`: the teacher's distributions over the given answers; `seq`: answers that the teacher
    decoded; `seq-soft`: its distributions over those."""
    divergence: str = "forward"
    """Of the teacher's distributions from the student's, for `word` and `seq-soft`: a built-in, or
    one of your own (./file.py:name, package.module:name)."""
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(1.0, ge=0, le=1)
    """`w * KD + (1 - w) * cross-entropy` on the given answers; 1 is the paper."""
    answer_weight: Literal["keep", "drop"] = "drop"
    """Whether the class weight of `<ans>` also weighs the KD term (drop: the paper's)."""
    decode: DecodeSettings = DecodeSettings()
    """How the teacher's answers are decoded for `seq` and `seq-soft`."""
    teachers: Literal["new", "previous", "both"] = "new"
    """`new`: a teacher of the new task, on its samples (the paper); `previous`: the student before
    this task, on replayed samples (DnR, Sun et al. 2020); `both`."""
    teacher: Literal["online", "cached", "auto"] = "auto"
    """`cached`: the teacher's last hidden states are a stage of their own, in half precision, read
    by every training that shares the teacher; `auto`: cached up to some gigabytes a task."""
    top_k: int | None = Field(None, ge=1)
    """Keep a cached teacher's most likely tokens alone, the others as one class: biased, the more
    so the higher the temperature. The sweep says by how much."""
    teacher_seed: int | None = Field(None, ge=0)
    """One teacher of this seed for all replicates (default: each has its own, independent)."""

    @model_validator(mode="after")
    def _cached_only(self) -> Self:
        if self.top_k is not None and self.teacher == "online":
            raise ValueError(
                "kd.top_k needs a cached teacher: set kd.teacher to cached or auto, or drop top_k"
            )
        return self


class ReplaySettings(Section):
    """Pseudo-samples of former tasks, written by the student itself (LAMOL)."""

    ratio: float = Field(0.2, ge=0, le=10)
    top_k: int = Field(20, ge=1)
    temperature: float = Field(1.0, gt=0)
    weight: Literal["natural", "separate"] | Annotated[float, Field(ge=0)] = "natural"
    """`natural`: one mean over the batch; `separate`: replay has a mean of its own (the paper's
    L2KD); a number: how many times a replayed sample counts in the one mean."""
    shares: Literal["equal", "size"] = "equal"
    """Shares of the former tasks: equal (LAMOL), or by their number of training examples."""
    filters: tuple[str, ...] = ()
    """Beside exactly one `<ans>`: `ended` by eos; `label`: for a classification task, one of its
    labels; `duplicate`: not written before; or a plug-in (task, example) -> whether it is kept."""
    agreement: float | None = Field(None, ge=0, le=100)
    """Keep a sample where its task's own teacher, asked for its answer, scores at least this."""
    refill: bool = False
    """Write again until the quota is full (or 5 rounds are over)."""


class LoraSettings(Section):
    """Low-rank adaptation (Hu et al. 2022). New tokens' embeddings are trained beside it."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = None
    """Names of the layers (default: peft's choice for the architecture)."""


class LanguageTrainSettings(TrainSettings):
    """Training of a causal LM."""

    lm_weight: float = Field(0.25, ge=0)
    answer_weight: float = Field(5.0, gt=0)
    """Class weight of the token `<ans>` in cross-entropy."""
    bucket_batches: int = Field(1, ge=1)
    """This many batches are sorted by length together, for less padding (1: none are)."""
    average: float = Field(0.0, ge=0, lt=1)
    """Share of the student before the task in the weights after it (0: none)."""
    lora: LoraSettings | None = None
    """Train low-rank updates alone, merged into the model at the end (extra `lora`)."""


class EvaluateSettings(Section):
    """How students are asked."""

    max_new_tokens: int = Field(64, ge=1)
    """Largest number of tokens in a decoded answer."""
    decode: DecodeSettings = DecodeSettings()
    """Greedy for every arm; the original samples (`strategy: sample`)."""


class TokenizerSettings(Section):
    """The tokenizer of a student from scratch: trained, or that of a pretrained model."""

    model: str | None = None
    """A hub id or folder, such as that of a pretrained teacher."""
    revision: str | None = None
    tasks: tuple[TaskSpec, ...] | None = None
    """Tasks on whose training text it is trained (default: the study's tasks; where all of those
    are generated tasks, their whole family, so that the study can gain a task)."""
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
            raise ValueError("tokenizer.model: a pretrained student brings its own tokenizer")
        return self

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        own = self.tokenizer
        more = () if own.model is None else (ModelSpec(model=own.model, revision=own.revision),)
        return (*super().model_specs, *more)
