"""A report's page as a browser would see it, and what holds of every page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from helpers.synthetic_study import study

SEEDS = ("531", "532", "533")
VOID = {"meta", "link", "br", "img", "input", "hr"}
SETTINGS = {"l2kd": [{"kd.temperature": t, "kd.weight": w} for t in (1, 2, 4) for w in (0.5, 1)]}
FAILURE = {
    "key": "ab" * 32,
    "kind": "learn",
    "error": "RuntimeError: out of memory",
    "traceback": "Traceback <here>:\nRuntimeError: out of memory",
}


class Page(HTMLParser):
    """What a browser would see: elements in balance, ids, references, pictures, visible text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.words = ""
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [
            found[name] or "" for name in ("src", "href", "xlink:href") if name in found
        ]
        if found.get("id"):
            self.ids.append(found["id"] or "")
        if tag in ("svg", "img"):
            self.pictures.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if not {"script", "style"} & set(self.open):
            self.words += data.replace("\N{NO-BREAK SPACE}", " ")


def check_whole(paths: list[Path], folder: Path) -> Page:
    """What holds of every report, whatever it is of."""
    assert all(path.stat().st_size for path in paths)
    source = paths[0].read_text()
    page = Page(source)

    # One file: nothing is fetched, and every reference inside it leads somewhere.
    assert "http://" not in source
    assert "https://" not in source
    assert not re.search(r"@import|<link|<img", source)
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") for reference in page.references)
    used = {reference[1:] for reference in page.references} | set(
        re.findall(r"url\(#([^)]*)\)", source)
    )
    used |= set(re.findall(r'aria-labelledby="([^"]*)"', source))
    assert used <= set(page.ids)
    assert source.count("<h1>") == 1

    # Every picture says what it shows, and is there as a file.
    assert all(picture.get("aria-label") for picture in page.pictures)
    names = {path.stem for path in paths if path.suffix == ".png"}
    assert len(page.pictures) == len(names)
    assert names == {path.stem for path in paths if path.suffix == ".svg"}

    # Markdown tells the same, and its pictures exist.
    markdown = (folder / "report.md").read_text()
    assert set(re.findall(r"^## (.*)$", markdown, re.M)) == set(page.headings)
    for alt, file in re.findall(r"!\[(.*?)\]\((.*?)\)", markdown):
        assert alt
        assert (folder / file).exists()
    words = page.words + markdown + str([picture["aria-label"] for picture in page.pictures])
    assert not re.search(r"\bnan\b|\binf\b|Measured\(|\bNone\b", words)
    return page


# Every order of the synthetic study.
ALL = tuple(sorted(set(study()["order"]) - {""}))
QUALITY = {"valid": 80.0, "ended": 90.0, "duplicates": 5.0, "task_match": 75.0, "copies": 2.0}


def replay_rows() -> pd.DataFrame:
    """Quality of generated replay: two methods, two orders, two places each."""
    return pd.DataFrame(
        {"method": method, "setting": "{}", "order": order, "seed": "531", "i": i, "written": 40}
        | {"kept": 30 + i + bonus, "distinct_1": 20.0, "distinct_2": 50.0, **QUALITY}
        for method in ("lamol", "l2kd")
        for order, bonus in zip(ALL[:2], (0, 4), strict=True)
        for i in (1, 2)
    )
