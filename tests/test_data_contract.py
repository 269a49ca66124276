"""What happens to odd data: every line of the table in docs/data.md, on a small input."""

from __future__ import annotations

import bz2
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import Task, resolve
from l2kd_ray.tasks.readers import files
from l2kd_ray.tasks.spec import TaskSpec

PAGE = Path(__file__).parents[1] / "docs/data.md"
LABELS = {"labels": ["neg", "pos"]}
SUPERNI = {"format": "superni"}
LEAVE_OUT = {"unanswered": "leave out"}


@dataclass(frozen=True)
class Odd:
    """A file with an oddity, and what is read of it: texts and answers, counts, or a refusal."""

    line: str
    """The format and the oddity, as in the page's table."""
    file: str
    content: str | bytes
    spec: dict[str, Any] = field(default_factory=dict)
    read: list[tuple[str, str]] | None = None
    counted: dict[str, int] = field(default_factory=dict)
    refused: str = ""


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(*labels: Any) -> str:
    return jsonl(*({"text": f"t{n}", "label": label} for n, label in enumerate(labels)))


def squad(*answers: list[str]) -> str:
    qas = [
        {"id": str(n), "question": "?", "answers": [{"text": text} for text in texts]}
        for n, texts in enumerate(answers)
    ]
    return json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]})


def superni(*outputs: Any) -> str:
    rows = [{"input": f"i{n}", "output": output} for n, output in enumerate(outputs)]
    return json.dumps({"Definition": ["Do it."], "Instances": rows})


def word(number: str, form: str, head: str) -> str:
    return "\t".join([number, form, *"____", head, "x" if head != "_" else "_", "_", "_"])


