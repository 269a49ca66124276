"""The methods: identities between them, which stages each is made of, and students of any make."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.studies import TINY, planned
from helpers.weights import same_bits, weights
from safetensors.torch import load_file

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Stage
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families import METHODS
from l2kd_ray.families.language.model.causal_lm import CausalLM, build
from l2kd_ray.families.language.model.vocabulary import train
from l2kd_ray.families.language.stages.annotate import Annotate
from l2kd_ray.families.language.stages.decode import Decode
from l2kd_ray.families.language.stages.learn import Learn, Multitask
from l2kd_ray.families.language.stages.replay import RealSamples, Replay
from l2kd_ray.study import Study, load, plan
from l2kd_ray.study.reading import parse_study
from l2kd_ray.study.trial import Trial
from l2kd_ray.tasks import resolve, write_squad
from l2kd_ray.tasks.registry import family as generated_family
from l2kd_ray.tasks.spec import TaskSpec

THREE = ["gen.intent", "gen.rest", "gen.tv"]

# Every method, and L2KD in each of its forms.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "finetune": {"method": "finetune"},
    "lamol": {"method": "lamol"},
    "lamol-real": {"method": "lamol-real"},
    "ewc": {"method": "ewc"},
    "mas": {"method": "mas"},
    "gem": {"method": "gem"},
    "word": {"method": "l2kd"},
    "seq": {"method": "l2kd", "settings": {"kd.objective": "seq"}},
    "seq-soft": {
        "method": "l2kd",
        "settings": {"kd.objective": "seq-soft", "kd.decode.strategy": "sample", "kd.weight": 0.5},
    },
    "previous": {"method": "l2kd", "settings": {"kd.teachers": "previous"}},
    "both": {"method": "l2kd", "settings": {"kd.teachers": "both", "replay.weight": "separate"}},
    "agreed": {
        "method": "lamol",
        "settings": {
            "replay.agreement": 50,
            "replay.filters": ["ended", "label", "duplicate"],
            "replay.refill": True,
            "train.average": 0.2,
        },
    },
}


def arm(name: str, **settings: Any) -> dict[str, Any]:
    """An arm by its name, `kd__weight=0` for more of its settings."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    known = ARMS[name]
    return {
        "name": name,
        "method": known["method"],
        "settings": {**known.get("settings", {}), **own},
    }


def trials_of(study: Study, method: str) -> list[Trial]:
    return [trial for trial in study.trials() if trial.method == method]


def path(study: Study, method: str, seed: str | None = None) -> list[Any]:
    """The student of a method after each task of the first order, the untrained one first."""
    seed = seed or str(study.config.replicates[0])
    return students_of(study.trial(method, {}, study.orders[0], seed))


def students_of(trial: Trial) -> list[Any]:
    return [step[0].stage.model for step in trial.steps]


def teacher_of(stage: Learn) -> Any:
    """Who teaches it, live or by what it said before."""
    return stage.teacher.teacher if isinstance(stage.teacher, Annotate) else stage.teacher


def keys(stages: Sequence[Stage]) -> list[str]:
    return [stage.key for stage in stages]


# Identities, by key ------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["word", "seq", "seq-soft"])
@pytest.mark.parametrize("teachers", ["new", "previous", "both"])
@pytest.mark.parametrize("replay_weight", ["natural", "separate", 2.5])
def test_l2kd_at_weight_zero_is_lamols_stage(
    objective: str, teachers: str, replay_weight: Any
) -> None:
    zero = {
        "name": "zero",
        "method": "l2kd",
        "settings": {"kd.weight": 0, "kd.objective": objective, "kd.teachers": teachers},
    }
    study = planned(methods=["lamol", zero], replay={"ratio": 0.5, "weight": replay_weight})
    assert keys(path(study, "zero")) == keys(path(study, "lamol"))


