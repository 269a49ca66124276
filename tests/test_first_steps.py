"""The first hour: a study to begin with, the shipped ones, what a storage holds, the answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.studies import tiny_data
from typer.testing import CliRunner

from l2kd_ray import cli
from l2kd_ray.analysis.forgotten import forgotten
from l2kd_ray.analysis.smooth import smooth
from l2kd_ray.api import list_studies, load_study, shipped_studies
from l2kd_ray.errors import InputError
from l2kd_ray.report import write_report
from l2kd_ray.study.folder import Folder
from l2kd_ray.study.overview import headline_of
from l2kd_ray.study.reading import read_study
from l2kd_ray.study.template import new_study

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage in which the tiny study was swept."""
    folder = tmp_path_factory.mktemp("storage")
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_data(storage=str(folder / "results"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        load_study(file).sweep("inline")
    return folder / "results"


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_init_writes_a_study_that_can_be_planned_as_it_is(tmp_path: Path) -> None:
    run("init", "mine")
    text = (tmp_path / "mine/study.yaml").read_text()
    study = load_study(tmp_path / "mine/study.yaml")
    assert study.name == "mine"
    assert study.plan().trials > 10
    assert text.count("#") > 8
    with pytest.raises(InputError, match="there is a study already"):
        run("init", "mine")
    assert (tmp_path / "mine/study.yaml").read_text() == text


def test_init_names_the_data_files_that_it_finds(tmp_path: Path) -> None:
    for name in ("faq.train", "faq.test", "no.train", "no.dev", "no.test", "half.train", "x"):
        rows = [{"context": f"{name} {k}", "question": "q", "answer": f"a{k}"} for k in range(8)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    run("init")
    study = load_study("study.yaml")
    assert study.study.tasks == ["faq", "no"]  # `half` has no test, and `no` is a text
    assert study.study.config.tasks[1].dev is not None
    assert {one.split for one in study.data()} == {"train", "dev", "test"}


@pytest.mark.parametrize("name", ["2024", "007", "null", "true", "_data", "a" * 99, "Ä data"])
def test_init_writes_a_study_that_can_be_read_in_a_folder_of_any_name(
    tmp_path: Path, name: str
) -> None:
    path, _ = new_study(tmp_path / name)
    assert read_study(path).name in (name, "data", "a" * 80)


def test_init_takes_the_split_first_and_refuses_files_that_are_no_pair(tmp_path: Path) -> None:
    rows = "".join(f"a{k},b{k % 2}\n" for k in range(8))
    for name in ("train_news.csv", "test_news.csv"):
        (tmp_path / name).write_text(f"text,label\n{rows}")
    assert "a study of news." in run("init")
    assert load_study("study.yaml").study.tasks == ["news"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/reviews.csv").write_text("text,label\n" + 8 * "a,b\n")
    with pytest.raises(InputError, match="no two of its tables") as refused:
        run("init", "other")
    assert "reviews.csv" in str(refused.value)
    assert not (tmp_path / "other/study.yaml").exists()
    assert "generated tasks" in run("init", "new")


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(
    storage: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.train.csv").write_text("text,label\n" + 8 * "a,b\n")
    file = {"name": "a", "train": "a.trian.csv", "test": "a.train.csv"}
    for changes, name in (
        ({"methods": ["l2dk"]}, "l2kd"),
        ({"kd.temprature": 2}, "temperature"),
        ({"tasks": [{"name": "gen.rest", "metric": "rogue"}]}, "rouge"),
        ({"tasks": ["gen.resst"]}, "gen.rest"),
        ({"trian": {}}, "train"),
        ({"tune.stop": {"half_width": 1, "method": "lmaol"}}, "lamol"),
        ({"stream": "standard_cl", "tasks": None}, "standard-cl"),
        ({"tasks": [file]}, "a.train.csv"),
    ):
        with pytest.raises(InputError) as refused:
            load_study(tiny_data(), changes)
        assert f"did you mean {name}?" in refused.value.fix, refused.value
    (tmp_path / "mine.yaml").write_text("")
    study = load_study("tiny", storage=str(storage))
    for call, name in (
        (lambda: load_study("quickstrat"), "quickstart"),
        (lambda: load_study("mine"), "mine.yaml"),
        (lambda: load_study("tinny", storage=str(storage)), "tiny"),
        (lambda: study.answers(task="gen.resst"), "gen.rest"),
        (lambda: study.curves(method="lmaol"), "lamol"),
        (lambda: study.figure("gap_by_methods"), "gap_by_method"),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert f"did you mean {name}?" in refused.value.fix, refused.value


def test_another_study_under_the_name_is_not_reported_over_the_one_that_was_swept(
    storage: Path,
) -> None:
    before = (storage / "studies/tiny/report.md").read_text()
    words = ("tiny", f"storage={storage}", "train.epochs=7")
    with pytest.raises(InputError, match="not the study that was swept last") as refused:
        run("report", *words)
    assert "train.epochs" in str(refused.value)
    assert "Not as it was swept last (train.epochs" in run("status", *words)
    assert (storage / "studies/tiny/report.md").read_text() == before
    for same in (("keep=leaves",), ("seeds=[531]",), ()):  # no stage of its own
        assert "Not as it was" not in run("status", "tiny", f"storage={storage}", *same)
        run("report", "tiny", f"storage={storage}", *same)


def test_a_second_sweep_says_that_one_is_running(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study("tiny", storage=str(storage))
    with Folder(study.store, "tiny").live():
        study.sweep("inline")
    assert "running already (process" in capsys.readouterr().err


def test_a_shipped_study_is_known_by_its_name(tmp_path: Path) -> None:
    assert {"quickstart", "mkd_small"} <= shipped_studies().keys()
    assert load_study("quickstart").study.tasks == ["gen.rest", "gen.hotel", "gen.tv"]
    with pytest.raises(InputError, match="l2kd list"):
        load_study("quickstar")


def test_the_shipped_studies_are_those_of_the_repository() -> None:
    assert set(shipped_studies()) == {file.stem for file in ROOT.glob("tune_configs/*.yaml")}


@pytest.mark.drill
def test_a_wheel_has_the_studies_and_the_pages(tmp_path: Path) -> None:
    words = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", *words, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in shipped_studies().values():
        assert f"l2kd_ray/tune_configs/{file.name}" in names
    for file in ("serve/serve.css", "serve/page.js", "serve/templates/base.html"):
        assert f"l2kd_ray/{file}" in names
    assert "l2kd_ray/study/template.yaml" in names


def test_list_says_how_far_each_study_is(storage: Path, tmp_path: Path) -> None:
    shown = run("list", str(storage))
    assert re.search(r"tiny: (\d+) of \1 stages", shown)
    assert "multi-task" in shown
    assert "quickstart" in shown
    found = json.loads(run("list", str(storage), "--json"))
    assert [one["name"] for one in found["studies"]] == ["tiny"]
    (one,) = list_studies(str(storage))
    assert one.stages_done == one.stages > 20
    assert one.wanted == one.done
    assert "No study was swept" in run("list", str(tmp_path / "nothing"))


def test_the_headline_of_a_list_is_that_of_the_report(storage: Path) -> None:
    file = storage / "studies/tiny/report.md"
    (one,) = list_studies(str(storage))
    assert one.headline in file.read_text().replace(" (see above)", "")
    assert "points" in one.headline
    assert headline_of("") == ""
    assert headline_of("# a\n\nb\n\n> n\n\nThe one.\n\n> m\n\n## Gap\n\nnot this\n") == "The one."


def test_a_report_says_what_its_methods_are(storage: Path) -> None:
    report = (storage / "studies/tiny/report.md").read_text()
    assert "**lamol**: LAMOL (Sun, Ho, Lee, ICLR 2020): training beside pseudo-samples" in report
    assert "**multi-task**: one model of all tasks" in report


def test_a_report_without_scores_has_a_headline_too(tmp_path: Path) -> None:
    failure = {"kind": "learn", "key": "ab" * 16, "error": "e", "traceback": "t"}
    write_report(tmp_path, pd.DataFrame(), study={"name": "x"}, failures=[failure])
    assert "No evaluation has finished yet" in headline_of((tmp_path / "report.md").read_text())


def test_answers_stand_under_each_other_after_each_task(storage: Path) -> None:
    words = ("answers", "tiny", f"storage={storage}", "--task", "gen.rest")
    shown = run(*words, "--method", "finetune", "--most", "2")
    assert shown.count("reference") == 2
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("    ")] in (
        2 * ["0", "1*", "2"],
        2 * ["0", "1", "2*"],
    )
    rows = json.loads(run(*words, "--most", "1", "--json"))
    assert {row["method"] for row in rows} == {"finetune", "lamol", "l2kd"}
    assert len({row["example"] for row in rows}) == 1
    again = json.loads(run(*words, "--example", rows[0]["example"], "--json"))
    assert again == rows
    with pytest.raises(InputError, match="no such answer"):
        run(*words, "--example", "nothing")
    with pytest.raises(InputError, match="no such order"):
        run(*words, "--order", "gen.rest")


def test_answers_as_a_frame(storage: Path) -> None:
    study = load_study("tiny", {"storage": str(storage)})
    found = study.answers(task="gen.intent", method="lamol")
    assert len(found) == 2 * 3 * 4  # orders, steps, examples
    scores = study.scores()
    own = scores[(scores["method"] == "lamol") & (scores["task"] == "gen.intent")]
    of_cells = found.groupby(["trial", "i"])["score"].mean()
    for row in own[own["split"] == "test"].itertuples():
        assert of_cells[row.trial, row.i] == pytest.approx(row.score)
    assert found["reference"].str.len().min() > 0
    with pytest.raises(InputError, match="no such task"):
        study.answers(task="nothing")


def test_curves_as_a_frame(storage: Path) -> None:
    study = load_study("tiny", {"storage": str(storage)})
    found = study.curves(method="l2kd")
    assert set(found["role"]) == {"student", "teacher"}
    for (_, role), own in found.groupby(["trial", "role"]):
        assert own.groupby(["i", "task"]).ngroups == 2, role
    assert found["loss"].notna().all()
    everything = study.curves()
    assert {"multitask", "single"} <= set(everything["method"])


def answer(i: int, j: int, score: float, **changes: object) -> dict[str, object]:
    row = {"method": "m", "setting": "{}", "order": "a>b>c", "seed": "1", "trial": "t"}
    task = "abc"[j - 1]
    texts = {"input": "in", "reference": "ref", "answer": f"{task}{i}"}
    return {**row, "task": task, "i": i, "j": j, "example": "x", **texts, "score": score, **changes}


def test_forgotten_is_the_score_just_learned_minus_the_last() -> None:
    rows = [
        *(answer(i, 1, score) for i, score in enumerate((5, 80, 60, 30))),
        *(answer(i, 2, score) for i, score in enumerate((0, 10, 50, 60))),
        *(answer(i, 3, score) for i, score in enumerate((0, 0, 0, 90))),
        answer(1, 1, 70, example="y"),  # its end is not there yet
        answer(1, 1, 70, order="", trial="reference"),
    ]
    found = forgotten(pd.DataFrame(rows))
    assert found[["task", "example", "lost"]].to_numpy().tolist() == [
        ["a", "x", 50.0],
        ["b", "x", -10.0],
    ]
    assert found[["learned", "final"]].to_numpy().tolist() == [["a1", "a3"], ["b2", "b3"]]


def test_a_smoothed_curve_keeps_its_mean_and_its_end() -> None:
    curve = pd.DataFrame({"step": range(1, 1001), "loss": [float(k % 7) for k in range(1000)]})
    found = smooth(curve, 100)
    assert len(found) == 100
    assert found["step"].iloc[-1] == 1000
    assert found["loss"].mean() == pytest.approx(curve["loss"].mean())
    assert smooth(curve[:100], 100).equals(curve[:100])
