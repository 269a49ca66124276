"""A teacher's answers as training targets, and answers in general: greedy, by beams, sampled."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.reading import read
from helpers.studies import TINY, planned
from helpers.weights import weights

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Context
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.families.evaluate import PREDICTIONS
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.model.causal_lm import CausalLM
from l2kd_ray.families.language.model.sequences import SequenceFormat
from l2kd_ray.families.language.stages import decode
from l2kd_ray.families.language.stages.answers import Decoding
from l2kd_ray.families.language.stages.decode import Decode
from l2kd_ray.families.language.stages.evaluate import EvaluateLM
from l2kd_ray.study import Study, load
from l2kd_ray.tasks import Example, TaskData, resolve, write_squad
from l2kd_ray.tasks.readers import squad
from l2kd_ray.tasks.spec import TaskSpec

# A teacher that answers with words of its task, most of them wrong; dialogues have groups.
TASK, ROWS, TOKENS = "gen.state", 12, 10
TEACHER: Mapping[str, Any] = {
    **TINY,
    "tasks": [TASK, "gen.rest"],
    "orders": [[TASK, "gen.rest"]],
    "methods": ["l2kd"],
    "kd": {"objective": "seq"},
    "evaluate": {"max_new_tokens": TOKENS},
    "train": {"epochs": 15, "batch_size": 8, "lr": 1e-2},
    "max_train": ROWS,
}
BEAMS = Decoding(strategy="beam", beams=3)
SAMPLED = Decoding(strategy="sample", top_k=20, temperature=1.0)


class World:
    """A store with a trained teacher in it, and the stage that has it answer."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "study.yaml"
        self.file.write_text(yaml.safe_dump(dict(TEACHER)))
        self.store = Store(str(folder / "results"))
        self.stage: Decode = path(load(self.file))[1].targets.source
        obtain(self.stage.teacher, self.store)

    def decoded(self, stage: Decode) -> list[Example]:
        obtain(stage, self.store)
        return stage.load(Context(self.store, Path()))

    def study(self, **changes: Any) -> Study:
        self.file.write_text(yaml.safe_dump({**TEACHER, **changes}))
        return load(self.file)