def test_a_first_task_without_a_teacher_is_the_teacher() -> None:
    """DnR's first task has nothing to recall: it is LAMOL's, and that is the task's teacher."""
    study = planned(methods=["lamol", arm("previous"), arm("word")])
    lamol, previous, word = (path(study, name) for name in ("lamol", "previous", "word"))
    assert previous[1] == lamol[1] == teacher_of(word[1])
    assert previous[2] != lamol[2]
    assert (previous[2].recall, previous[2].teacher) == (True, None)
    single = trials_of(study, "single")[0]
    assert lamol[1] in {cell.stage.model for cell in single.cells}


def test_without_replay_there_is_nothing_to_recall() -> None:
    study = planned(
        methods=["lamol", arm("previous"), arm("both"), arm("word", replay__weight="separate")],
        replay={"ratio": 0},
    )
    assert keys(path(study, "previous")) == keys(path(study, "lamol"))
    assert keys(path(study, "both")) == keys(path(study, "word"))


def test_elastic_methods_at_strength_zero_are_finetuning() -> None:
    study = planned(
        methods=["finetune", arm("ewc", ewc__strength=0), arm("mas", mas__strength=0), "gem"]
    )
    finetune = keys(path(study, "finetune"))
    assert keys(path(study, "ewc")) == keys(path(study, "mas")) == finetune
    gem = keys(path(study, "gem"))
    assert gem[:2] == finetune[:2]  # a first task has no former one to hold to
    assert gem[2] != finetune[2]
    strong = keys(path(planned(methods=["ewc"]), "ewc"))
    assert strong[:2] == finetune[:2]
    assert strong[2] != finetune[2]


def test_averaging_leaves_first_tasks_and_references_as_they_are() -> None:
    methods = ["finetune", "multilm", arm("both"), arm("seq")]
    plain, averaged = (
        planned(methods=methods, train={**TINY["train"], "average": share}) for share in (0, 0.5)
    )
    for name in ("finetune", "both", "seq"):
        without, with_it = path(plain, name), path(averaged, name)
        assert keys(without[:2]) == keys(with_it[:2])
        assert without[2] != with_it[2]
    for name in ("multitask", "multilm", "single"):
        before, after = (trials_of(study, name)[0] for study in (plain, averaged))
        assert before.stages().keys() == after.stages().keys()


@pytest.mark.parametrize(
    ("name", "change", "same"),
    [
        ("seq", {"kd__temperature": 5.0}, True),
        ("seq", {"kd__answer_weight": "keep"}, True),
        ("seq", {"kd__decode__beams": 7}, True),  # greedy
        ("seq", {"kd__decode__strategy": "sample"}, False),
        ("seq", {"kd__weight": 0.5}, False),
        ("word", {"kd__temperature": 5.0}, False),
        ("word", {"kd__answer_weight": "keep"}, False),
        ("word", {"kd__decode__strategy": "sample"}, True),
        ("seq-soft", {"kd__temperature": 5.0}, False),
        ("seq-soft", {"kd__decode__top_k": 3}, False),
        ("seq-soft", {"kd__decode__beams": 7}, True),  # sampled
        ("previous", {"kd__objective": "seq"}, True),  # no new teacher to decode anything
        ("previous", {"kd__temperature": 5.0}, False),
        ("word", {"kd__teacher": "online"}, False),
        ("word", {"kd__teacher": "cached"}, True),  # as it is by default where that is small
        ("seq", {"kd__teacher": "online"}, True),
        ("previous", {"kd__teacher": "online"}, True),
        ("lamol", {"kd__teacher_seed": 9}, True),
        ("finetune", {"kd__temperature": 5.0, "replay__ratio": 1, "train__lm_weight": 9}, True),
        ("finetune", {"train__answer_weight": 1}, True),  # `<ans>` is in the LM part alone
        ("lamol", {"train__answer_weight": 1}, False),
        ("lamol", {"kd__weight": 0.5}, True),
        ("lamol-real", {"replay__top_k": 1, "replay__temperature": 3.0}, True),
        ("lamol-real", {"replay__filters": ["ended"], "replay__refill": True}, True),
        ("ewc", {"mas__strength": 3, "gem__ratio": 0.5}, True),
        ("ewc", {"ewc__samples": 3}, False),
        ("ewc", {"ewc__samples": 1000}, True),  # there are fewer examples, by default as well
        ("mas", {"mas__samples": 3}, False),
        ("gem", {"gem__margin": 0}, False),
        ("gem", {"replay__ratio": 1, "ewc__strength": 3}, True),
    ],
)
def test_only_settings_that_matter_make_another_student(name: str, change: Any, same: bool) -> None:
    ends = [path(planned(methods=[arm(name, **more)]), name)[2].key for more in ({}, change)]
    assert (ends[0] == ends[1]) == same


