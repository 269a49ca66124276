"""What the figures of a report show has to lie inside them, whatever methods are called."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from l2kd_ray.report.blocks import Picture
from l2kd_ray.report.figures import first_task, gap_by_order, gap_by_setting, tradeoff
from l2kd_ray.report.setting_section import pictures
from l2kd_ray.report.style import looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = {
    "short": ["a", "b"],
    "long": [f"l2kd-skew-reverse-{k}" for k in range(8)],
    "longer": [f"a-method-with-quite-a-long-name-{k}" for k in range(3)],
    "many": [f"method-{k}" for k in range(17)],
}


def drawn(kind: str, names: list[str]) -> Figure:
    look = looks(names)
    gaps = pd.DataFrame({"method": names, "gap/abs": range(len(names))}).assign(selected=True, T=1)
    if kind == "setting":
        return gap_by_setting(gaps, "T", look)
    if kind == "order":
        pairs = pd.MultiIndex.from_product([names, list("uvwxyz")], names=["method", "order"])
        table = pairs.to_frame(index=False).assign(gap=1.0, low=0.0, high=2.0)
        return gap_by_order(table, table.assign(seed=1), look)
    both = pd.DataFrame({"method": names, "learned": range(len(names)), "kept": 1.0})
    return tradeoff(both.assign(front=False), look, "kept")


@pytest.mark.parametrize("names", MANY.values(), ids=MANY)
@pytest.mark.parametrize("kind", ["setting", "order", "tradeoff"])
def test_every_method_is_named_inside_the_figure(kind: str, names: list[str]) -> None:
    figure = drawn(kind, names)
    figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    box, whole = legend.get_window_extent(), figure.bbox
    assert sorted(label.get_text() for label in legend.get_texts()) == sorted(names)
    assert 0 <= box.x0 < box.x1 <= whole.width
    assert axes.bbox.y1 < box.y0 < box.y1 <= whole.height
    assert axes.bbox.height > 40


@pytest.mark.parametrize("names", MANY.values(), ids=MANY)
@pytest.mark.parametrize("ends", ["same", "one far", "spread"])
def test_names_beside_the_lines_do_not_touch(names: list[str], ends: str) -> None:
    far = {"same": 0.0, "one far": 100.0, "spread": 5.0}[ends]
    last = {name: far * (k if ends == "spread" else not k) for k, name in enumerate(names)}
    figure = first_task({name: np.array([50.0, end]) for name, end in last.items()}, looks(names))
    figure.draw_without_rendering()
    boxes = {one.get_text(): one.get_window_extent() for one in figure.axes[0].texts}
    from_below = sorted(boxes, key=lambda name: boxes[name].y0)
    assert sorted(boxes) == sorted(names)
    assert sorted(last.values()) == [last[name] for name in from_below]
    for lower, upper in pairwise(from_below):
        assert boxes[upper].y0 - boxes[lower].y0 > 10  # the size of the font, in pixels
    for box in boxes.values():
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize(
    ("of_methods", "shown"),
    [
        ({"a": ["x", "y"], "b": ["x", "y"]}, {"gap_by_setting": {"a", "b"}}),
        ({"a": ["x"], "b": ["y"]}, {"gap_by_x": {"a"}, "gap_by_y": {"b"}}),
        (
            {"a": ["x", "y"], "b": ["x"], "c": ["y"]},
            {"gap_by_setting": {"a"}, "gap_by_x": {"b"}, "gap_by_y": {"c"}},
        ),
        ({"a": ["x", "y"], "b": ["x"]}, {"gap_by_setting": {"a"}, "gap_by_x": {"b"}}),
    ],
)
def test_every_setting_is_in_a_picture_of_its_own_keys(
    of_methods: dict[str, list[str]], shown: dict[str, set[str]]
) -> None:
    """Where each method is searched by options of its own, no picture names one that it lacks."""
    rows = [
        {"method": method, **dict(zip(keys, values, strict=True))}
        for method, keys in of_methods.items()
        for values in product(range(3), repeat=len(keys))
    ]
    table = pd.DataFrame(rows).assign(selected=True, setting="{}")
    table["gap/abs"] = np.arange(len(rows), dtype=float)
    keys = sorted({key for keys in of_methods.values() for key in keys})
    found = [one for one in pictures(table, keys, looks([*of_methods])) if isinstance(one, Picture)]
    told = {
        one.name: {part.split(":")[0] for part in one.alt.split("dev: ")[1].split("; ")}
        for one in found
    }
    assert told == shown
    for one in found:
        words = {text.get_text() for axes in one.figure.axes for text in axes.texts}
        named = {text.get_text() for legend in one.figure.legends for text in legend.get_texts()}
        titles = {axes.get_title(loc="left") for axes in one.figure.axes}
        assert shown[one.name] <= named | titles
        assert one.name != "gap_by_setting" or len(words) >= 9
