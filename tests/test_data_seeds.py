"""Training data as a source of variance: each replicate trains on its own draw of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.stage import Stage
from l2kd_ray.errors import InputError
from l2kd_ray.families.examples import Examples
from l2kd_ray.study import Study, Trial, load

SHIPPED = Path(__file__).parent.parent / "tune_configs"
SMALL = {
    "quickstart": {},
    "mkd_small": {},
    "metakd_small": {"metakd.share": 0.5},
    "structkd_small": {"structkd.unlabelled": 7},
}
"""A study of every family with caps, and options with a draw of their own."""


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def small(name: str, **changes: Any) -> Study:
    learns_in_order = name in ("quickstart", "structkd_small")
    orders = {"orders": {"random": 2}} if learns_in_order else {}
    return load(SHIPPED / f"{name}.yaml", {**SMALL[name], **orders, **changes})


def read(trial: Trial) -> Iterator[Examples]:
    """The examples that a trial's models are trained on, without a tokenizer's."""
    waiting: list[Stage] = [cell.stage.model for cell in trial.cells]
    seen = set[Stage]()
    while waiting:
        stage = waiting.pop()
        if stage in seen or stage.kind == "tokenizer":
            continue
        seen.add(stage)
        if isinstance(stage, Examples):
            yield stage
        waiting += [source for _, source in stage.inputs()]


def models(study: Study, seed: str) -> set[str]:
    """The keys of the models at the end."""
    trials = [trial for trial in study.trials() if str(trial.seed) == seed]
    return {cell.stage.model.key for trial in trials for cell in trial.steps[-1]}


def test_every_training_reads_its_own_seeds_draw(name: str) -> None:
    study = small(name, seeds={"train": [1, 2], "data": [5, 6]})
    assert {str(trial.seed) for trial in study.trials()} == {"1d5", "1d6", "2d5", "2d6"}
    for trial in study.trials():
        found = list(read(trial))
        assert found
        for stage in found:
            drawn = stage.data.cap_seed == trial.seed.data
            assert drawn or stage.data.split == "dev", (trial.id, stage.data)


def test_a_seed_draws_for_itself_by_default(name: str) -> None:
    together, apart = small(name, seeds=[1, 2]), small(name, seeds={"train": [1, 2], "data": [1]})
    assert models(together, "1") == models(apart, "1")
    assert not models(together, "2") & models(apart, "2d1")
    first, second = (
        {stage.key for t in together.trials() if str(t.seed) == seed for stage in read(t)}
        for seed in "12"
    )
    assert not {key for key in first & second if not is_dev(together, key)}


def is_dev(study: Study, key: str) -> bool:
    return key in {
        study.builder.examples(t.splits["dev"]).key for t in study.resolved.tasks.values()
    }


def test_what_is_scored_and_the_tokenizer_are_of_no_seed(name: str) -> None:
    study = small(name, seeds=[1, 2])
    for stages in (
        {t.seed.train: {c.stage.examples.key for c in t.cells} for t in study.trials()},
        {
            t.seed.train: {s.key for s in t.stages() if s.kind == "tokenizer"}
            for t in study.trials()
            if not t.is_reference
        },
    ):
        assert stages[1] == stages[2]


def test_draws_differ_hold_the_cap_and_grow(name: str) -> None:
    study = small(name)
    for task in study.resolved.tasks.values():
        train = task.splits["train"]
        pool = [row.id for row in train.source.read()]
        draws = {seed: [row.id for row in train.drawn(seed).examples()] for seed in range(4)}
        for rows in draws.values():
            assert len(rows) == train.cap == train.rows
            assert rows == [row for row in pool if row in set(rows)]  # in upstream order
        assert len({tuple(rows) for rows in draws.values()}) == 4
        more = {row.id for row in train.drawn(0, len(draws[0]) + 3).examples()}
        assert set(draws[0]) < more


def test_without_a_cap_there_is_nothing_to_draw() -> None:
    seeds = {"train": [1], "data": [5, 6]}
    with pytest.raises(InputError, match="no cap cuts train") as error:
        small("quickstart", max_train=None, seeds=seeds)
    assert error.value.key == "seeds.data"
    whole = small("quickstart", max_train=None, seeds={"train": [1], "data": [5]})
    assert models(whole, "1d5") == models(small("quickstart", max_train=None, seeds=[1]), "1")


def test_replay_seeds_that_nothing_reads_are_refused() -> None:
    seeds = {"train": [1], "replay": [5, 6]}
    with pytest.raises(InputError, match="no method draws replays") as error:
        small("mkd_small", seeds=seeds)
    assert error.value.key == "seeds.replay"
    assert len(small("quickstart", seeds=seeds).config.replicates) == 2


def test_the_data_section_counts_the_first_draw_and_names_what_others_lack(tmp_path: Path) -> None:
    rows = [f'{{"text": "t{k}", "label": "{"common" if k else "rare"}"}}' for k in range(40)]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    tasks = [{"name": "own", "max_test": 39, **files}, "made.topics.a"]
    study = small("mkd_small", tasks=tasks, max_train=20, seeds=[1, 2, 3, 4])
    task = study.resolved.tasks["own"]
    drawn = {seed: task.splits["train"].drawn(seed).examples() for seed in (1, 2, 3, 4)}
    without = [s for s, own in drawn.items() if "rare" not in {row.answers[0] for row in own}]
    assert 0 < len(without) < 4
    size, *lacking = task.remarks[-1 - len(without) :]
    assert size == "each seed trains on its own sample of 20 of 40 rows; the counts are seed 1's"
    assert lacking == [f"the sample of seed {seed} lacks 1 labels: rare" for seed in without]
    counted = task.summaries["train"].labels
    assert counted.get("rare", 0) == sum(row.answers[0] == "rare" for row in drawn[1])