def test_seq_kd_reads_the_temperature_only_where_it_recalls() -> None:
    one, other = (
        path(planned(methods=[arm("both", kd__objective="seq", kd__temperature=T)]), "both")
        for T in (1.0, 5.0)
    )
    assert one[1] == other[1]
    assert one[2] != other[2]


def test_real_samples_are_shared_between_methods() -> None:
    study = planned(
        tasks=THREE,
        methods=[arm("lamol-real"), {"name": "slow", "method": "lamol-real",
                                     "settings": {"train.lr": 1e-4, "replay.weight": 3}}],
    )  # fmt: skip
    for one, other in zip(path(study, "lamol-real")[2:], path(study, "slow")[2:], strict=True):
        assert one != other
        assert isinstance(one.replay, RealSamples)
        assert one.replay == other.replay
    gem = path(planned(methods=["gem"], gem={"ratio": 0.5}), "gem")[2]
    real = path(planned(methods=["lamol-real"], replay={"ratio": 0.5}), "lamol-real")[2]
    assert gem.constraint.memory == real.replay  # as many of the same task


def test_crossed_seeds_reach_those_that_read_them() -> None:
    methods = ["finetune", "lamol", "lamol-real", "gem", "ewc", arm("word"), "multilm"]
    study = planned(methods=methods, seeds={"train": [1], "replay": [7, 8]})
    for name in ("finetune", "ewc"):
        assert keys(path(study, name, "1r7")) == keys(path(study, name, "1r8"))
    for name in ("lamol", "lamol-real", "gem", "word"):
        one, other = path(study, name, "1r7"), path(study, name, "1r8")
        assert one[:2] == other[:2]
        assert one[2] != other[2]
    for name in ("multitask", "multilm", "single"):
        one, other = trials_of(study, name)
        assert one.stages().keys() == other.stages().keys()
    other = planned(methods=methods, seeds={"train": [2], "replay": [7, 8]})
    assert path(other, "finetune")[1] != path(study, "finetune")[1]


def test_one_teacher_may_teach_all_replicates() -> None:
    methods = ["lamol", arm("word"), arm("seq")]
    own = planned(methods=methods, seeds=[1, 2])
    one = planned(methods=methods, seeds=[1, 2], kd={"teacher_seed": 1})
    for name in ("word", "seq"):
        paths = [path(one, name, seed) for seed in ("1", "2")]
        teachers = [
            {s for s, role in trial.stages().items() if role == "teacher"}
            for trial in trials_of(one, name)
        ]
        assert all(found == teachers[0] for found in teachers)
        assert paths[0] == path(own, name)  # that of the first replicate
        assert paths[1][1] not in {*paths[0], *path(own, name, "2")}
    assert path(one, "lamol", "2") == path(own, "lamol", "2")


def test_multilm_is_a_reference() -> None:
    study = planned(methods=["finetune", "multilm"], seeds=[1, 2], train={"lm_weight": 0.5})
    bounds, both = trials_of(study, "multitask"), trials_of(study, "multilm")
    assert [(trial.order, len(trial.steps)) for trial in both] == [((), 1)] * 2
    assert {str(trial.seed) for trial in both} == {"1", "2"}
    models = [trial.steps[0][0].stage.model for trial in (bounds[0], both[0])]
    assert all(isinstance(model, Multitask) for model in models)
    assert [model.lm_weight for model in models] == [0, 0.5]
    same = {"lm_weight": 0.0, "objective": models[0].objective}  # without the LM part, no `<ans>`
    assert replace(models[1], **same) == models[0]
    assert plan(study.trials(), Store("memory://empty")).stages["multitask"].unique == 4
    assert not trials_of(planned(methods=["finetune"]), "multilm")