AB = [("a", "x"), ("b", "y")]
QUOTES = [
    ("The film opened in May .", "pos"),
    ('"I never said that , he told us', "neg"),
    ("The shares fell again .", "pos"),
    ('they left early , she added"', "neg"),
    ("It rained .", "pos"),
]
TSV = "id\tsentence\tlabel\n" + "".join(
    f"{n}\t{text}\t{int(label == 'pos')}\n" for n, (text, label) in enumerate(QUOTES, start=1)
)
LONE = TSV.replace('she added"', "she added")
SENTENCE = {"columns": {"context": "sentence"}, **LABELS}
WIDE = ["\u00a0", "\u3000", "\u2028", "\x85", "\x0b", "\x1c"]
CASES = [
    Odd("any file | UTF-16 with a byte order mark", "a.csv",
        "text,label\nü,x\n".encode("utf-16"), read=[("ü", "x")]),
    Odd("any file | UTF-16 with a byte order mark", "a.jsonl",
        labelled("x").encode("utf-16"), read=[("t0", "x")]),
    Odd("any file | UTF-16 with a byte order mark", "a.conll",
        "ü B-x\nb O\n".encode("utf-32"), read=[("ü b", "S-x O")]),
    Odd("any file | another encoding", "a.csv", "text,label\na,b\nü,x\n".encode("latin-1"),
        refused=r"a\.csv:3: the file is not UTF-8"),
    Odd("any file | another encoding", "a.csv", "text,label\na,b\n".encode("utf-16")[:-1],
        refused=r"a\.csv:2: the file is not UTF-16"),
    Odd("any file | a NUL character", "a.csv", "text,label\na,b\n".encode("utf-16-le"),
        refused=r"a\.csv:1: the file is not UTF-8(?s:.*)byte order mark"),
    Odd("any file | a NUL character", "a.conll", "a O\n\0 O\n", refused=r"a\.conll:2"),
    Odd("any file | CR as line ends", "a.csv", "text,label\ra,x\rb,y\r", read=AB),
    Odd("any file | CR as line ends", "a.tsv", "text\tlabel\ra\tx\rb\ty\r", read=AB),
    Odd("any file | CR as line ends", "a.jsonl", labelled("x", "y").replace("\n", "\r"),
        read=[("t0", "x"), ("t1", "y")]),
    Odd("any file | CR as line ends", "a.conll", "a B-x\rb O\r\rc O\r",
        read=[("a b", "S-x O"), ("c", "O")]),
    Odd("any file | CR as line ends", "a.txt", "a b\rc\r", {"format": "text"},
        read=[("a b", ""), ("c", "")]),
    *(
        Odd("any file | U+2028, U+0085 and the like in a text", name, content,
            read=[(f"a{space}b", "x")])
        for space in WIDE
        for name, content in (
            ("a.csv", f"text,label\na{space}b,x\n"),
            ("a.tsv", f"text\tlabel\na{space}b\tx\n"),
            ("a.jsonl", json.dumps({"text": f"a{space}b", "label": "x"}, ensure_ascii=space < " ")),
        )
    ),
    *(
        Odd("any file | an id that is repeated", name, content, counted={"repeated id": 2})
        for name, content in (
            ("a.csv", "id,text,label\n7,a,x\n7,b,y\n7,c,x\n"),
            ("a.jsonl", jsonl(*[{"id": 7, "text": "a", "label": "x"}] * 3)),
            ("a.json", squad(["x"], ["x"], ["x"]).replace('"id": "1"', '"id": "0"')
             .replace('"id": "2"', '"id": "0"')),
        )
    ),
    Odd("tables | an id that is empty", "a.csv", "id,text,label\n,a,x\n3,b,y\n", read=AB,
        counted={"empty id": 1}),
    Odd("tables | an id that is empty", "a.jsonl",
        jsonl({"id": None, "text": "a", "label": "x"}, {"id": " ", "text": "b", "label": "y"}),
        read=AB, counted={"empty id": 2}),
    Odd("tables | blanks around an answer", "a.csv",
        "context,question,answer\na, ? , x\u3000\n", read=[("a", " x\u3000")]),
    Odd("tables | a label by number", "a.csv", "text,label\ngood,1\nbad,0\n", LABELS,
        read=[("good", "pos"), ("bad", "neg")], counted={"label by number": 2}),
    Odd("tables | a label by number", "a.csv", "text,label\ngood,1.0\nbad,0.0\n", LABELS,
        read=[("good", "pos"), ("bad", "neg")], counted={"label by number": 2}),
    Odd("tables | a label by number", "a.csv", "text,label\ngood, 1\nbad, 0\n", LABELS,
        read=[("good", "pos"), ("bad", "neg")], counted={"label by number": 2}),
    Odd("tables | a label by number", "a.csv", "text,label\ngood,True\nbad,False\n", LABELS,
        read=[("good", "pos"), ("bad", "neg")], counted={"label by number": 2}),
    Odd("tables | a label by number", "a.jsonl", labelled(True, False, 1, 0.0, "1"), LABELS,
        read=[("t0", "pos"), ("t1", "neg"), ("t2", "pos"), ("t3", "neg"), ("t4", "pos")],
        counted={"label by number": 5}),
    Odd("tables | a label by number", "a.csv", "text,label\na,1\nb,0\n", {"labels": [0, 1]},
        read=[("a", "1"), ("b", "0")]),
    Odd("tables | a label in blanks", "a.csv", "text,label\ngood, pos\nbad, neg\n", LABELS,
        read=[("good", "pos"), ("bad", "neg")], counted={"label in blanks": 2}),
    *(
        Odd("tables | a number beyond the labels", "a.csv", f"text,label\na,1\nb,{number}\n",
            LABELS, refused=r"a\.csv:3: no such label(?s:.*)0 \(neg\), 1 \(pos\)")
        for number in ("2", "-2", "2.0", "0.5", "1e0")
    ),
    Odd("tables | a text that is no label", "a.csv", "text,label\na,1\nb,Pos\n", LABELS,
        refused=r"a\.csv:3: no such label(?s:.*)got: +'Pos'"),
    Odd("tables | a text that is no label", "a.jsonl", labelled("pos", "positive"), LABELS,
        refused=r"a\.jsonl:2: no such label"),
    *(
        odd
        for content, spec in (
            (labelled("pos", None), {}), (labelled("pos", ""), {}), (labelled("pos", " "), {}),
            (labelled("pos", float("nan")), {}), (labelled("pos", []), {}),
            (labelled("pos", [None, ""]), {}), (labelled("pos", -1), LABELS),
            (labelled("pos", "-1.0"), LABELS),
        )
        for odd in (
            Odd("tables | no answer", "a.jsonl", content, spec,
                refused=r"a\.jsonl:2: there is no answer(?s:.*)unanswered: leave out"),
            Odd("tables | no answer, and `unanswered: leave out`", "a.jsonl", content,
                {**spec, **LEAVE_OUT}, read=[("t0", "pos")], counted={"no answer": 1}),
        )
    ),
    Odd("tables | no answer", "a.csv", "text,label\na,x\nb,\n", refused=r"a\.csv:3: there is no"),
    Odd("tables | no answer, and `unanswered: leave out`", "a.csv", "text,label\na,x\nb,\n",
        LEAVE_OUT, read=[("a", "x")], counted={"no answer": 1}),
    Odd("tables | no answer, and `unanswered: leave out`", "a.csv", "text,label\na,\nb,\n",
        LEAVE_OUT, refused="contains no examples(?s:.*)2 rows left out: no answer"),
    Odd("tables | a joined cell that is not text", "a.jsonl",
        jsonl({"a": "x", "b": None, "label": "y"}), {"columns": {"text": "a + b"}},
        refused=r"a\.jsonl:1: a joined cell is not text"),
    Odd("jsonl | a row without one of the columns", "a.jsonl", labelled("x") + '{"text": "b"}',
        LEAVE_OUT, refused=r"a\.jsonl:2: there is no column answer or answers or label"),
    Odd("jsonl | true and false without `labels`", "a.jsonl", labelled(True, False),
        read=[("t0", "true"), ("t1", "false")]),
    Odd("jsonl | an infinite number as an answer", "a.jsonl", labelled(1, float("inf")),
        refused=r"a\.jsonl:2: an answer is neither text nor a finite number"),
    Odd("jsonl | a key twice in one object", "a.jsonl", '{"text": "a", "label": "x", "text": "b"}',
        refused=r"a\.jsonl:1: not valid JSON: the key 'text' stands twice"),
    Odd("jsonl | half of a surrogate pair", "a.jsonl", labelled("\ud800"),
        refused="no valid Unicode"),
    Odd("jsonl | half of a surrogate pair", "a.jsonl",
        jsonl({"text": "a", "label": "x", "g": "\ud800"}), {"columns": {"group": "g"}},
        refused="no valid Unicode"),
    Odd("jsonl | JSON nested too deep", "a.jsonl", labelled("x") + "[" * 100_000,
        refused=r"a\.jsonl:2: not valid JSON: too deep"),
    Odd("jsonl | JSON nested too deep", "a.json", "[" * 100_000, refused=r"a\.json:1: .*too deep"),
    Odd("jsonl | JSON nested too deep", "a.json", '{"data":' * 100_000,
        refused=r"a\.json:1: .*too deep"),
    Odd("jsonl | several JSON lines in a `.json`", "a.json", labelled("x", "y"),
        read=[("t0", "x"), ("t1", "y")]),
    Odd("jsonl | a list of objects in a `.json`", "a.json",
        json.dumps([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], indent=1), read=AB),
    Odd("csv | a cell of 144,000 characters", "a.csv", f'text,label\n"{"ab " * 48_000}",x\n',
        read=[("ab " * 48_000, "x")]),
    Odd("csv | a line end in a quoted cell", "a.csv", 'text,label\n"a\r\nb\rc\nd",x\n',
        read=[("a\r\nb\rc\nd", "x")]),
    Odd("csv | a row longer or shorter than the header", "a.csv", "text,label\na,b,\n",
        refused=r"a\.csv:2: .*different lengths"),
    Odd("csv | a row longer or shorter than the header", "a.tsv", 'text\tlabel\n"a\nb"\tx\n',
        refused=r"a\.tsv:2: .*different lengths(?s:.*)quoting: csv"),
    Odd("csv | two columns with one name", "a.csv", "text,label,text\na,x,b\n",
        refused=r"a\.csv:1: two columns have this name"),
    Odd("csv | a column without a name", "a.csv", ",text,label,,\n0,a,x,,\n1,b,y,,\n", read=AB),
    Odd("tsv | quotes in a cell", "a.tsv", TSV, SENTENCE, read=QUOTES,
        counted={"label by number": 5}),
    Odd("tsv | quotes in a cell", "a.tsv", LONE, SENTENCE,
        read=[(text.replace('added"', "added"), label) for text, label in QUOTES],
        counted={"label by number": 5}),
    Odd("tsv | quotes in a cell", "a.tsv", 'text\tlabel\n"so"\tx\n""so"" it\ty\n',
        read=[('"so"', "x"), ('""so"" it', "y")]),
    Odd("tsv | a cell that looks quoted (doubled quotes inside, or a quoted header)", "a.tsv",
        'text\tlabel\n"a ""b"" c"\tx\n',
        refused=r"a\.tsv:2: a cell looks quoted(?s:.*)quoting: csv"),
    Odd("tsv | a cell that looks quoted (doubled quotes inside, or a quoted header)", "a.tsv",
        '"text"\t"label"\n"a"\t"x"\n',
        refused=r"a\.tsv:2: a cell looks quoted(?s:.*)quoting: csv"),
    Odd("tsv | a cell that looks quoted, and `quoting: csv`", "a.tsv",
        'text\tlabel\n"a ""b""\tc\nd"\tx\n', {"quoting": "csv"}, read=[('a "b"\tc\nd', "x")]),
    Odd("tsv | quotes in a cell", "a.tsv", 'text\tlabel\n"a ""b"" c"\tx\n', {"quoting": "none"},
        read=[('"a ""b"" c"', "x")]),
    Odd("squad | a question without an answer", "a.json", squad(["x"], []),
        refused=r"qas\[1\]: there is no answer(?s:.*)unanswered: leave out"),
    Odd("squad | a question without an answer, and `unanswered: leave out`", "a.json",
        squad(["x"], [], [" "]), LEAVE_OUT, read=[("c", "x")], counted={"no answer": 2}),
    Odd("superni | no answer", "a.json", superni("x", ""), SUPERNI,
        refused=r"Instances\[1\]: there is no answer(?s:.*)unanswered: leave out"),
    Odd("superni | no answer, and `unanswered: leave out`", "a.json",
        superni("x", [" "], []), {**SUPERNI, **LEAVE_OUT}, read=[("i0", "x")],
        counted={"no answer": 2}),
    Odd("superni | an empty reference beside others", "a.json", superni(["", "x"], "y"), SUPERNI,
        read=[("i0", "x"), ("i1", "y")], counted={"empty reference": 1}),
    Odd("conll | U+00A0, U+3000 and the like in a word", "a.conll",
        "She PRP B-NP O\n\u00a0 NN B-NP O\nNew\u00a0York NNP I-NP B-LOC\n",
        read=[("She \u00a0 New\u00a0York", "O O S-LOC")]),
    Odd("conll | U+00A0, U+3000 and the like in a word", "a.conll", "東京\u3000駅 B-LOC\nで O\n",
        read=[("東京\u3000駅 で", "S-LOC O")]),
    *(
        Odd("conll | U+00A0, U+3000 and the like in a word", name, content, spec,
            read=[(f"a{space}b {space}", answer)])
        for space in WIDE
        for name, content, spec, answer in (
            ("a.conll", f"a{space}b B-x\n{space} O\n", {}, "S-x O"),
            ("a.txt", f"a{space}b {space}\n", {"format": "text"}, ""),
            ("a.conllu", "\n".join([word("1", f"a{space}b", "0"), word("2", space, "1")]), {},
             "0:x 1:x"),
        )
    ),
    Odd("conll | rows with different numbers of cells", "a.conll", "a NN O\nb c NN O\n",
        refused=r"a\.conll:2: the rows have different numbers of cells"),
    Odd("conll | rows with different numbers of cells", "a.conll", "a NN O\n\nb O\n",
        refused=r"a\.conll:3: the rows have different numbers of cells"),
    Odd("conll | tabs in one place and blanks in another", "a.conll",
        "EU NNP\tB-ORG\nPeter NNP\tB-PER\n. .\tO\n",
        refused=r"a\.conll:1: the cells are separated by tabs in one place"),
    Odd("conll | tabs in one place and blanks in another", "a.conll",
        "EU NNP\tB-ORG\nPeter\tNNP\tB-PER\n", refused=r"a\.conll:1: the cells are separated"),
    Odd("conll | `-DOCSTART-`", "a.conll",
        "-DOCSTART- -X- O\na NN O\n\n-DOCSTART- -X- O\n\nb NN B-x\n",
        read=[("a", "O"), ("b", "S-x")], counted={"-DOCSTART-": 2}),
    Odd("conll | a space in a word", "a.conll", "a b\tB-x\nc\tO\n",
        read=[("a\u00a0b c", "S-x O")], counted={"space in a word, now U+00A0": 1}),
    Odd("conllu | multiword tokens and empty nodes", "a.conllu",
        "\n".join([word("1-2", "don't", "_"), word("1", "do", "0"), word("2", "n't", "1"),
                   word("2.1", "now", "_")]), read=[("do n't", "0:x 1:x")]),
    Odd("archives | more than 256 MiB unpacked", "a.bz2", bz2.compress(bytes(5000)),
        refused=r"a\.bz2: the archive is too large(?s:.*)unpack it"),
    Odd("archives | more than 256 MiB unpacked", "a.zip", b"",
        refused=r"a\.zip: the archive is too large"),
]  # fmt: skip


