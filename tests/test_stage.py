"""A stage's key: what is in it, what is not; its inputs; the parts of a training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.core.stage import Context, Optimisation, Stage, TrainingStage
from l2kd_ray.core.store import Store


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    extra: int | None = None
    folder: str = field(default="", metadata={"identity": False})


@dataclass(frozen=True)
class Others:
    """Other settings of the same fields."""

    rate: float = 0.1


@dataclass(frozen=True, eq=False)
class Source(Stage):
    kind = "source"
    number: int = 0


@dataclass(frozen=True, eq=False)
class Work(Stage):
    kind = "work"
    settings_of: Settings | Others = Settings()
    sources: tuple[Source, ...] = ()
    option: int | None = None
    folder: str = field(default="", metadata={"identity": False})


@dataclass(frozen=True, eq=False)
class SameFields(Work):
    """Another class of the same kind."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Training(TrainingStage):
    kind = "learn"


def test_what_a_stage_is_made_of_is_in_its_key() -> None:
    work = Work(sources=(Source(1), Source(2)))
    others = [
        SameFields(sources=work.sources),
        replace(work, settings_of=Settings(rate=0.2)),
        replace(work, settings_of=Settings(extra=0)),
        replace(work, settings_of=Others()),
        replace(work, sources=(Source(2), Source(1))),
        replace(work, sources=(Source(1),)),
        replace(work, option=0),
        replace(work, code="0123"),
    ]
    assert len({one.key for one in (work, *others)}) == 1 + len(others)


@pytest.mark.parametrize("name", ["version", "source_code"])
def test_so_are_its_version_and_its_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Work().key
    monkeypatch.setattr(Work, name, 2 if name == "version" else "0123")
    assert Work().key != before


def test_so_is_the_source_of_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Work().key
    monkeypatch.setattr(Settings, "source_code", "0123", raising=False)
    assert Work().key != before


def test_a_new_option_that_is_off_and_where_a_thing_lies_are_not() -> None:
    assert Work(folder="here").key == Work(folder="there").key
    assert Work(Settings(folder="here")).key == Work(Settings(folder="there")).key
    assert "option" not in Work().settings
    assert "extra" not in Work().settings["settings_of"]


def test_inputs_are_found_in_lists_and_settings() -> None:
    @dataclass(frozen=True)
    class Holding:
        source: Source

    @dataclass(frozen=True, eq=False)
    class Reader(Stage):
        kind = "reader"
        one: Source
        several: tuple[Source, ...]
        held: Holding

    stages = [Source(n) for n in range(4)]
    reader = Reader(stages[0], tuple(stages[1:3]), Holding(stages[3]))
    names = ["one", "several.0", "several.1", "held.source"]
    assert dict(reader.inputs()) == dict(zip(names, stages, strict=True))


def test_a_training_in_parts_ends_them_where_it_is_told() -> None:
    whole = Training(optimisation=Optimisation(epochs=4, batch_size=1, lr=0.1), seed=0)
    assert whole.in_parts(()) == whole.in_parts((4,)) == whole
    last = whole.in_parts((1, 2, 4))
    parts = [last.before and last.before.before, last.before, last]
    assert [part and part.until for part in parts] == [1, 2, None]
    assert parts[0] is not None
    assert parts[0].before is None
    assert [last.at(rung) for rung in (1, 2, 4)] == parts
    assert whole.at(1) == whole


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_work_is_shared_out_whole_and_once(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker does its share, and has everybody's afterwards, in the items' order."""
    items = list(range(7))
    store, shares = Store(str(tmp_path)), dict[int, list[int]]()

    def gather(parts: list[Any], mine: list[int]) -> None:
        parts[:] = [[10 * n for n in items[rank::workers]] for rank in range(workers)]
        assert mine in parts

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    for rank in range(workers):

        def work(share: Any, rank: int = rank) -> list[int]:
            shares[rank] = list(share)
            return [10 * item for item in share]

        context = Context(store, tmp_path, rank=rank, world_size=workers)
        assert context.shared_out(work, items) == [10 * item for item in items]
    assert sorted(item for share in shares.values() for item in share) == items
