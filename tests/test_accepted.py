"""Accepted means it runs: combinations of settings, any two values of which meet in one of them.

A study is refused by its plan, or every stage of a trial runs, on a dozen examples. What a message
names is removed: what is left must be accepted, or refused in turn.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from allpairspy import AllPairs

from l2kd_ray.core.execute import obtain
from l2kd_ray.core.store import Store
from l2kd_ray.errors import InputError
from l2kd_ray.experiment import Experiment
from l2kd_ray.families.classifiers.model.encoders import build_encoder
from l2kd_ray.families.classifiers.model.wordpiece import train_wordpiece
from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.study import Study, Trial
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.tasks import Source
from l2kd_ray.testing.studies import tiny

Value = Mapping[str, Any]
"""What one value of a factor sets: dotted keys of a study file."""
Factors = Mapping[str, list[Value]]

BERT = {
    "arch": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "vocab_size": 200,
}  # fmt: skip
LSTM = {"arch": "bilstm", "embedding": 8, "hidden": 4}
PRETRAINED: dict[str, Any] = {"model": "encoder"}
FIRST = {"model": "encoder", "layers": 1}
GPT = {"arch": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 96}
T5 = {"arch": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
WORDS = {"word_size": 6, "character_size": 4, "arc_size": 4, "relation_size": 4, "span_size": 4}
TAGGER = {"arch": "bilstm", "hidden": 4, **WORDS}
TRANSFORMER = {"arch": "transformer", "hidden": 8, "attention_heads": 2, **WORDS}
FEATURES = {"arch": "none", **WORDS}


def each(key: str, *values: object) -> list[Value]:
    """A factor of one key; None is not to set it."""
    return [{} if value is None else {key: value} for value in values]


FRAME: Factors = {
    "search": [
        {},
        {"search": {"train.lr": {"grid": [1e-3, 2e-3]}}},
        {"search": {"train.lr": {"loguniform": [1e-4, 1e-2]}, "kd.weight": {"choice": [0, 0.5]}}},
        {"search": {"kd.weight": {"grid": [0, 1]}, "train.batch_size": {"choice": [4, 12]}}},
    ],
    "tune": [
        {},
        {"tune.num_samples": 2},
        {"tune.searcher": "optuna"},
        {"tune.searcher": "optuna", "tune.objectives": ["new", "old"]},
        {"tune.searcher": "optuna", "tune.scheduler": "asha"},
        {"tune.scheduler": "asha"},
        {"tune.scheduler": "race"},
        {"tune.select_on.seeds": "half"},
        {"tune.stop.half_width": 3.0},
    ],
    "seeds": each("seeds", None, [1, 2], {"train": [1], "data": [3, 4]}),
    "rungs": each("train.rungs", None, [1, 2], [2, 3]),
    "workers": each("scale.workers", None, 2, [1, 2]),
    "precision": each("train.precision", None, "bfloat16"),
    "weight": each("kd.weight", None, 0.5, 1.0),
    "teaching": [{}, {"teaching": {"epochs": 1, "max_train": 20}}],
    "share": each("share", None, False),
    "arm": [{}, {"arm": {"train.lr": 2e-3}}, {}, {"arm": {"kd.weight": 0.0}}],
}
FACTORS: Mapping[str, Factors] = {
    "language": {
        "method": [{"methods": name} for name in LANGUAGE_METHODS],
        "student": [{}, {"student": T5, "train.max_length": 64}],
        "teacher": each("teacher", None, {**GPT, "n_embd": 24}, GPT, T5, PRETRAINED),
        "objective": each("kd.objective", None, "word", "seq", "seq-soft"),
        "divergence": each("kd.divergence", None, "reverse", "jsd", "skew_reverse", "tvd"),
        "scale": each("kd.scale", None, "none"),
        "teachers": each("kd.teachers", None, "new", "previous", "both", "self"),
        "policy": each("kd.policy", None, "student", "mix"),
        "sampling": [
            {"kd.sampling.max_new_tokens": 4},
            {"kd.sampling.renew_every": 2, "kd.sampling.top_k": 5},
        ],
        "itself": each("kd.self_teacher", None, "ema", "live"),
        "demonstration": [{"kd.demonstration": "so {answer} :", "kd.skip_tokens": 1}, {}],
        "run": each("kd.teacher", None, "online", "cached"),
        "top_k": each("kd.top_k", None, 4),
        "decode": each("kd.decode.strategy", None, "beam", "sample"),
        "replay": each("replay.ratio", None, 0.0, 1.0),
        "replay weight": each("replay.weight", None, "separate", 2.0),
        "filters": each("replay.filters", None, ["ended", "label"]),
        "agreement": each("replay.agreement", None, 0.0),
        "lm": each("train.lm_weight", None, 0.0),
        "lora": each("train.lora", None, {"r": 2}),
        "average": each("train.average", None, 0.5),
        "prompt": each("task_prompt", None, "text"),
        "orders": each("orders", None, "williams", {"random": 1}, {"search": "worst", "budget": 4}),
        "tasks": each("tasks", None, ["gen.rest"], ["gen.rest", "gen.intent", "gen.state"]),
    },
    "classifiers": {
        "method": [{"methods": name} for name in ("mkd", "metakd", "metakd-stream")],
        "student": each("student", LSTM, BERT, PRETRAINED, FIRST),
        "teacher": each("teacher", None, LSTM, BERT, PRETRAINED, FIRST),
        "tasks": each(
            "tasks",
            ["made.topics.a", "made.topics.b"],
            ["made.topics.a"],
            ["made.pairs.a", "made.topics.a"],
            ["numbers", "made.topics.a"],
            ["few", "made.topics.a"],
        ),
        "mkd.teacher": each("mkd.teacher", None, "single"),
        "mkd.student": each("mkd.student", None, "single"),
        "finetune": each("mkd.finetune_epochs", None, 1),
        "meta": each("metakd.teacher", None, "all", "multitask", "single"),
        "hidden": each("metakd.hidden", None, 0.0),
        "attention": each("metakd.attention", None, 0.0),
        "transfer": each("metakd.transfer", None, 0.0),
        "prediction": each("metakd.prediction", None, 0.0),
        "corruption": each("metakd.corruption", None, 0.0),
        "prototypes": each("metakd.prototypes", None, False),
        "centroid": each("metakd.centroid", None, "domain"),
        "raw": each("metakd.raw", None, True),
        "expertise": each("metakd.expertise", None, False),
        "stages": each("metakd.stages", None, "two"),
        "out": each("metakd.leave_out", None, True),
        "metakd.share": each("metakd.share", None, 0.25),
    },
    "structures": {
        "method": [{"methods": "structkd"}],
        "case": each("structkd.case", "1a", "1b", "2a", "2b", "3", "4", "tree", "projective"),
        "objective": each(
            "structkd.objective", None, "structural", "token", "posterior", "top-k", "top-wk"
        ),
        "tasks": each("tasks", "bioes", "iob2", "iob1", "plain", "outside", "two"),
        "student": each("student", TAGGER, TRANSFORMER, FEATURES, PRETRAINED),
        "teacher": each("teacher", None, TRANSFORMER, TAGGER, PRETRAINED),
        "scope": each("structkd.scope", None, "local"),
        "temperature": each("kd.temperature", None, 3.0),
        "k": each("structkd.k", None, 2),
        "anneal": each("structkd.anneal", None, 0.0),
        "unlabelled": each("structkd.unlabelled", None, 3, 10_000),
        "patience": each("train.patience", None, 1),
        "longest": each("train.max_length", None, 8),
    },
}
"""The factors of a family's studies, beside those of every study."""
SENTENCES = {
    "bioes": ["B-x E-x O S-y", "S-x O B-y E-y"],
    "iob2": ["B-x I-x O B-y", "B-x O B-y I-y"],
    "iob1": ["I-x I-x O I-y", "I-x B-x I-y I-y"],
    "plain": ["DET NOUN VERB NOUN", "NOUN VERB DET NOUN"],
    "outside": ["O O O O", "O O O O"],
}
TREES = ["2:det 0:root 4:det 2:obj", "2:nsubj:pass 0:root 2:obj 3:nmod"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that studies name, and a store that all of them share."""
    folder: Path = tmp_path_factory.mktemp("accepted")
    texts = [f"bada dodo kiki {letter} {n}" for n in range(9) for letter in "abcdefghijklmnop"]
    tokenizer = train_wordpiece(texts, 200)
    sizes = {name: size for name, size in BERT.items() if name not in ("arch", "vocab_size")}
    build_encoder("bert", sizes, tokenizer, 0).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    for name, tags in SENTENCES.items():
        rows = [tags[n % 2].split() for n in range(24)]
        words = [[f"w{n % 5}{tag}".replace("-", "") for tag in row] for n, row in enumerate(rows)]
        blocks = [
            "".join(f"{word} {tag}\n" for word, tag in zip(*pair, strict=True))
            for pair in zip(words, rows, strict=True)
        ]
        (folder / f"{name}.conll").write_text("\n".join(blocks))
    blocks = []
    for n in range(24):
        lines = []
        for place, label in enumerate(TREES[n % 2].split(), start=1):
            head, _, relation = label.partition(":")
            lines.append(f"{place}\tw{n % 4}{place}\t_\t_\t_\t_\t{head}\t{relation}\t_\t_\n")
        blocks.append("".join(lines))
    (folder / "trees.conllu").write_text("\n".join([*blocks, ""]))
    rows = [{"text": f"bada {n} dodo", "label": str(n % 7 / 2)} for n in range(24)]
    (folder / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": f"kiki {n}", "label": "rare" if n == 0 else "usual"} for n in range(24)]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def file_of(name: str, suffix: str, **more: Any) -> dict[str, Any]:
    files = dict.fromkeys(("train", "dev", "test"), f"{name}.{suffix}")
    return {"name": name, **files, "max_dev": 3, **more}


def task(name: str, case: str) -> list[Any]:
    """The task of a factor's value; trees for a case of trees."""
    if name == "numbers":
        return [file_of(name, "jsonl", kind="regress")]
    if name == "few":
        return [file_of(name, "jsonl", kind="classify")]
    if name not in (*SENTENCES, "two"):
        return [name]
    trees = file_of("trees", "conllu", metric="las")
    made = "made.trees.a" if case in ("1b", "2b", "tree", "projective") else "made.tags.a"
    if made == "made.trees.a":
        return [made] if name == "two" else [trees]
    if name == "two":
        return [file_of("bioes", "conll"), made]
    return [file_of(name, "conll", metric="em" if name == "plain" else "span_f1")]


def study_file(family: str, values: Value) -> dict[str, Any]:
    """The study of a combination of values."""
    chosen = dict(values)
    if "tasks" in chosen:
        names = chosen["tasks"] if isinstance(chosen["tasks"], list) else [chosen["tasks"]]
        case = chosen.get("structkd.case", "")
        chosen["tasks"] = [one for name in names for one in task(name, case)]
    own = chosen.pop("arm", None)
    if own:
        chosen["methods"] = [{"name": "own", "method": chosen["methods"], "settings": own}]
    data = tiny(family, max_train=12, train={"epochs": 2, "batch_size": 12, "lr": 1e-3})
    data.pop("teacher", None)
    if family == "classifiers":
        data["train"]["max_length"] = 16
    return parsed(data, chosen)


def parsed(data: dict[str, Any], dotted: Value) -> dict[str, Any]:
    """The data with dotted keys put in place."""
    for key, value in dotted.items():
        *parents, last = key.split(".")
        place = data
        for parent in parents:
            place[parent] = dict(place.get(parent) or {})
            place = place[parent]
        place[last] = value
    return data


def combinations(family: str) -> Iterator[dict[str, Any]]:
    """All pairs of values of two factors, twice: with others beside them where factors are taken
    the other way round."""
    factors = [*FACTORS[family].values(), *FRAME.values()]
    for values in (*AllPairs(factors), *AllPairs(factors[::-1])):
        yield {key: value for one in values for key, value in one.items()}


@dataclass
class Counts:
    """What became of the combinations."""

    drawn: int = 0
    refused: int = 0
    """How many of these were refused as they were drawn."""
    run: int = 0
    """How many ran in the end, some of them without what was refused."""
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.drawn} drawn, {self.refused} refused at first, {self.run} run in the end, "
            f"{len(self.faults)} faults"
        )