def resolved(spec: dict[str, Any]) -> Task:
    # Sentences without answers are no test split: they can be trained on alone.
    scored = spec | ({"metric": "em"} if spec.get("format") == "text" else {})
    whole = TaskSpec.model_validate({"name": "mine", "max_test": 1, **scored})
    return resolve(whole, data_dir=None, data_seed=0, caps={}, where="study.yaml")


@pytest.mark.parametrize("odd", CASES, ids=lambda odd: f"{odd.line}-{odd.file}")
def test_a_line_of_the_page(odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / odd.file
    path.write_bytes(
        odd.content.encode("utf-8", "surrogatepass")
        if isinstance(odd.content, str)
        else odd.content
    )
    if odd.line.startswith("archives"):
        monkeypatch.setattr(files, "LARGEST", 1000)
        if odd.file == "a.zip":
            zip_of_zeros(path)
    spec = {"train": str(path), "dev": str(path), "test": str(path), **odd.spec}
    if odd.refused:
        with pytest.raises(InputError, match=odd.refused):
            resolved(spec)
        return
    task = resolved(spec)
    counts = task.summaries["train"].rows
    found = {**counts.left_out, **counts.converted}
    assert {what: tally.count for what, tally in found.items()} == odd.counted
    assert all(odd.file in tally.first for tally in found.values())
    examples = task.splits["train"].examples()
    assert counts.kept == len(examples) == len({example.id for example in examples})
    assert all(example.group is None for example in examples)
    if odd.read is not None:
        assert [(example.context, *example.answers) for example in examples] == odd.read


def zip_of_zeros(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("e2e-dataset/trainset.csv", bytes(5000))


def test_every_line_of_the_page_is_tested() -> None:
    table = PAGE.read_text().split("| format | oddity | what happens |")[1]
    lines = re.findall(r"^\| (.*? \| .*?) \| (.*?) \|$", table.split("\n## ")[0], re.M)
    here = {odd.line for odd in CASES} | {"tables | a column `group` that no key names"}
    assert {line for line, _ in lines} == here
    for line, happens in lines:
        for odd in CASES:
            if odd.line == line:
                assert (happens == "refused") == bool(odd.refused) or "leave out" in line
                assert (
                    (happens == "counted") == bool(odd.counted)
                    or odd.refused
                    or "labels" in odd.spec
                )


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """7 KB of bz2 spell out gigabytes; the reading stops after 256 MiB of them."""
    (tmp_path / "a.bz2").write_bytes(bz2.compress(bytes(10**6)) * 300)
    path = str(tmp_path / "a.bz2")
    with pytest.raises(InputError, match="too large"):
        resolved({"train": path, "dev": path, "test": path})


# Groups -----------------------------------------------------------------------------------------


def grouped(path: Path, groups: list[Any]) -> dict[str, Any]:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "group": g} for n, g in enumerate(groups)]
    path.write_text(jsonl(*rows))
    return {"train": str(path), "test": str(path), "max_test": 9}