@pytest.mark.parametrize("methods", [[], "multilm", ["multilm"]])
def test_a_study_compares_at_least_one_method(methods: Any) -> None:
    with pytest.raises(InputError, match="at least one method") as refused:
        parse_study({**TINY, "methods": methods})
    assert refused.value.key == "methods"


@pytest.mark.parametrize(
    "method",
    [
        {"name": "mine", "method": "multilm"},
        {"name": "multilm", "method": "lamol"},
        {"name": "multilm", "method": "multilm", "settings": {"train.lr": 1}},
        "multitask",
        "single",
    ],
)
def test_references_go_by_their_own_names(method: Any) -> None:
    with pytest.raises(InputError, match="reference"):
        parse_study({**TINY, "methods": ["finetune", method]})


def test_an_unknown_method_is_refused_with_those_there_are(study_file: Any) -> None:
    with pytest.raises(InputError) as refused:
        load(study_file(methods=[{"name": "lamol", "method": "magic"}]))
    assert all(name in str(refused.value) for name in ("magic", *METHODS))


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_elastic_methods_refuse_lora(study_file: Any, name: str) -> None:
    """They hold weights, and LoRA trains others."""
    with pytest.raises(InputError, match="lora"):
        load(study_file(methods=[name], train={"lora": {"r": 2}}))
    own = {"name": "mine", "method": name, "settings": {"train.lora.r": 2}}
    with pytest.raises(InputError, match="lora"):
        load(study_file(methods=["lamol", own]))
    with pytest.raises(InputError, match="lora"):
        load(study_file(methods=["lamol", name], search={"train.lora.r": {"grid": [2, 4]}}))
    load(study_file(methods=[name, {**own, "method": "gem"}]))


# Identities, by bits -----------------------------------------------------------------------------


def own_task(folder: Path, name: str, rows: int | None = None) -> dict[str, Any]:
    """A generated task as files, the training answers as those of its `distil` file, too: of all
    rows, or of so many trained on."""
    spec = TaskSpec(name=name)
    task = resolve(spec, data_dir=None, data_seed=0, caps={"train": rows}, where="test")
    full = resolve(spec, data_dir=None, data_seed=0, caps={}, where="test")
    files = {split: folder / f"{name}-{split}.json" for split in ("train", "dev", "test", "distil")}
    for split in ("train", "dev", "test"):
        write_squad(files[split], full.splits[split].examples())  # type: ignore[index]
    write_squad(files["distil"], task.splits["train"].examples())
    return {
        "name": name.replace("gen", "own"),
        "metric": "em",
        **{k: str(v) for k, v in files.items()},
    }


def test_gold_answers_as_targets_are_lamol_bit_for_bit(
    tiny: Any, tmp_path: Path, store: Store
) -> None:
    tasks = [own_task(tmp_path, name) for name in ("gen.rest", "gen.intent")]
    soft = {"name": "seq-soft", "method": "l2kd", "settings": {"kd.objective": "seq-soft"}}
    study = tiny(
        tasks=tasks,
        orders=["own.rest>own.intent"],
        methods=["lamol", arm("seq"), arm("word"), soft],
    )
    lamol, seq, word, soft = (path(study, name) for name in ("lamol", "seq", "word", "seq-soft"))
    assert not {lamol[1], lamol[2]} & {seq[1], seq[2]}
    assert seq[2].replay != lamol[2].replay  # other stages, and what they write is the same
    assert same_bits(weights(seq[2], store), weights(lamol[2], store))
    assert same_bits(weights(soft[2], store), weights(word[2], store))
    assert not same_bits(weights(word[2], store), weights(lamol[2], store))