def path(study: Study, method: str = "l2kd") -> list[Any]:
    trial = next(t for t in study.trials() if t.method == method)
    return [step[0].stage.model for step in trial.steps]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def naive(world: World, data: TaskData, **how: Any) -> list[str]:
    """transformers' own generation, one example at a time; "" where it ends at once."""
    folder = world.store.fetch("learn", world.stage.teacher.key)
    text, model = SequenceFormat.load(folder), CausalLM.load(folder).eval()

    def encode(said: str) -> list[int]:
        return list(text.tokenizer(said, add_special_tokens=False)["input_ids"])

    said = []
    for example in data.examples():
        prompt = [*encode(example.context), *encode(example.question), text.answer]
        tokens = model.lm.generate(
            torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False,
            eos_token_id=text.eos, pad_token_id=text.eos, **how,
        )[0, len(prompt) :]  # fmt: skip
        said.append(text.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return said


def test_greedy_targets_are_the_teachers_answers(world: World) -> None:
    gold, said = world.stage.source.data.examples(), naive(world, world.stage.source.data)
    targets = world.decoded(world.stage)
    wanted = [
        replace(example, answers=(answer or example.answers[0],))
        for example, answer in zip(gold, said, strict=True)
    ]
    assert targets == wanted  # with their ids, contexts, questions and groups
    assert len({example.group for example in targets}) < len(targets) == ROWS
    scores = obtain(world.stage, world.store)
    same = sum(one.answers[0] == other.answers[0] for one, other in zip(targets, gold, strict=True))
    assert scores == {"rows": ROWS, "empty": said.count(""), "same": 100 * same / ROWS}
    assert len({example.answers for example in targets}) > 3


def test_beam_targets_are_those_of_a_beam_search(world: World) -> None:
    if importlib.util.find_spec("l2kd_ray.families.language.model.beam") is None:
        pytest.skip("beam search is not there yet")
    stage = replace(world.stage, decoding=BEAMS)
    said = naive(world, stage.source.data, num_beams=3)
    gold = [example.answers[0] for example in stage.source.data.examples()]
    answers = [example.answers[0] for example in world.decoded(stage)]
    assert answers == [answer or given for answer, given in zip(said, gold, strict=True)]


def test_sampled_targets_are_drawn_by_seed_and_example_alone(world: World) -> None:
    def answers(seed: int, rows: int = ROWS, **changes: Any) -> dict[str, str]:
        source = Examples(replace(world.stage.source.data, cap=rows))
        stage = replace(world.stage, source=source, decoding=SAMPLED, seed=seed, **changes)
        return {example.id: example.answers[0] for example in world.decoded(stage)}

    first = answers(1)
    assert answers(2) != first
    fewer = answers(1, rows=5)
    assert len(fewer) == 5
    assert fewer == {identity: first[identity] for identity in fewer}
    greedy = [example.answers[0] for example in world.decoded(world.stage)]
    assert list(first.values()) != greedy
    only = replace(
        world.stage, decoding=Decoding(strategy="sample", top_k=1, temperature=1.0), seed=3
    )
    assert [example.answers[0] for example in world.decoded(only)] == greedy


@pytest.mark.parametrize("strategy", ["greedy", "sample"])
def test_no_special_token_leaks_into_a_target(world: World, strategy: Any) -> None:
    decoding = Decoding(strategy=strategy, top_k=300, temperature=5.0)
    stage = replace(world.stage, decoding=decoding, seed=1)
    for example in world.decoded(stage):
        assert not any(token in example.answers[0] for token in ("<ans>", "<eos>", "<task:"))
        assert example.answers[0].strip()


def test_an_empty_answer_leaves_the_given_one(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["" if place % 3 else f"said {place}" for place in range(ROWS)]
    monkeypatch.setattr(decode, "answers", lambda *args: said)
    obtain(world.stage, store)
    gold = world.stage.source.data.examples()
    targets = world.stage.load(Context(store, Path()))
    for place, (one, other) in enumerate(zip(targets, gold, strict=True)):
        assert one == (other if place % 3 else replace(other, answers=(f"said {place}",)))
    kept = said.count("")
    assert obtain(world.stage, store) == {"rows": ROWS, "empty": kept, "same": 100 * kept / ROWS}


def files(folder: Path) -> dict[str, str]:
    """The task as SQuAD-like files, in all its rows."""
    task = resolve(TaskSpec(name=TASK), data_dir=None, data_seed=0, caps={}, where="test")
    paths = {}
    for split in ("train", "dev", "test"):
        paths[split] = str(folder / f"{split}.json")
        write_squad(paths[split], task.splits[split].examples())  # type: ignore[index]
    return paths


def test_the_file_is_a_distil_file_of_its_task(world: World, tmp_path: Path) -> None:
    """As the original names and reads it; and as `distil:` of a task, row for row."""
    targets = world.decoded(world.stage)
    file = world.store.fetch("decode", world.stage.key) / world.stage.file
    assert file.name == f"{TASK}_to_squad-distil-v2.0.json"
    document = json.loads(file.read_text("utf-8"))
    items = [qa for paragraph in document["data"][0]["paragraphs"] for qa in paragraph["qas"]] + [
        qa for entry in document["data"][1:] for p in entry["paragraphs"] for qa in p["qas"]
    ]
    assert [qa["answers"][0]["text"] for qa in items] == [e.answers[0] for e in targets]
    assert read(squad.read, str(file), {}) == targets
    given = TaskSpec.model_validate({"name": TASK, "distil": str(file), "max_train": ROWS})
    drawn = world.stage.source.data
    seeds = [drawn.cap_seed]
    task = resolve(given, data_dir=None, data_seed=0, caps={}, where="test", seeds=seeds)
    assert task.splits["distil"].examples() == targets
    assert task.splits["train"].drawn(*seeds) == drawn
    with pytest.raises(InputError, match="answers are of one sample, and each seed draws its own"):
        resolve(given, data_dir=None, data_seed=0, caps={}, where="test", seeds=[*seeds, 1])
    own = {"name": "own", "metric": "dsem", "max_train": ROWS, "distil": str(file)}
    spec = TaskSpec.model_validate({**own, **files(tmp_path)})
    with pytest.raises(
        InputError, match="do not belong to this training split"
    ):  # another name caps others
        resolve(spec, data_dir=None, data_seed=0, caps={}, where="test")


@pytest.mark.parametrize("objective", ["seq", "seq-soft"])
def test_learning_from_the_file_is_learning_from_the_stage(world: World, objective: str) -> None:
    """A study that names the file of a teacher's answers needs no teacher to decode them."""
    kd = {"objective": objective, "weight": 0.6}
    world.decoded(world.stage)
    file = world.store.fetch("decode", world.stage.key) / world.stage.file
    by_stage = path(world.study(kd=kd))[1]
    by_file = path(world.study(kd=kd, tasks=[{"name": TASK, "distil": str(file)}, "gen.rest"]))[1]
    assert isinstance(by_stage.targets.source, Decode)
    assert isinstance(by_file.targets.source, Examples)
    assert (by_file.teacher is None) == (objective == "seq")
    one, other = (weights(stage, world.store) for stage in (by_stage, by_file))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_evaluation_decodes_as_it_is_told(world: World) -> None:
    """Greedy for every arm by default; sampled by one stream an example."""
    data = replace(world.study().resolved.tasks[TASK].splits["test"], cap=None, cap_seed=None)

    def said(decoding: Decoding, seed: int | None = None, rows: int | None = None) -> list[str]:
        chosen = data.drawn(0, rows)
        model = world.stage.teacher
        stage = EvaluateLM(
            model, Examples(chosen), "dsem", max_new_tokens=TOKENS, decoding=decoding, seed=seed
        )
        obtain(stage, world.store)
        text = (world.store.fetch("evaluate", stage.key) / PREDICTIONS).read_text("utf-8")
        found = [json.loads(line) for line in text.splitlines()]
        predictions.update({line["id"]: line["prediction"] for line in found})
        return [line["prediction"] for line in found]

    predictions: dict[str, str] = {}
    small = data.drawn(0, 6)
    assert said(Decoding("greedy"), rows=6) == naive(world, small)
    assert said(SAMPLED, 1) != said(SAMPLED, 2)
    whole = said(SAMPLED, 1)
    by_id = dict(predictions)
    few = said(SAMPLED, 1, rows=6)
    assert [by_id[example.id] for example in small.examples()] == few
    assert len(whole) > 6


def test_how_a_study_evaluates_is_in_the_key_where_it_matters() -> None:
    def stage(**decode: Any) -> EvaluateLM:
        study = planned(evaluate={"max_new_tokens": 6, "decode": decode}, seeds=[4])
        return next(iter(study.trials()[-1].cells)).stage

    assert stage() == stage(beams=7) == stage(top_k=3) == stage(strategy="greedy")
    assert stage().seed is None
    assert stage(strategy="beam", beams=2) != stage(strategy="beam", beams=3)
    assert stage(strategy="beam", beams=2) == stage(strategy="beam", beams=2, temperature=3.0)
    assert stage(strategy="beam").seed is None
    assert stage(strategy="sample").seed == 4