def test_a_column_group_is_a_group_only_where_columns_says_so(tmp_path: Path) -> None:
    spec = grouped(tmp_path / "a.jsonl", ["treatment", "control"] * 20)
    task = resolved(spec)
    assert (task.splits["train"].rows, task.splits["dev"].rows) == (36, 4)
    assert all(row.group is None for row in task.splits["train"].examples())
    assert task.remarks == ()
    with pytest.raises(InputError, match=r"in 2 groups are too few to carve(?s:.*)name a dev file"):
        resolved({**spec, "columns": {"group": "group"}})
    with pytest.raises(InputError, match="no column dialogue"):
        resolved({**spec, "columns": {"group": "dialogue"}})


def test_a_dev_split_far_from_its_fraction_is_said(tmp_path: Path) -> None:
    columns = {"columns": {"group": "group"}, "dev_fraction": 0.35}
    task = resolved({**grouped(tmp_path / "a.jsonl", [n // 10 for n in range(40)]), **columns})
    assert (task.splits["train"].rows, task.splits["dev"].rows) == (20, 20)
    (note,) = task.remarks
    assert note.startswith("dev holds 20 of 40 training rows, 50% where dev_fraction is 35%")
    even = grouped(tmp_path / "b.jsonl", [n // 2 for n in range(40)])
    assert resolved({**even, **columns}).remarks == ()


def test_labels_that_are_bare_numbers_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(labelled(*[0, 1] * 10))
    path = str(tmp_path / "a.jsonl")
    spec = {"train": path, "dev": path, "test": path}
    assert resolved(spec).remarks == (
        "the labels are the numbers 0, 1; `labels` can give them texts",
    )
    assert (
        resolved({**spec, "labels": [0, 1]}).remarks == resolved({**spec, **LABELS}).remarks == ()
    )


# Splits -----------------------------------------------------------------------------------------


def test_training_and_test_data_may_not_be_the_same(tmp_path: Path) -> None:
    for name in ("a.jsonl", "copy.jsonl"):
        (tmp_path / name).write_text(labelled(*"xy" * 10))
    path, copy = str(tmp_path / "a.jsonl"), str(tmp_path / "copy.jsonl")
    for spec in ({"train": path, "test": path}, {"train": path, "test": copy, "dev": path}):
        with pytest.raises(InputError, match=r"mine\.test: the training and the test data are the"):
            resolved({**spec, "max_test": None})
    assert resolved({"train": path, "test": path, "max_test": 9}).splits["test"].rows == 9


def test_dev_and_test_data_may_not_be_the_same(tmp_path: Path) -> None:
    """Settings would be chosen on test."""
    for name, rows in (("a", "xy" * 10), ("b", "xyxy"), ("copy", "xyxy")):
        (tmp_path / f"{name}.jsonl").write_text(labelled(*rows))
    train, dev, copy = (str(tmp_path / f"{name}.jsonl") for name in ("a", "b", "copy"))
    for test in (dev, copy):
        for caps in ({"max_test": None}, {"max_test": 3, "max_dev": 3}):
            says = r"mine\.test: the dev and the test data are the(?s:.*)carved from train"
            with pytest.raises(InputError, match=says):
                resolved({"train": train, "dev": dev, "test": test, **caps})
    spec = {"train": train, "test": dev}
    assert resolved({**spec, "dev": dev, "max_test": 3}).splits["dev"].rows == 4
    assert resolved({**spec, "max_test": None}).splits["dev"].carve is not None


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_of_which_training_has_no_label_is_refused(tmp_path: Path, split: str) -> None:
    (tmp_path / "a.jsonl").write_text(labelled(*[0, 1] * 10))
    for name, labels in (("odd", (0.5, -1)), ("one", (1, -1)), ("good", (0, 1))):
        (tmp_path / f"{name}.jsonl").write_text(labelled(*labels))
    spec = {key: str(tmp_path / "good.jsonl") for key in ("dev", "test")}
    spec["train"] = str(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=rf"(?s)no label of the {split} split.*-1, 0.5.*0, 1"):
        resolved({**spec, split: str(tmp_path / "odd.jsonl")})
    assert resolved({**spec, split: str(tmp_path / "one.jsonl")}).kind == "classify"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", "a"], "two labels have the text 'a'"),
        (["a", " "], "label 1 is blank"),
        ([1, 2, 3], "'1' stands for label 0"),
        ([True, False], "true and false"),
    ],
)
def test_labels_that_would_collapse_are_refused(labels: list[Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TaskSpec.model_validate({"name": "mine", "labels": labels})


def test_numbers_keep_their_digits(tmp_path: Path) -> None:
    numbers = [3.8, 3.799999952316284, 0.1234567890123, 12345678.9, 1e300, 5.0, 2**60]
    (tmp_path / "a.jsonl").write_text(labelled(*numbers))
    path = str(tmp_path / "a.jsonl")
    task = resolved({"train": path, "dev": path, "test": path, "kind": "regress", "max_test": 6})
    found = [row.answers[0] for row in task.splits["train"].examples()]
    spelled = ["3.8", "3.8", "0.1234567890123", "12345678.9", "1e+300", "5", "1152921504606846976"]
    assert found == spelled