def test_the_weights_are_averaged_with_the_student_before_the_task(store: Store) -> None:
    study = planned(
        methods=["lamol", {"name": "mean", "method": "lamol", "settings": {"train.average": 0.3}}]
    )
    plain, mean = path(study, "lamol")[2], path(study, "mean")[2]
    assert plain.start == mean.start
    before, after = weights(plain.start, store), weights(plain, store)
    for name, value in weights(mean, store).items():
        torch.testing.assert_close(value, 0.7 * after[name] + 0.3 * before[name])
        assert torch.equal(value, after[name].lerp(before[name], 0.3))


# Which stages make a trial -----------------------------------------------------------------------

# By role, in one trial of three tasks; and in a study of all six orders of three equal tasks.
IN_A_TRIAL: Mapping[str, Mapping[str, int]] = {
    "finetune": {"learn": 3, "tokens": 3},
    "lamol": {"learn": 3, "tokens": 3, "replay": 2},
    "lamol-real": {"learn": 3, "tokens": 3, "replay": 2},
    "ewc": {"learn": 3, "tokens": 3, "importance": 2},
    "mas": {"learn": 3, "tokens": 3, "importance": 2},
    "gem": {"learn": 3, "tokens": 3, "replay": 2},
    "word": {"learn": 3, "tokens": 3, "replay": 2, "teacher": 3, "annotate": 3},
    "seq": {"learn": 3, "tokens": 6, "replay": 2, "teacher": 3, "decode": 3},
    "seq-soft": {
        "learn": 3,
        "tokens": 6,
        "replay": 2,
        "teacher": 3,
        "decode": 3,
        "annotate": 3,
    },
    "previous": {"learn": 3, "tokens": 3, "replay": 2},
    "both": {"learn": 3, "tokens": 3, "replay": 2, "teacher": 3, "annotate": 3},
    # The teachers of the first and the second task judge; that of the first is the student's start.
    "agreed": {"learn": 2, "tokens": 3, "replay": 2, "teacher": 2},
}


@pytest.mark.parametrize("name", ARMS)
def test_the_stages_of_a_trial(name: str) -> None:
    study = planned(tasks=THREE, methods=[arm(name)])
    for trial in trials_of(study, name):
        roles = Counter(trial.stages().values())
        assert roles.pop("initial") == roles.pop("tokenizer") == 1
        assert roles.pop("evaluate") == 4 * 3 + len(trial.teachers)
        # The tokenizer's, of the whole family; those that the seed draws; and three test splits.
        assert roles.pop("examples") == len(generated_family(THREE[0])) + 3 + 3
        assert roles == IN_A_TRIAL[name]


@pytest.mark.parametrize("name", ARMS)
def test_a_plan_counts_every_kind_of_stage(name: str) -> None:
    study = planned(tasks=THREE, methods=[arm(name)])
    counts = plan(study.trials(), Store("memory://empty")).stages
    orders, in_a_trial = math.factorial(3), IN_A_TRIAL[name]
    for role in ("replay", "importance", "decode", "annotate"):
        assert counts[role].naive == orders * in_a_trial.get(role, 0)
    prefixes = 3 + 6  # of one task and of two: what precedes a later task
    real = name in ("lamol-real", "gem")  # whose samples know no order: sets of one and of two
    assert counts["replay"].unique == (
        in_a_trial.get("replay", 0) and (3 + 3 if real else prefixes)
    )
    assert counts["importance"].unique == (in_a_trial.get("importance", 0) and prefixes)
    for role in ("decode", "annotate", "tokens"):
        assert counts[role].unique == in_a_trial.get(role, 0)
    assert counts["teacher"].unique == 3  # `single` is always run
    first = 0 if name in ("lamol", "lamol-real", "previous", "agreed") else 3  # not the teacher
    assert counts["learn"].unique == first + 6 + 6
    assert counts["learn"].todo == counts["learn"].unique


