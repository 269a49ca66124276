"""What a study may say: one YAML file as frozen, checked values. Unknown keys are refused.

Everything here is about the *form* of a study; what its tasks and models resolve to (digests,
commits, row counts) is found by `l2kd_ray.tasks` and written into the resolved study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)


class InputError(ValueError):
    """Bad input, refused at the door (exit code 2). `str()` is what the user reads.

    `where` is the file (and line) or the study; `key` the dotted key in it; `got` the value found;
    `expected` what would do; `mend` the way out.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str = "",
        key: str = "",
        got: object = None,
        expected: str = "",
        mend: str = "",
    ) -> None:
        self.problem, self.where, self.key = problem, where, key
        self.got, self.expected, self.mend = got, expected, mend
        place = ": ".join(part for part in (where, key) if part)
        lines = [f"{place}: {problem}" if place else problem]
        if got is not None:
            lines.append(f"  got:      {_short(got)}")
        if expected:
            lines.append(f"  expected: {expected}")
        if mend:
            lines.append(f"  mend:     {mend}")
        super().__init__("\n".join(lines))


def _short(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Section(BaseModel):
    """A frozen mapping of the study file that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


# One name of a task, of a study, of an arm: it becomes part of paths, columns and tokens.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]
TaskKind = Literal["text-to-text", "classify", "pair", "regress", "tag", "parse"]
"""`pair`: which label two texts have; `regress`: which number a text, or a pair, has; `tag` and
`parse`: a label a word."""
Format = Literal[
    "squad", "jsonl", "csv", "rnnlg", "e2e", "woz", "wikisql", "conll", "conllu", "text"
]
Split = Literal["train", "dev", "test"]
Part = Split | Literal["distil"]
"""A split, or the training split with a teacher's answers."""
Metric = Literal[
    "em", "nf1", "rouge", "bleu", "dsem", "lfem",
    "f1", "mcc", "pearson", "spearman", "span_f1", "uas", "las",
]  # fmt: skip
Extra = Metric | Literal["slot_error"]
"""A score beside a task's metric; of a metric more is better, so that it may decide."""
Objective = Literal["word", "seq", "seq-soft"]
LossPart = Literal["qa", "lm"]
ReplayFilter = Literal["ended", "label", "duplicate"]


class TaskSpec(Section):
    """A task of the study: a name of the registry, or a user's own files, or a hub dataset."""

    name: Name
    kind: TaskKind | None = None
    train: Path | None = None
    dev: Path | None = None
    test: Path | None = None
    distil: Path | None = None
    """The training split with answers that a teacher decoded: SQuAD-like JSON, row for row."""
    format: Format | None = None
    hub: str | None = Field(None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$")
    config: str | None = None
    revision: str | None = None
    splits: Mapping[Split, str] = Field(default_factory=dict)
    """The hub's names of the splits, where they differ from train, dev (validation) and test."""
    columns: Mapping[Literal["context", "question", "answer", "text", "label", "id"], str] = Field(
        default_factory=dict
    )
    labels: tuple[str, ...] = ()
    """Texts of integer labels, by number."""
    scheme: Literal["bioes", "iob2"] | None = None
    """What tags are converted to (default: bioes)."""
    question: str | None = None
    metric: Metric | None = None
    max_train: int | None = Field(None, ge=1)
    max_dev: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
    dev_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of train that becomes dev where upstream has no dev split."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class ModelSpec(Section):
    """A causal LM, or an encoder of classifiers: a hub id or folder (`model`), or an architecture
    trained from scratch (`bilstm` for classifiers and taggers, beside those of transformers).

    `{arch: gpt2, n_layer: 2, n_embd: 128}`: every key but `arch` is a field of that architecture's
    transformers config.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    arch: str | None = None
    layers: int | None = Field(None, ge=1)
    """Of an encoder, its first ones alone (MKD, Meta-KD)."""
    vectors: str | None = None
    """Word vectors in GloVe's text format, for `arch: bilstm`."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.model is None) == (self.arch is None):
            raise ValueError("exactly one of `model` (hub id or folder) and `arch` is needed")
        if self.model is not None and self.overrides:
            raise ValueError(f"unknown keys beside `model`: {', '.join(sorted(self.overrides))}")
        if self.layers is not None and self.model is None:
            raise ValueError("layers: of a pretrained encoder; from scratch, num_hidden_layers")
        if self.vectors is not None and self.arch != "bilstm":
            raise ValueError("vectors: of words, for arch: bilstm")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Decoding(Section):
    """How an answer is decoded from a model."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    beams: int = Field(4, ge=2)
    top_k: int = Field(20, ge=1)
    temperature: float = Field(1.0, gt=0)

    def normalised(self) -> Decoding:
        """What the strategy does not read is at its default."""
        read = {"greedy": set(), "beam": {"beams"}, "sample": {"top_k", "temperature"}}
        return Decoding(strategy=self.strategy, **self.model_dump(include=read[self.strategy]))

    @property
    def draws(self) -> bool:
        return self.strategy == "sample"


class Distillation(Section):
    """Distillation of a teacher into the student (L2KD)."""

    objective: Objective = "word"
    """`word`: the teacher's distributions over the given answers; `seq`: answers that the teacher
    decoded; `seq-soft`: its distributions over those."""
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(1.0, ge=0, le=1)
    """`w * KD + (1 - w) * cross-entropy` on the given answers; 1 is the paper."""
    answer_weight: Literal["keep", "drop"] = "drop"
    """Whether the class weight of `<ans>` also weighs the KD term (drop: the paper's)."""
    decode: Decoding = Decoding()
    """How the teacher's answers are decoded for `seq` and `seq-soft`."""
    teachers: Literal["new", "previous", "both"] = "new"
    """`new`: a teacher of the new task, on its samples (the paper); `previous`: the student before
    this task, on replayed samples (DnR, Sun et al. 2020); `both`."""
    teacher: Literal["online", "cached", "auto"] = "auto"
    """`cached`: the teacher's last hidden states are a stage of their own, in half precision, read
    by every training that shares the teacher; `auto`: cached up to some gigabytes a task."""
    top_k: int | None = Field(None, ge=1)
    """Of a cached teacher, keep its most likely tokens alone, the others as one class: biased, the
    more so the higher the temperature. The sweep says by how much."""
    teacher_seed: int | None = Field(None, ge=0)
    """One teacher of this seed for all replicates; not set: each has its own (independent)."""

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.top_k is not None and self.teacher == "online":
            raise ValueError("top_k: of a cached teacher; one that is asked online says all")
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
    """Of the former tasks: equal (LAMOL), or in proportion to their training examples."""
    filters: tuple[ReplayFilter, ...] = ()
    """Beside exactly one `<ans>`: `ended` by eos; `label`: for a classification task, one of its
    labels; `duplicate`: not written before."""
    agreement: float | None = Field(None, ge=0, le=100)
    """Keep a sample where its task's own teacher, asked for its answer, scores at least this."""
    refill: bool = False
    """Write again until the quota is full (or 5 rounds are over)."""


class Elastic(Section):
    """A quadratic penalty on leaving the former student, by parameter importance (EWC, MAS)."""

    strength: float = Field(100.0, ge=0)
    samples: int = Field(128, ge=1)
    """Training examples of a task that its importance is measured on."""


class EpisodicMemory(Section):
    """Real samples of former tasks whose loss may not grow (GEM)."""

    ratio: float = Field(0.05, gt=0, le=1)
    """Share of a task's training examples that is kept."""
    margin: float = Field(0.5, ge=0)


class MultiTaskKD(Section):
    """Distillation by logit regression (MKD, Liu et al. 2019); `kd.weight` 1 has no label term."""

    teacher: Literal["joint", "single"] = "joint"
    """One teacher refined on all tasks, or each task's own."""
    student: Literal["joint", "single"] = "joint"
    """One student of all tasks, one task a mini-batch; or one a task."""
    over: Literal["mean", "sum"] = "mean"
    """The squared errors of a task's logits: their mean, or the sum."""
    finetune_epochs: int = Field(0, ge=0)
    """The joint student is then trained on each task's labels."""


class MetaKD(Section):
    """Distillation across domains (Meta-KD, Pan et al. 2021): tasks are domains of one label set.

    `kd.temperature` is that of the prediction loss.
    """

    teacher: Literal["meta", "multitask", "all", "single"] = "meta"
    """`meta`: all domains, by prototype scores and domain corruption; `all`: all domains as one;
    `multitask`: all domains, a head each; `single`: each domain's own."""
    prototypes: bool = True
    """Whether examples count by how typical they are."""
    centroid: Literal["domain_class", "domain"] = "domain_class"
    others: Literal["mean_of_cosines", "cosine_of_mean"] = "mean_of_cosines"
    alpha: float = Field(0.5, ge=0, le=1)
    raw: bool = False
    """Scores below 0 count as they are (the paper), not as 0."""
    corruption: float = Field(0.5, ge=0)
    """gamma 1: the weight of the loss against false domains."""
    hidden: float = Field(1.0, ge=0)
    attention: float = Field(1.0, ge=0)
    transfer: float = Field(0.5, ge=0)
    """gamma 2: the weight of transferable knowledge; without effect but for a meta-teacher that
    learnt against false domains."""
    prediction: float = Field(1.0, ge=0)
    expertise: bool = True
    """Whether an example counts by how well the teacher knows it."""
    stages: Literal["one", "two"] = "one"
    """`two`: first hidden states, attention and transferable knowledge, then the prediction."""
    leave_out: bool = False
    """The student's own domain is left out of its teacher."""
    share: float = Field(1.0, gt=0, le=1)
    """Of a domain's training examples, what the student sees; its teacher sees all."""


def _text(value: object) -> object:
    """YAML reads `3` as a number."""
    return str(value) if isinstance(value, int) else value


class StructuralKD(Section):
    """Distillation of structured predictors (Structural KD, Wang et al. 2021).

    `kd.weight` is the weight of distillation before it is annealed (0: no distillation), and
    `kd.temperature` tempers the scores of teacher and student.
    """

    case: Annotated[
        Literal["1a", "1b", "2a", "2b", "3", "4", "tree", "projective"], BeforeValidator(_text)
    ] = "1a"
    """What teacher and student compute: chain => chain (1a), biaffine => labelling (1b), chain =>
    token (2a), second-order => labelling (2b), token => chain (3), spans => token (4), biaffine
    => trees (tree, projective)."""
    objective: Literal["structural", "token", "posterior", "top-k", "top-wk"] = "structural"
    anneal: float = Field(1.0, ge=0)
    """The weight falls to 0 within 1 / anneal of the training (0: it stays)."""
    k: int = Field(10, ge=1)
    """Sequences of top-k and top-wk."""
    scope: Literal["global", "local"] = "global"
    """`local`, the released code's, tempers marginals: to reproduce."""
    unlabelled: int = Field(0, ge=0)
    """Sentences without labels beside each task's own, from what its cap left of training."""


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2022). New tokens' embeddings are trained beside it."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = None
    """Names of the layers (default: peft's choice for the architecture)."""


class Training(Section):
    """Optimisation of every training stage. Batch sizes are of the global batch."""

    epochs: int = Field(9, ge=1)
    batch_size: int = Field(16, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    """Examples a forward pass holds at most; smaller batches are accumulated."""
    lr: float = Field(6.25e-5, gt=0)
    adam_eps: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.005, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    lm_weight: float = Field(0.25, ge=0)
    answer_weight: float = Field(5.0, gt=0)
    """Class weight of the token `<ans>` in cross-entropy."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: matrix products by autocast; weights, losses and the optimizer stay float32."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of a training sequence at most (the model's context where not set)."""
    bucket_batches: int = Field(1, ge=1)
    """So many batches are sorted by length together, for less padding (1: none are)."""
    rungs: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """A student's training is a chain of stages that end after so many epochs, the last one after
    all: what `tune.scheduler: asha` may cut (MKD, Structural KD)."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without a better dev score, and keep the best (taggers, parsers).
    Such a training, killed, begins anew."""
    average: float = Field(0.0, ge=0, lt=1)
    """Share of the student before the task in the weights after it (0: none)."""
    lora: Lora | None = None
    """Train low-rank updates alone, merged into the model at the end (extra `lora`)."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rungs = self.rungs or (self.epochs,)
        if list(rungs) != sorted(set(rungs)) or rungs[-1] != self.epochs:
            raise ValueError(
                f"rungs rise, and end with the epochs: {list(rungs)} for {self.epochs} epochs"
            )
        if self.rungs and self.patience:
            raise ValueError("rungs and patience: a training that may stop early has no parts")
        return self

    @property
    def parts(self) -> tuple[LossPart, ...]:
        """The rows that a sample gives: question answering and, with a weight, language model."""
        return ("qa", "lm") if self.lm_weight > 0 else ("qa",)


class TrainingOverrides(Section):
    """What differs from `train` for some models."""

    epochs: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=1)


class Evaluation(Section):
    max_new_tokens: int = Field(64, ge=1)
    """Tokens of a decoded answer at most."""
    decode: Decoding = Decoding()
    """Greedy for every arm; the original samples (`strategy: sample`)."""


class TokenizerSettings(Section):
    """The tokenizer of a student from scratch: trained, or that of a pretrained model."""

    model: str | None = None
    """A hub id or folder, such as that of a pretrained teacher."""
    revision: str | None = None
    tasks: tuple[TaskSpec, ...] | None = None
    """Whose training text it is trained on (default: the study's tasks; where all of those are
    generated tasks, their whole family, so that the study can gain a task)."""
    vocab_size: int = Field(1024, ge=260)


class Arm(Section):
    """A method of the study; `settings` lets one study hold several versions of a method."""

    name: Name
    method: str
    settings: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value, "method": value}
        if isinstance(value, Mapping) and "method" not in value and "name" in value:
            return {**value, "method": value["name"]}
        return value


class Grid(Section):
    grid: tuple[Any, ...] = Field(min_length=1)

    def examples(self) -> tuple[Any, ...]:
        """Values that the searched setting must take."""
        return self.grid


class Range(Section):
    """A continuous or integer range to draw from; exactly one of the fields."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = self.model_fields_set
        if len(given) != 1:
            raise ValueError("exactly one of grid, uniform, loguniform, randint, choice is needed")
        for name in ("uniform", "loguniform", "randint"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: the first bound must be below the second")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError("loguniform: bounds must be above 0")
        return self

    def examples(self) -> tuple[Any, ...]:
        """Values that the searched setting must take: the ends of the range, or every choice."""
        if self.randint is not None:
            return self.randint[0], self.randint[1] - 1
        bounds = self.uniform or self.loguniform
        if bounds is not None:  # a value between, too: a setting may take whole numbers only
            return (*bounds, bounds[0] + 0.37 * (bounds[1] - bounds[0]))
        return self.choice or ()


class Stop(Section):
    """When a sweep may end before its last trial."""

    half_width: float | None = Field(None, gt=0)
    """Of the 95 % interval of `metric` of `method`, valid at the planned looks."""
    method: str | None = None
    """The arm whose interval it is (default: the first of the study)."""
    metric: Literal["gap/abs", "cl/avg", "cl/forgetting_max"] = "gap/abs"
    budget_hours: float | None = Field(None, gt=0)
    """Of wall clock, for one run of the command."""


class SelectOn(Section):
    """Settings are selected on one half of the instances, and reported on the other."""

    orders: Literal["half"] | None = None
    seeds: Literal["half"] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.orders is None and self.seeds is None:
            raise ValueError("say orders: half, or seeds: half, or both")
        return self


class TuneSettings(Section):
    num_samples: int = Field(1, ge=1)
    """Settings drawn (with a grid: draws per point of the grid)."""
    searcher: Literal["random", "optuna"] = "random"
    scheduler: Literal["none", "race", "asha"] = "none"
    """`race`: settings run on common instances, order by order, and those that cannot win by a
    sequentially valid test are given up. `asha`: of methods without an order, settings that fall
    behind on dev after one of `train.rungs` are cut (Li et al. 2020)."""
    reduction: int = Field(3, ge=2)
    """Of the settings at a rung, ASHA lets one in so many go on."""
    stop: Stop = Stop()
    select_on: SelectOn | None = None
    """Also as `search.select_on`."""
    seed: int = Field(0, ge=0)
    max_concurrent: int | None = Field(None, ge=1)

    @property
    def adaptive(self) -> bool:
        """Whether settings are proposed, or cut, as results come in."""
        return self.searcher == "optuna" or self.scheduler == "asha"

    @field_validator("scheduler", mode="before")
    @classmethod
    def _no_pruning_of_orders(cls, value: object) -> object:
        if value in ("hyperband", "median", "pbt"):
            raise ValueError(
                f"{value} would stop single orders early, and the mean over orders would be one "
                "over the easy ones; `race` gives up settings, on common orders and seeds"
            )
        return value


class Workers(Section):
    """The machine a kind of stage asks for."""

    workers: (
        Annotated[int, Field(ge=1)]
        | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    ) = 1
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    labels: Mapping[str, str] = Field(default_factory=dict)
    """Of the nodes that may do it, as `{ray.io/market-type: on-demand}` (default: any node)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError("workers: [minimum, maximum] with minimum <= maximum")
        return self

    @property
    def maximum(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class Scale(Workers):
    """Workers of every stage, and by kind of stage where it differs."""

    learn: Workers | None = None
    multitask: Workers | None = None
    replay: Workers | None = None
    decode: Workers | None = None
    evaluate: Workers | None = None
    """These three share out what they generate; one worker each unless it says otherwise here."""
    checkpoint_seconds: float = Field(60.0, gt=0)
    """A training stage saves itself this often, to resume after a fault."""

    def of(self, kind: str) -> Workers:
        own: Workers | None = getattr(self, kind, None)
        if own is not None:
            unset = {
                name: getattr(self, name)
                for name in Workers.model_fields
                if name not in own.model_fields_set
            }
            return own.model_copy(update=unset)
        plain = {name: getattr(self, name) for name in Workers.model_fields}
        if kind not in ("learn", "multitask"):
            plain["workers"] = 1
        if kind in ("tokenizer", "tokens", "initial"):
            plain["gpus_per_worker"] = 0
        return Workers(**plain)


class WandbSettings(Section):
    project: str = "l2kd"
    entity: str | None = None
    mode: Literal["auto", "offline", "online", "disabled"] = "auto"
    """auto: online where a key is set, else offline."""
    students: bool = False
    """Each trial's run has its final student as an artifact, too."""


class Seed(Section):
    """The seeds of one replicate."""

    train: int = Field(ge=0)
    replay: int = Field(ge=0)

    def __str__(self) -> str:
        return str(self.train) if self.train == self.replay else f"{self.train}x{self.replay}"


class CrossedSeeds(Section):
    train: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    replay: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class RandomOrders(Section):
    random: int = Field(ge=1)


def _split_orders(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item.split(">") if isinstance(item, str) else item for item in value]
    return value


Orders = Annotated[
    Literal["all", "williams"]
    | RandomOrders
    | Annotated[tuple[tuple[str, ...], ...], Field(min_length=1)],
    BeforeValidator(_split_orders),
]

REFERENCES = ("multitask", "single", "multilm", "teacher")
"""What students are measured against and has no order: all tasks at once; each task alone;
all tasks at once by the LM loss too, where a study names it among its methods; the teachers, where
they are other models than students."""

# The names that users of the original code know, and ours.
ALIASES = {
    "gen_lm_sample_percentage": "replay.ratio",
    "top_k_lm": "replay.top_k",
    "temperature_lm": "replay.temperature",
    "lm_lambda": "train.lm_weight",
    "temperature_kd": "kd.temperature",
    "tokens_weight": "train.answer_weight",
    "n_train_epochs": "train.epochs",
    "learning_rate": "train.lr",
    "adam_epsilon": "train.adam_eps",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.clip",
    "n_warmup_ratio": "train.warmup",
    "train_batch_size": "train.batch_size",
    "max_len": "train.max_length",
    "model_name": "student.model",
}


class StudyConfig(Section):
    """A study file."""

    name: Name
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    data_dir: Path | None = None
    orders: Orders = "all"
    seeds: (
        Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | CrossedSeeds
    ) = (531,)
    data_seed: int = Field(0, ge=0)
    methods: tuple[Arm, ...] = (
        Arm(name="finetune", method="finetune"),
        Arm(name="lamol", method="lamol"),
        Arm(name="l2kd", method="l2kd"),
    )
    student: ModelSpec
    teacher: ModelSpec | None = None
    tokenizer: TokenizerSettings = TokenizerSettings()
    task_prompt: Literal["token", "text"] = "token"
    kd: Distillation = Distillation()
    replay: ReplaySettings = ReplaySettings()
    ewc: Elastic = Elastic()
    mas: Elastic = Elastic()
    gem: EpisodicMemory = EpisodicMemory()
    train: Training = Training()
    multitask: TrainingOverrides = TrainingOverrides()
    """The multi-task bound has one setting, whatever is searched."""
    teaching: TrainingOverrides = TrainingOverrides()
    """Of teachers that are other models than students (MKD, Meta-KD, Structural KD)."""
    mkd: MultiTaskKD = MultiTaskKD()
    metakd: MetaKD = MetaKD()
    structkd: StructuralKD = StructuralKD()
    evaluate: Evaluation = Evaluation()
    max_train: int | None = Field(None, ge=1)
    max_dev: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
    search: Mapping[str, Grid | Range] = Field(default_factory=dict)
    tune: TuneSettings = TuneSettings()
    scale: Scale = Scale()
    storage: str = "./l2kd_results"
    keep: Literal["all", "leaves"] = "all"
    """leaves: a model that others were trained from is removed once nothing needs it any more;
    scores and manifests stay."""
    share: bool = True
    """false: every trial does all of its own stages (to measure what sharing saves)."""
    wandb: WandbSettings = WandbSettings()

    @field_validator("seeds", "tasks", "methods", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [task.name for task in self.tasks]
        _refuse_twice(names, "tasks")
        _refuse_twice([arm.name for arm in self.methods], "methods")
        for arm in self.methods:
            if arm.name in ("multitask", "single", "teacher"):
                raise ValueError(f"methods: {arm.name} is a reference, which is always run")
            if (arm.name == "multilm") != (arm.method == "multilm") or (
                arm.method == "multilm" and arm.settings
            ):
                raise ValueError("methods: multilm is a reference and goes by that name alone")
        _refuse_twice([str(seed) for seed in self.replicates], "seeds")
        if isinstance(self.orders, tuple):
            _refuse_twice([">".join(order) for order in self.orders], "orders")
            for order in self.orders:
                _refuse_twice(list(order), f"orders: {'>'.join(order)}")
                if sorted(order) != sorted(names):
                    raise ValueError(
                        f"orders: {'>'.join(order)} is not an order of the tasks {', '.join(names)}"
                    )
        self._check_stops()
        if self.tokenizer.model is not None and self.student.model is not None:
            raise ValueError("tokenizer.model: a pretrained student brings its own tokenizer")
        adaptive = self.tune.adaptive
        grids = [key for key, space in self.search.items() if isinstance(space, Grid)]
        if adaptive and grids:
            raise ValueError(
                f"search.{grids[0]}: an adaptive search draws settings and takes no grid; write "
                "choice: [...]"
            )
        if self.tune.scheduler == "asha" and self.train.rungs is None:
            raise ValueError(
                "tune.scheduler: asha cuts trainings at train.rungs, of methods without an order; "
                "cutting single orders would make the mean over orders one over the easy ones "
                "(`race` gives up settings, on common orders and seeds)"
            )
        return self

    def _check_stops(self) -> None:
        """Raises: ValueError for ways to stop that cannot be had together, or in this study."""
        tune, names = self.tune, [arm.name for arm in self.arms]
        ways = {
            "an adaptive search (optuna, asha)": tune.adaptive,
            "tune.scheduler: race": tune.scheduler == "race",
            "search.select_on": tune.select_on is not None,
            "tune.stop.half_width": tune.stop.half_width is not None,
        }
        chosen = [name for name, on in ways.items() if on]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} cannot be had together")
        if tune.stop.method is not None and tune.stop.method not in names:
            raise ValueError(f"tune.stop.method: {tune.stop.method} is none of {', '.join(names)}")
        if tune.stop.half_width is not None and self.search:
            raise ValueError("tune.stop.half_width is of one setting: fix what `search` searches")
        if chosen and not self.search and "tune.stop.half_width" not in chosen:
            raise ValueError(f"{chosen[0]} has no effect: nothing is searched")

    @property
    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Whatever a hub or folder is asked for: the student, the teacher, the tokenizer."""
        specs, tokenizer = [self.student, self.teacher], self.tokenizer
        if tokenizer.model is not None:
            specs.append(ModelSpec(model=tokenizer.model, revision=tokenizer.revision))
        return tuple(spec for spec in specs if spec is not None)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The methods that learn the tasks in an order."""
        return tuple(arm for arm in self.methods if arm.name not in REFERENCES)

    @property
    def replicates(self) -> tuple[Seed, ...]:
        """The seeds of the study, each an independent replicate (or a crossed pair)."""
        if isinstance(self.seeds, CrossedSeeds):
            return tuple(
                Seed(train=train, replay=replay)
                for train in self.seeds.train
                for replay in self.seeds.replay
            )
        return tuple(Seed(train=seed, replay=seed) for seed in self.seeds)


def _refuse_twice(values: Sequence[str], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{what}: {value} is named twice")


def read_study(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read and check a study file; `overrides` are dotted keys, as on the command line.

    Raises:
        InputError: the file is missing, is no YAML, or says what a study may not say.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the study file",
            where=str(path),
            got=getattr(error, "strerror", None) or str(error),
            expected="a YAML file; the shipped ones lie in tune_configs/",
        ) from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}", where=line
        ) from None
    if not isinstance(data, dict):
        raise InputError("a study is a mapping", where=str(path), got=data, expected="key: value")
    return parse_study(data, overrides, where=str(path))


def parse_study(
    data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, where: str = "study"
) -> StudyConfig:
    """Check a study given as a mapping. A searched key that is overridden is fixed."""
    merged = _expand_aliases(dict(data), where)
    for key, value in (overrides or {}).items():
        _assign(merged, ALIASES.get(key, key), value, where)
    search = merged.get("search")
    if isinstance(search, Mapping) and "select_on" in search:
        merged["search"] = {key: space for key, space in search.items() if key != "select_on"}
        _assign(merged, "tune.select_on", search["select_on"], where)
    try:
        study = StudyConfig.model_validate(merged)
        for key, space in study.search.items():
            for value in space.examples():
                with_settings(study, {key: value})
        for arm in study.methods:
            with_settings(study, arm.settings)
    except ValidationError as error:
        raise _as_input_error(error, where) from None
    except KeyError as error:
        raise InputError(
            "no such setting", where=where, key=str(error.args[0]), expected=_SEARCHABLE
        ) from None
    return study


# What may be searched or differ between the arms of one study: settings, not the study's frame.
SETTINGS = (
    *("student", "teacher", "kd", "replay", "ewc", "mas", "gem"),
    *("mkd", "metakd", "structkd", "train"),
)
_SEARCHABLE = f"a dotted key below {', '.join(SETTINGS)}, such as kd.temperature"


def with_settings(study: StudyConfig, settings: Mapping[str, Any]) -> StudyConfig:
    """The study with dotted settings put in place, checked again.

    Raises:
        KeyError: a key that is no setting.
        ValidationError: a value that the setting does not take.
    """
    data = study.model_dump(exclude_unset=True)
    for key, value in settings.items():
        section, *names = key.split(".")
        if section not in SETTINGS or not names or names[0] in ("model", "revision"):
            raise KeyError(key)
        below = data
        for name in (section, *names[:-1]):
            below[name] = dict(below.get(name) or {})
            below = below[name]
        below[names[-1]] = value
    return StudyConfig.model_validate(data)


@dataclass(frozen=True)
class Revisions:
    """The commits of a study's hub models (by id) and of its tasks' hub datasets (by task)."""

    models: Mapping[str, str]
    tasks: Mapping[str, str]

    @classmethod
    def of(cls, study: StudyConfig) -> Revisions:
        specs = study.model_specs
        models = {spec.model: spec.revision for spec in specs if spec.model and spec.revision}
        tasks = {task.name: task.revision for task in study.tasks if task.revision}
        return cls(models, tasks)

    def pin(self, study: StudyConfig) -> StudyConfig:
        """The study with these commits where it names none: a hub is resolved once."""

        def pinned(spec: ModelSpec | None) -> ModelSpec | None:
            commit = self.models.get(spec.model or "") if spec is not None else None
            if spec is None or spec.revision or commit is None:
                return spec
            return spec.model_copy(update={"revision": commit})

        tasks = tuple(
            task.model_copy(update={"revision": self.tasks[task.name]})
            if task.name in self.tasks and not task.revision
            else task
            for task in study.tasks
        )
        changed: dict[str, object] = {"student": pinned(study.student), "tasks": tasks}
        if study.teacher is not None:
            changed["teacher"] = pinned(study.teacher)
        commit = self.models.get(study.tokenizer.model or "")
        if commit is not None and not study.tokenizer.revision:
            changed["tokenizer"] = study.tokenizer.model_copy(update={"revision": commit})
        return study.model_copy(update=changed)


def _expand_aliases(data: dict[str, Any], where: str) -> dict[str, Any]:
    for alias, key in ALIASES.items():
        if alias in data:
            section, _, name = key.partition(".")
            if name in (data.get(section) or {}):
                raise InputError(
                    f"is said twice: as {key} and by its alias",
                    where=where,
                    key=alias,
                    mend=f"keep {key}",
                )
            _assign(data, key, data.pop(alias), where)
    return data


def _assign(data: dict[str, Any], dotted: str, value: object, where: str) -> None:
    search = data.get("search")
    if isinstance(search, Mapping) and dotted in search:
        data["search"] = {key: space for key, space in search.items() if key != dotted}
    *parents, last = dotted.split(".")
    if parents and parents[0] == "search":  # search keys are themselves dotted
        parents, last = ["search"], dotted.partition(".")[2]
    for parent in parents:
        below = data.get(parent)
        if below is not None and not isinstance(below, Mapping):
            raise InputError("has no keys below it", where=where, key=dotted, got=below)
        data[parent] = dict(below or {})
        data = data[parent]
    data[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of the command line; the value is YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(
            "an override is key=value", got=text, expected="for instance kd.temperature=2"
        )
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError("the value is not valid YAML", key=key, got=value) from None


def _as_input_error(error: ValidationError, where: str) -> InputError:
    problems = error.errors(include_url=False)
    # A union reports each branch; the deepest location is the branch that the user meant.
    first = max(problems, key=lambda problem: len(problem["loc"]))
    location = [part for part in first["loc"] if not _is_branch(part)]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return InputError(
            "unknown key",
            where=where,
            key=".".join(map(str, location)),
            got=first["input"],
            expected=_known_keys(location),
        )
    if first["type"] == "missing":
        return InputError("a key is missing", where=where, key=".".join(map(str, location)))
    got = None if isinstance(first["input"], dict) and not location else first["input"]
    return InputError(
        "not accepted", where=where, key=".".join(map(str, location)), got=got, expected=message
    )


def _is_branch(part: object) -> bool:
    """Whether a part of a pydantic location names a branch of a union and not a key."""
    return isinstance(part, str) and (
        "[" in part
        or part in {"float", "int", "str", "RandomOrders", "CrossedSeeds", "Grid"}
        or part in {"Range", "Workers"}
    )


def _known_keys(location: Sequence[object]) -> str:
    model: Any = StudyConfig
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not found:
            return ""
        model = found[0]
    return "one of " + ", ".join(getattr(model, "model_fields", {}))


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    __import__("re").compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.inf|\.nan)$".replace(r"\.inf|\.nan", r"\.inf")
    ),
    list("-+0123456789."),
)