def without(values: dict[str, Any], refused: InputError) -> dict[str, Any] | None:
    """The combination without what the message names; None if that cannot be done without."""
    key = refused.key.rpartition(": ")[2]
    if zero := re.search(r"set (metakd\.\w+): 0", refused.fix):
        own = {name: value for name, value in values.get("arm", {}).items() if name != zero[1]}
        return {**values, zero[1]: 0.0, "arm": own}
    searched = values.get("search", {})
    named = [name for name in searched if key in (name, f"search.{name}")]
    if named:
        return {**values, "search": {k: v for k, v in searched.items() if k not in named}}
    kept = {
        name: value
        for name, value in values.items()
        if name in ("methods", "tasks")
        or not (key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."))
    }
    if len(kept) == len(values) and refused.key.startswith("methods: "):
        kept.pop("arm", None)
    return kept if len(kept) < len(values) else None


def run(study: Study, store: Store) -> None:
    """Plan the study, and run every stage of one trial of each arm and of the bound."""
    Experiment(study, store, "l2kd sweep").plan()
    config, chosen = study.config, list[Trial]()
    for arm in config.arms:
        setting = config.search_examples(at_once=2)[-1]
        setting = setting if config.search and study.reads_search(arm) else {}
        order, seed = study.orders[-1], str(config.replicates[-1])
        chosen.append(study.trial(arm.name, setting, order, seed))
        if config.tune.scheduler == "asha":
            model = chosen[-1].steps[-1][-1].stage.model
            assert config.rungs
            assert model.at(config.rungs[0]) != model, "asha has nothing to cut"
    chosen.append(study.trial("multitask", {}, (), str(config.replicates[-1])))
    for trial in chosen:
        for cell in trial.cells:
            obtain(cell.stage, store)


def tried(family: str, values: dict[str, Any], store: Store, counts: Counts) -> None:
    """Count what becomes of a combination."""
    counts.drawn += 1
    left: dict[str, Any] | None = values
    first = True
    while left is not None:
        try:
            study = resolve_study(parse_study(study_file(family, left)), Path("study.yaml"))
            Experiment(study, store, "l2kd sweep").plan()
        except InputError as error:
            counts.refused += first
            first, left = False, without(left, error)
            continue
        run(study, store)
        counts.run += 1
        return


def all_tried(family: str, folder: Path, every: int = 1) -> Counts:
    """The counts of a family's combinations, or of one in so many."""
    counts, store = Counts(), Store(str(folder / "store"))
    for number, values in enumerate(combinations(family)):
        if number % every:
            continue
        try:
            tried(family, values, store, counts)
        except Exception:
            counts.faults.append(f"{values}\n{traceback.format_exc(limit=-4)}")
    return counts


@pytest.fixture
def named_files(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files, from which studies are read; generated tasks are generated once."""
    monkeypatch.chdir(world)
    monkeypatch.setattr(Source, "read_counted", _read)
    return world


_read = cache(Source.read_counted)


@pytest.mark.parametrize("family", FACTORS)
def test_what_is_accepted_runs(family: str, named_files: Path) -> None:
    """One in 40 of the combinations; `make drills` has all of them."""
    counts = all_tried(family, named_files, every=40)
    assert not counts.faults, "\n\n".join([str(counts), *counts.faults])
    assert counts.run >= 3


@pytest.mark.drill
@pytest.mark.parametrize("family", FACTORS)
def test_all_that_is_accepted_runs(family: str, named_files: Path) -> None:
    counts = all_tried(family, named_files)
    print(f"{family}: {counts}")
    assert not counts.faults, "\n\n".join([str(counts), *counts.faults])