def test_a_study_of_every_method_runs_and_is_then_finished(tiny: Any, store: Store) -> None:
    study = tiny(
        methods=[*(arm(name) for name in ARMS), "multilm"],
        orders=["gen.rest>gen.intent"],
        max_train=8,
    )
    trials = study.trials()
    for trial in trials:
        for cell in trial.cells:
            obtain(cell.stage, store)
    finished = plan(trials, store)
    assert not finished.missing
    assert all(count.stored == count.unique for count in finished.stages.values())
    roles = {role for role, count in finished.stages.items() if count.unique}
    # The kinds of this family, all of them; a plan also lists those of other families and of tests.
    assert roles >= {"examples", "tokenizer", "tokens", "initial", "annotate", "decode"}
    assert roles >= {"replay", "importance", "teacher", "learn", "multitask", "evaluate"}
    scores = study.scores(store, trials)
    assert set(scores["method"]) == {*ARMS, "multitask", "single", "multilm"}
    assert len(scores) == 3 * 2 + len(ARMS) * 3 * 2
    assert scores["score"].between(0, 100).all()
    ends = {name: path(study, name)[2] for name in ARMS}
    final = {name: weights(stage, store) for name, stage in ends.items()}
    names = sorted(final)
    for place, one in enumerate(names):  # each method really does something of its own
        for other in names[:place]:
            differs = not same_bits(final[one], final[other])
            assert differs or (one, other) == ("gem", "finetune")  # where no step would hurt


# Teachers and students of other makes ------------------------------------------------------------

