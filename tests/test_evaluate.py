"""Evaluations: extra scores, the leak-free part, and what their keys depend on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.stage import Context, Scores
from l2kd_ray.core.store import Store
from l2kd_ray.families.evaluate import PREDICTIONS, Evaluate, unseen
from l2kd_ray.families.examples import Examples
from l2kd_ray.families.language.model.sequences import SequenceFormat
from l2kd_ray.families.language.stages.evaluate import EvaluateLM
from l2kd_ray.families.language.stages.start import Initial, Tokenizer
from l2kd_ray.study import Study
from l2kd_ray.tasks import Example, Task, resolve, score, write_squad
from l2kd_ray.tasks.spec import TaskSpec

ARCH = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}


def said(number: int) -> Example:
    act = f"inform(name='place {number}';food=thai)"
    return Example(str(number), act, "q", (f"place {number} serves thai food",))


def rnnlg(folder: Path, train: Sequence[int], test: Sequence[int], **more: Any) -> Task:
    """The task rnnlg.rest of files in which these inputs stand."""
    for split, numbers in (("train", train), ("test", test)):
        path = folder / f"rnnlg.rest_to_squad-{split}-v2.0.json"
        write_squad(path, [replace(said(n), id=str(i)) for i, n in enumerate(numbers)])
    spec = TaskSpec.model_validate({"name": "rnnlg.rest", **more})
    return resolve(spec, data_dir=folder, data_seed=0, caps={}, where="test")


def untrained(task: Task) -> Initial:
    tokenizer = Tokenizer(None, (Examples(task.splits["train"]),), 300, (task.name,))
    return Initial(None, "gpt2", ARCH, tokenizer, seed=1)


def evaluation(task: Task) -> EvaluateLM:
    test, seen = Examples(task.splits["test"]), task.seen and Examples(task.seen)
    return EvaluateLM(untrained(task), test, task.metric, task.extras, seen, 6)


class Parrot(Evaluate):
    """Answers as it is told."""

    def answers(self, context: Context, examples: Sequence[Example]) -> tuple[list[str], Scores]:
        return [f"place {example.id} serves greek food" for example in examples], {}


def lines(store: Store, stage: Evaluate) -> list[dict[str, Any]]:
    text = (store.fetch(stage.kind, stage.key) / PREDICTIONS).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_scores_and_lines_of_an_evaluation(tmp_path: Path, store: Store) -> None:
    # Places 0 to 9 are trained on; of the test inputs 8 to 11, two are so.
    task = rnnlg(tmp_path, range(10), [8, 9, 10, 11])
    made = evaluation(task)
    fields = (made.model, made.examples, made.metric, made.extras, made.seen)
    parrot = Parrot(*fields)
    scores = obtain(parrot, store)
    examples = task.splits["test"].examples()
    predictions = [f"place {n} serves greek food" for n in range(4)]
    for metric in ("rouge", "bleu", "slot_error"):
        assert scores[metric] == score(metric, predictions, examples)[0]  # type: ignore[arg-type]
        alone = score(metric, predictions[2:], examples[2:])[0]  # type: ignore[arg-type]
        assert scores[f"{metric}/leak_free"] == alone
    assert scores["examples/leak_free"] == 2
    assert scores["same/answers"] == 25
    assert scores["same/references"] == 25
    assert len(scores) == 9
    found = lines(store, parrot)
    each = {m: score(m, predictions, examples)[1] for m in ("rouge", "bleu", "slot_error")}  # type: ignore[arg-type]
    assert found == [
        {
            "id": str(n),
            "prediction": predictions[n],
            "score": each["rouge"][n],
            "bleu": each["bleu"][n],
            "slot_error": each["slot_error"][n],
            "leak_free": n > 1,
        }
        for n in range(4)
    ]


def test_an_untrained_model_is_evaluated(tmp_path: Path, store: Store) -> None:
    stage = evaluation(rnnlg(tmp_path, range(10), [0, 10]))
    scores = obtain(stage, store)
    assert scores["examples/leak_free"] == 1
    assert [line["leak_free"] for line in lines(store, stage)] == [False, True]
    assert 0 <= scores["rouge"] <= 100


def test_where_all_test_inputs_are_known_only_their_number_is_reported(
    tmp_path: Path, store: Store
) -> None:
    scores = obtain(evaluation(rnnlg(tmp_path, range(10), [1, 2])), store)
    assert {"rouge", "bleu", "slot_error", "examples/leak_free"} <= scores.keys()
    assert not any(name.endswith("/leak_free") for name in scores.keys() - {"examples/leak_free"})
    assert scores["examples/leak_free"] == 0


def test_without_extras_there_is_the_metric_alone(tmp_path: Path, store: Store) -> None:
    made = evaluation(rnnlg(tmp_path, range(10), [1, 2]))
    plain = EvaluateLM(made.model, made.examples, made.metric, max_new_tokens=6)
    counts = {name for name in obtain(plain, store) if not name.startswith(("cut/", "same/"))}
    assert counts == {"rouge"}
    assert all(line.keys() == {"id", "prediction", "score"} for line in lines(store, plain))


def test_an_evaluation_counts_what_it_cuts(tmp_path: Path, store: Store) -> None:
    """Prompts that are longer than the context leaves room for, and answers than may be said."""
    task = rnnlg(tmp_path, range(10), [0, 10])
    stage = evaluation(task)
    small = replace(stage.model, overrides={**ARCH, "n_positions": 16})
    stage = replace(stage, model=small, max_new_tokens=3)
    scores = obtain(stage, store)
    text = SequenceFormat.load(store.fetch("initial", stage.model.key))
    examples = task.splits["test"].examples()
    lengths = [
        [len(ids) for ids in text.encode([one.context, one.question, one.answers[0]])]
        for one in examples
    ]
    room = 16 - stage.max_new_tokens - 1  # for `<ans>`
    inputs = [max(c + q - room, 0) for c, q, _ in lengths]
    answers = [max(a - stage.max_new_tokens, 0) for _, _, a in lengths]
    assert 0 < sum(answers) < sum(a for *_, a in lengths)
    assert sum(inputs) > 0
    assert scores["cut/contexts"] == sum(map(bool, inputs))
    assert scores["cut/context_tokens"] == sum(inputs)
    assert scores["cut/answers"] == sum(map(bool, answers))
    assert scores["cut/answer_tokens"] == sum(answers)


def test_unseen_is_by_the_whole_input() -> None:
    test = [said(n) for n in (3, 1, 3, 4)]
    assert unseen(test, [said(1), said(2)]) == [0, 2, 3]
    assert unseen(test, test) == []


# Keys -------------------------------------------------------------------------------------------


def test_the_key_follows_the_training_inputs_but_not_their_cap(tmp_path: Path) -> None:
    def key(*arguments: Any, **more: Any) -> str:
        task = rnnlg(*arguments, **more)
        return replace(evaluation(task), model=model).key

    model = untrained(rnnlg(tmp_path, range(10), [8, 12]))
    first = key(tmp_path, range(10), [8, 12])
    assert key(tmp_path, range(10), [8, 12], max_train=3) == first
    assert key(tmp_path, range(10), [8, 12], dev_fraction=0.5) == first
    assert key(tmp_path, range(11), [8, 12]) != first


@pytest.fixture
def study(tiny: Any, tmp_path: Path) -> Any:
    def make(train: int) -> Study:
        rows = [json.dumps({"text": f"t{n}", "label": str(n % 2)}) for n in range(train)]
        own = {"name": "own", "train": str(tmp_path / "a.jsonl"), "test": str(tmp_path / "b.jsonl")}
        Path(own["train"]).write_text("\n".join(rows))
        Path(own["test"]).write_text("\n".join(rows[:4]))
        rnnlg(tmp_path, range(train), [1, 50])
        return tiny(
            tasks=["rnnlg.rest", own, "gen.rest"],
            data_dir=str(tmp_path),
            max_train=None,
            orders=[["own", "rnnlg.rest", "gen.rest"]],
            search={"kd.weight": {"grid": [0, 1]}},
            tokenizer={"vocab_size": 300, "tasks": ["gen.tv"]},
        )

    return make


def test_a_study_asks_for_extras_and_for_the_leak_free_part_of_test_alone(study: Any) -> None:
    def evaluations(found: Study, step: int) -> dict[tuple[str, str], Evaluate]:
        cells = found.trials()[-1].steps[step]
        return {(cell.task, cell.split): cell.stage for cell in cells}

    few, more = evaluations(study(30), 0), evaluations(study(40), 0)  # of the untrained model
    last = evaluations(study(30), -1)
    assert few["rnnlg.rest", "test"].seen is not None
    assert [last[cell].seen for cell in last if cell != ("rnnlg.rest", "test")] == [None] * 5
    assert last["rnnlg.rest", "dev"].extras == few["gen.rest", "test"].extras
    assert few["own", "test"].extras == ()
    tasks = study(30).resolved.tasks
    for (task, _), stage in few.items():
        assert (stage.metric, stage.extras) == (tasks[task].metric, tasks[task].extras)
    assert len({stage.metric for stage in few.values()}) > 1
    assert any(stage.extras for stage in few.values())
    # More training data change what is unseen of rnnlg.rest, and no other test evaluation.
    changed = {
        task for task, split in few if split == "test" and few[task, split] != more[task, split]
    }
    assert changed == {"rnnlg.rest"}
