"""The wiring: another value of a setting, in the YAML, changes what a stage leaves behind.

Losses are tested elsewhere, and so are keys. Here every field of every section that a method reads
is given another value, from the study file on; the first stage whose key moves is run with both,
and its files must differ. Nothing else notices a temperature that never reaches the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.randomness import Seed
from l2kd_ray.core.stage import Stage, TrainingStage
from l2kd_ray.core.store import Store
from l2kd_ray.distill.divergences import DIVERGENCES
from l2kd_ray.families import FAMILIES
from l2kd_ray.section import Section
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.study import Study
from l2kd_ray.testing.studies import TINY, tiny
from l2kd_ray.testing.values import others

BERT = {**TINY["classifiers"]["teacher"], "hidden_size": 8}
# Settings beside which a method reads more of its fields. Each field is tried beside the first that
# it is read with, and again beside those that set it themselves.
VARIANTS: Mapping[str, list[dict[str, Any]]] = {
    "finetune": [
        {"train.average": 0.1},
        {"evaluate.decode.strategy": "sample"},
        {"evaluate.decode.strategy": "beam"},
    ],
    "lamol": [
        {"replay.ratio": 1.0},
        {"replay.ratio": 1.0, "train.lora": {}},
        {"replay.ratio": 1.0, "replay.weight": "separate", "replay.filters": ["ended"]},
        {"replay.ratio": 1.0, "replay.agreement": 1.0},
    ],
    "lamol-real": [{"replay.ratio": 1.0}],
    "l2kd": [
        {"replay.ratio": 1.0, "kd.weight": 0.5},
        {"kd.objective": "seq", "kd.decode.strategy": "sample", "kd.weight": 0.5},
        {"kd.objective": "seq-soft", "kd.decode.strategy": "beam"},
        {"replay.ratio": 1.0, "kd.teachers": "both", "kd.weight": 0.5},
        {"kd.teacher": "cached", "kd.top_k": 8},
        {"kd.divergence": "jsd"},
        {"kd.divergence": "skew_forward"},
        {"kd.policy": "mix", "kd.sampling.top_k": 5, "kd.sampling.max_new_tokens": 4},
        {"kd.teachers": "self", "kd.policy": "student", "kd.demonstration": "so {answer} :"},
    ],
    "sdft": [
        {"kd.demonstration": "so {answer} :"},
        {"kd.self_teacher": "ema", "kd.ema_rate": 0.5, "kd.divergence": "jsd"},
        {"kd.weight": 0.5, "kd.divergence": "skew_reverse"},
    ],
    "ewc": [{"ewc.samples": 4}],
    "mas": [{"mas.samples": 4}],
    "gem": [{"gem.ratio": 0.5, "train.lr": 0.05, "train.epochs": 4}],
    "replay": [{"replay.weight": "separate"}],
    "lwf": [{}],
    "der++": [{}],
    "agem": [{"agem.ratio": 0.5, "agem.batch_size": 3, "train.lr": 0.05, "train.epochs": 4}],
    "ssr": [{"ssr.ratio": 0.2, "ssr.clusters": 3}],
    "seq-lora": [{"train.lora": {}}],
    "o-lora": [{"train.lora": {}, "o_lora.norm": 0.1}],
    "osf": [{}],
    "merge": [{}, {"merge.how": "ties"}],
    "mkd": [{"kd.weight": 0.5}, {"train.rungs": [1, 2]}, {"mkd.finetune_epochs": 1}],
    "metakd": [
        {"student": BERT, "kd.weight": 0.5},
        {"student": BERT, "metakd.stages": "two"},
    ],
    "metakd-stream": [{"student": BERT}],
    "structkd": [
        {"kd.weight": 0.5, "structkd.anneal": 0.1},
        {"train.patience": 1, "train.epochs": 6, "train.lr": 0.1},
        {"structkd.objective": "top-k"},
        {"structkd.scope": "local", "kd.temperature": 3.0},
        {"train.max_length": 8},
    ],
}
# Fields (or one value of them) whose other value may leave the same bits, each with the reason.
SILENT = {
    "train.rungs": "the parts of a training end with the bits of the whole",
    "train.precision=tf32": "a CPU has no TF32",
    "metakd.raw": "an untrained encoder's prototype scores are all above 0",
    "replay.refill": "a quota that is full is not refilled",
    "kd.teacher=cached": "with kd.top_k, auto is cached, and online is refused",
    "replay.filters=['ended']": "filters are names that no type lists; test_replay holds each",
    "replay.agreement=1.0": "a model as small as this never answers right: all its scores are 0",
    "structkd.case": "another case is another model: its keys are another study's",
    "gem: evaluate.decode.precision": "after such large steps one word is said in any precision",
    "agem: evaluate.decode.precision": "after such large steps one word is said in any precision",
}
NAMES = {"kd.divergence": DIVERGENCES}
"""Names that a field takes and its type does not list."""
METHODS = [(family.name, name) for family in FAMILIES.values() for name in family.methods]
FAMILY_OF = {name: family for family, name in METHODS}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all methods: they share teachers, tokenizers and first tasks."""
    return Store(str(tmp_path_factory.mktemp("wiring")))