SIZES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96},
    "llama": {
        "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 2, "max_position_embeddings": 96,
    },
    "qwen2": {
        "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
TEXTS = {
    "one": ["inform(area=north;food=thai) what is the natural language form ?"],
    "other": ["wake lisa at eight on monday what does the user want ? set alarm"],
}


def pretrained(folder: Path, arch: str = "gpt2", text: str = "one", padded: int = 0) -> str:
    """A model's folder with a tokenizer of its own; `padded` embeddings belong to no token."""
    tokenizer = train(TEXTS[text], 280)
    model = build(arch, SIZES[arch], tokenizer, seed=3)
    if padded:
        model.lm.resize_token_embeddings(len(tokenizer) + padded, mean_resizing=False)
    model.save(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_larger_teacher_of_the_same_tokenizer_teaches(store: Store) -> None:
    larger = {**SIZES["gpt2"], "arch": "gpt2", "n_layer": 2, "n_embd": 32}
    study = planned(methods=["lamol", arm("word"), arm("both")], teacher=larger)
    word, single = path(study, "word"), trials_of(study, "single")[0]
    assert teacher_of(word[1]) not in {cell.stage.model for cell in single.cells}
    assert path(study, "lamol")[1] in {cell.stage.model for cell in single.cells}
    taught = weights(word[1], store)
    teacher, untrained = weights(teacher_of(word[1]), store), weights(word[0], store)
    assert taught.keys() < teacher.keys()
    assert {k: v.shape for k, v in taught.items()} == {k: v.shape for k, v in untrained.items()}
    assert not same_bits(taught, weights(path(study, "lamol")[1], store))
    assert obtain(path(study, "both")[2], store)["loss"] > 0


@pytest.mark.parametrize(
    ("kd", "key", "fix"),
    [
        ({}, "kd.divergence", "uld"),
        ({"kd.divergence": "reverse", "kd.objective": "seq-soft"}, "kd.divergence", "seq"),
        ({"kd.divergence": "uld", "kd.top_k": 4}, "kd.top_k", "drop"),
        ({"kd.divergence": "uld", "replay.agreement": 50}, "replay.agreement", "remove"),
    ],
)
def test_what_means_nothing_between_two_tokenizers_is_refused_at_the_door(
    study_file: Any, tmp_path: Path, kd: dict[str, Any], key: str, fix: str
) -> None:
    student = pretrained(tmp_path / "student")
    teacher = pretrained(tmp_path / "teacher", text="other")
    methods = [{"name": "x", "method": "l2kd", "settings": kd}]
    for changes in ({"student": {"model": student}, "tokenizer": None}, {}):
        with pytest.raises(InputError, match="another tokenizer") as refused:
            load(study_file(methods=methods, teacher={"model": teacher}, **changes))
        assert refused.value.key.endswith(key)
        assert fix in refused.value.fix


def test_a_tokenizer_whose_tokens_do_not_spell_their_text_is_refused_for_uld(
    study_file: Any, tmp_path: Path
) -> None:
    """WordPiece's `##` and capitals that it makes small."""
    from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece

    teacher = Path(pretrained(tmp_path / "teacher"))
    pieces = train_wordpiece(["a test of words and more"], 60)
    pieces.eos_token = pieces.sep_token
    pieces.save_pretrained(teacher)
    arms = [arm("word", kd__divergence="uld")]
    with pytest.raises(InputError, match="do not spell") as refused:
        load(study_file(methods=arms, teacher={"model": str(teacher)}))
    assert refused.value.key.endswith("teacher.model")


def test_a_teacher_of_the_same_vocabulary_has_the_students_tokenizer(
    tiny: Any, tmp_path: Path
) -> None:
    student = pretrained(tmp_path / "student")
    same = pretrained(tmp_path / "same", arch="llama")
    study = tiny(
        methods=[arm("word")], student={"model": student}, teacher={"model": same}, tokenizer=None
    )
    stage = path(study, "word")[1]
    assert stage.start.tokenizer == teacher_of(stage).start.tokenizer


def test_a_teacher_of_another_tokenizer_teaches(tiny: Any, tmp_path: Path, store: Store) -> None:
    """Live and from its hidden states alike, on the student's words, and by its answers alone.

    Rows that its tokenizer makes too long for it are left out and counted.
    """
    teacher = pretrained(tmp_path / "teacher", "llama", text="other")
    uld = {"kd__divergence": "uld", "kd__weight": 0.5}
    forms: dict[str, dict[str, Any]] = {
        "cached": {"kd__teacher": "cached"},
        "live": {"kd__teacher": "online"},
        "own": {"kd__policy": "student", "kd__sampling.max_new_tokens": 4},
    }
    arms = [{**arm("word", **uld, **own), "name": name} for name, own in forms.items()]
    train = {**TINY["train"], "max_length": 40}
    sure = {f"{name}_pdrop": 0.0 for name in ("attn", "embd", "resid")}
    study = tiny(
        methods=[*arms, arm("seq")],
        teacher={"model": teacher},
        student={**TINY["student"], **sure},
        train=train,
    )
    made = {name: path(study, name)[1] for name in (*forms, "seq")}
    assert made["cached"].start.tokenizer != teacher_of(made["cached"]).start.tokenizer
    assert len({made[name].key for name in made}) == 4
    scores = {name: obtain(stage, store) for name, stage in made.items()}
    assert scores["cached"]["loss"] == pytest.approx(scores["live"]["loss"], rel=1e-3)
    for name in forms:
        assert 0 < scores[name]["teacher/aligned"] <= 100
        assert 0 < scores[name]["teacher/too_long"] < 20  # of 96 tokens that the teacher reads
    assert scores["own"]["sampled"] > 0
    positions = store.manifest("annotate", made["cached"].teacher.key).scores["positions"]  # type: ignore[union-attr]
    hidden = store.fetch("annotate", made["cached"].teacher.key) / "hidden-00000.safetensors"
    assert load_file(hidden)["hidden"].shape == (positions, 16)
    assert scores["seq"]["loss"] > 0


@pytest.mark.parametrize("padded", [0, 50])
def test_a_student_from_scratch_reads_a_pretrained_teachers_tokenizer(
    tiny: Any, tmp_path: Path, store: Store, padded: int
) -> None:
    teacher = pretrained(tmp_path / "teacher", "llama", padded=padded)
    study = tiny(methods=[arm("word")], teacher={"model": teacher}, tokenizer={"model": teacher})
    stage = path(study, "word")[1]
    assert stage.start.tokenizer == teacher_of(stage).start.tokenizer
    assert stage.start.source is None
    assert obtain(stage, store)["loss"] > 0
    folders = [store.fetch(s.kind, s.key) for s in (stage, teacher_of(stage))]
    student, taught = (CausalLM.load(folder) for folder in folders)
    assert student.vocabulary == taught.vocabulary
    assert (folders[0] / "tokenizer.json").read_bytes() == (
        folders[1] / "tokenizer.json"
    ).read_bytes()


def test_a_pretrained_model_is_the_same_for_every_seed(tiny: Any, tmp_path: Path) -> None:
    """One from scratch is drawn with the seed."""
    folder = pretrained(tmp_path / "pretrained", "gpt2")
    given = tiny(methods=["lamol"], student={"model": folder}, tokenizer=None, seeds=[1, 2])
    drawn = tiny(methods=["lamol"], seeds=[1, 2])
    for study, count in ((given, 1), (drawn, 2)):
        assert len({path(study, "lamol", seed)[0] for seed in ("1", "2")}) == count


@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.parametrize("padded", [0, 50])
def test_a_student_from_a_folder_learns_and_is_evaluated(
    tiny: Any, tmp_path: Path, store: Store, arch: str, padded: int
) -> None:
    folder = pretrained(tmp_path / "pretrained", arch, padded=padded)
    study = tiny(methods=["lamol"], student={"model": folder}, tokenizer=None, max_train=8)
    trial = trials_of(study, "lamol")[0]
    first = trial.steps[1][0].stage
    assert first.model.start.source is not None
    assert 0 <= obtain(first, store)["rouge" if first.task == "gen.rest" else "em"] <= 100
    found = store.fetch("learn", first.model.key)
    assert json.loads((found / "config.json").read_text())["model_type"] == arch
    before = load_file(Path(folder) / "model.safetensors")
    after = load_file(found / "model.safetensors")
    assert before.keys() == after.keys()
    assert not same_bits(before, after)
    assert obtain(path(study, "lamol")[2].replay, store)["written"] > 0


def test_a_teacher_of_too_short_a_context_says_so(store: Store) -> None:
    short = {**SIZES["gpt2"], "arch": "gpt2", "n_positions": 16}
    stage = path(planned(methods=[arm("word")], teacher=short), "word")[1]
    with pytest.raises(ValueError, match=r"train\.max_length"):
        obtain(stage, store)
    train_short = {**TINY["train"], "max_length": 16}
    enough = planned(methods=[arm("word")], teacher=short, train=train_short)
    assert obtain(path(enough, "word")[1], store)["loss"] > 0


def test_decoded_targets_and_replay_are_of_the_right_model() -> None:
    """What teaches a student, and who writes its replay, at each task of an order."""
    study = planned(tasks=THREE, methods=[arm("seq-soft", replay__agreement=10)])
    trial = trials_of(study, "seq-soft")[-1]
    students = students_of(trial)
    for place, task in enumerate(trial.order):
        stage = students[place + 1]
        assert isinstance(stage, Learn)
        assert stage.start == students[place]
        assert [tokens.task for tokens in stage.tasks] == [task]
        teacher, targets = teacher_of(stage), stage.targets
        assert [tokens.task for tokens in teacher.tasks] == [task]
        assert isinstance(stage.teacher, Annotate)
        assert stage.teacher.tokens == targets  # it speaks of its own answers
        assert targets is not None
        assert isinstance(targets.source, Decode)
        assert (targets.source.teacher, targets.source.source) == (teacher, stage.tasks[0].source)
        if place == 0:
            assert stage.replay is None
            continue
        assert isinstance(stage.replay, Replay)
        assert stage.replay.model == students[place]
        former = sorted(trial.order[:place])
        assert [quota.task for quota in stage.replay.quotas] == former
        assert [judge.teacher.tasks[0].task for judge in stage.replay.judges] == former


@pytest.mark.parametrize("name", ["word", "both", "ewc", "mas"])
def test_workers_exchange_the_gradients_of_every_method(
    name: str, tiny: Any, store: Store, tmp_path: Path, as_a_worker: Any
) -> None:
    """The same weights through torch's DDP; GEM has a test of its own."""
    student = {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    study = tiny(methods=[arm(name)], student={**student, **off})
    stage = next(t for t in study.trials() if t.method == name).steps[-1][0].stage.model
    wanted = weights(stage, store)
    with as_a_worker():
        found = weights(stage, Store(str(tmp_path / "wrapped")))
    torch.testing.assert_close(found, wanted)