@dataclass
class World:
    """The stages of a method's first path and of the references, by key."""

    study: Study

    @classmethod
    def of(cls, family: str, method: str, settings: Mapping[str, Any]) -> World:
        data = tiny(family, methods=[method])
        return cls(resolve_study(parse_study(data, settings), "wiring"))

    def changed(self, key: str, value: object) -> World:
        """The same with another value. Raises: KeyError, ValueError where it is refused."""
        config = self.study.config
        settings = config.settings.with_values({key: value})
        return World(Study(config.model_copy(update={"settings": settings}), self.study.resolved))

    @cached_property
    def stages(self) -> dict[str, Stage]:
        study, first = self.study, self.study.orders[0]
        chosen = [trial for trial in study.trials() if trial.is_reference or trial.order == first]
        return {stage.key: stage for trial in chosen for stage in trial.stages()}

    def roots_at(self, key: str, value: object) -> list[Stage]:
        """The first stages that are different with another value; none where it is refused."""
        try:
            return self.roots(self.changed(key, value))[:4]
        except (KeyError, ValueError):
            return []

    def computes_another(self, key: str, value: object, store: Store) -> bool:
        """Whether one of those stages leaves something else than its counterpart here."""
        pairs = [(root, self.counterpart(root)) for root in self.roots_at(key, value)]
        return any(two is None or left(one, store) != left(two, store) for one, two in pairs)

    def roots(self, other: World) -> list[Stage]:
        """The first stages that are different in another world: new ones whose inputs are old."""
        fresh = [stage for key, stage in other.stages.items() if key not in self.stages]
        return [
            stage
            for stage in fresh
            if all(source.key in self.stages for _, source in stage.inputs())
        ]

    def counterpart(self, stage: Stage) -> Stage | None:
        """The stage that stands here where that one does in another world: of its class and task,
        with the fewest other fields."""

        def others(one: Stage) -> int:
            names = one.settings.keys() | stage.settings.keys()  # what is None is in neither
            return sum(one.settings.get(name) != stage.settings.get(name) for name in names)

        alike = [one for one in self.stages.values() if about(one) == about(stage)]
        return min((one for one in alike if one.key != stage.key), key=others, default=None)


def about(stage: Stage) -> tuple[type[Stage], str | None]:
    """The class of a stage, and the task or tasks that it is about."""
    if isinstance(stage, TrainingStage):
        return type(stage), stage.stream  # type: ignore[attr-defined]
    return type(stage), getattr(stage, "task", None)


def fields(section: Section, name: str = "") -> Iterator[tuple[str, Section, str]]:
    """(dotted key, section, field) of every field that is no section."""
    for field in type(section).model_fields:
        value = getattr(section, field)
        key = f"{name}.{field}" if name else field
        if isinstance(value, Section):
            yield from fields(value, key)
        else:
            yield key, section, field


def alternatives(section: Section, field: str) -> Iterator[list[Any]]:
    """Groups of other values, one of which must matter: choices each alone, numbers together.

    What switches off is a group of its own: it matters even where a number does not arrive.
    """
    found = list(others(section, field))
    values = [value for n, value in enumerate(found) if value not in found[:n]]
    choices = [value for value in values if isinstance(value, str | bool)]
    rest = [value for value in values if value not in choices]
    yield from ([choice] for choice in choices)
    yield [value for value in rest if value][:3]
    yield [value for value in rest if not value]


def every_field(study: Study) -> Iterator[tuple[str, Section, str]]:
    yield from fields(study.config.settings.family)
    for name, section in study.config.settings.options.items():
        yield from fields(section, name)


def left(stage: Stage, store: Store) -> dict[str, Any]:
    """What a stage leaves: the digests of its files, and its scores but for the times in them."""
    obtain(stage, store)
    manifest = store.manifest(stage.kind, stage.key)
    assert manifest is not None
    files = {name: record.sha256 for name, record in manifest.files.items()}
    scores = {n: value for n, value in manifest.scores.items() if not n.startswith("latency")}
    return {**files, **scores}


WHOLE = ("finetune", "l2kd", "mkd", "metakd", "structkd")
"""Methods of which every field is tried each time; of the others those that few methods share, but
of sdft, of which each trial writes text."""
CASES = [
    *(
        pytest.param(
            *one, False, id=f"{one[1]}-own", marks=pytest.mark.drill if one[1] == "sdft" else []
        )
        for one in METHODS
        if one[1] not in WHOLE
    ),
    *(
        pytest.param(*one, True, id=one[1], marks=[] if one[1] in WHOLE else pytest.mark.drill)
        for one in METHODS
    ),
]


@pytest.mark.parametrize(("family", "method", "whole"), CASES)
def test_every_setting_that_a_method_reads_changes_what_is_computed(
    family: str, method: str, whole: bool, shared: Store
) -> None:
    own = ("kd", "replay", FAMILIES[family].methods[method].section)
    seen: set[str] = set()
    silent: list[str] = []
    for variant in VARIANTS[method]:
        base = World.of(family, method, variant)
        for key, section, field in every_field(base.study):
            here = f"{key}={variant[key]}" if key in variant else key
            if {key, here, f"{method}: {key}"} & SILENT.keys() or {key, here} <= seen:
                continue
            if not whole and key not in variant and key.split(".")[0] not in own:
                continue
            reached = False
            named = [[name] for name in NAMES.get(key, ())]
            for values in (*named, *alternatives(section, field)):
                values = [value for value in values if f"{key}={value}" not in SILENT]
                moved = [value for value in values if base.roots_at(key, value)]
                seen.update([key, here] if moved else [])
                reached = reached or bool(moved)
                if moved and not any(base.computes_another(key, one, shared) for one in moved):
                    silent.append(f"{key} = {moved} (with {variant}) changes keys and nothing else")
            if key in variant and not reached:
                silent.append(f"{key}: no other value than that of {variant} moves a key")
    assert not silent, "\n".join(silent)
    assert (
        not whole or sum("=" not in key for key in seen) > 15
    )  # of a method's settings most are read


def student(world: World, store: Store) -> dict[str, Any]:
    """The weights of a method's last student."""
    from safetensors.torch import load_file

    trial = next(trial for trial in world.study.trials() if not trial.is_reference)
    model = trial.steps[-1][-1].stage.model
    obtain(model, store)
    return dict(load_file(store.fetch(model.kind, model.key) / "model.safetensors"))


SURE = {f"student.{name}_pdrop": 0.0 for name in ("attn", "embd", "resid")}
"""Without dropout: a batch of more rows has other masks."""


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize(
    ("family", "method", "settings"),
    [
        ("language", "l2kd", {"replay.ratio": 1.0}),
        ("language", "l2kd", {"replay.ratio": 1.0, "kd.objective": "seq"}),
        ("language", "l2kd", {"replay.ratio": 1.0, "kd.objective": "seq-soft"}),
        ("language", "l2kd", {"replay.ratio": 1.0, "kd.teachers": "previous"}),
        ("language", "l2kd", {"replay.ratio": 1.0, "kd.teachers": "both"}),
        ("classifiers", "mkd", {}),
        ("classifiers", "metakd", {"student": BERT}),
        ("structures", "structkd", {"structkd.anneal": 0.0}),
    ],
    ids=str,
)
def test_a_weight_near_a_limit_makes_the_student_of_the_limit(
    family: str, method: str, settings: Mapping[str, Any], limit: float, shared: Store
) -> None:
    """At 0 nobody distils, at 1 no label is read: both are made of other stages or rows. Half of
    each is neither."""
    settings = {**settings, **(SURE if family == "language" else {})}
    exact, near, half = (
        student(World.of(family, method, {**settings, "kd.weight": weight}), shared)
        for weight in (limit, abs(limit - 1e-9), 0.5)
    )

    def furthest(one: Mapping[str, Any]) -> float:
        return max(float((one[name] - value).abs().max()) for name, value in exact.items())

    assert furthest(near) < 1e-4 < 1e-3 < furthest(half)


@pytest.mark.parametrize("method", ["l2kd", "mkd", "metakd", "metakd-stream", "structkd"])
def test_a_weight_of_0_leaves_no_teacher_in_the_path(method: str) -> None:
    """The control of distillation is one key in every method."""
    student = {"student": BERT} if "metakd" in method else {}  # whose layers are compared
    arms = [{"name": "none", "method": method, "settings": {"kd.weight": 0.0}}, method]
    data = tiny(FAMILY_OF[method], methods=arms, kd={"weight": 1.0}, **student)
    found = resolve_study(parse_study(data), "wiring")
    none, whole = (next(t for t in found.trials() if t.method == name) for name in ("none", method))
    assert "teacher" in whole.stages().values()
    assert "teacher" not in none.stages().values()
    assert not none.teachers
    assert not {"annotate", "decode", "prototypes"} & {stage.kind for stage in none.stages()}


@pytest.mark.parametrize(("family", "method"), METHODS)
def test_every_stage_of_a_trial_has_the_longest_sequence_and_the_precision_of_the_study(
    family: str, method: str
) -> None:
    wanted = {"train.max_length": 12, "train.precision": "bfloat16"}
    for variant in VARIANTS[method]:
        world = World.of(family, method, {**variant, **wanted})
        for stage in world.stages.values():
            assert getattr(stage, "max_length", 12) == 12, stage
            if stage.kind not in ("replay", "decode", "evaluate"):  # writing has one of its own
                assert getattr(stage, "precision", "bfloat16") == "bfloat16", stage


def test_each_seed_draws_its_own_answers_of_one_model() -> None:
    study = World.of("language", "finetune", {"evaluate.decode.strategy": "sample"}).study
    task, build = study.tasks[0], study.builder
    model = build.reference("multitask", task, Seed.of(1))
    one, two = (
        build.evaluate(model, task, "test", Seed(train=seed, replay=1, data=1)) for seed in (1, 2)
    )
    assert one.key != two.key
