"""Drawings as SVG elements: plain numbers become shapes; colours are classes of the style sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from l2kd_ray.report.blocks import text
from l2kd_ray.study.tree import PrefixNode

_WIDTH, _HEIGHT = 320, 150
_LEFT, _TOP, _BOTTOM = 34, 16, 16
_TREE_WIDTH, _ROW = 960, 34
_LETTER = 6.4
"""Width of a letter of a label, in units of the drawing."""


@dataclass(frozen=True)
class _Frame:
    """The scales of one panel of curves."""

    steps: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 4) * step / self.steps

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def curve_panel(curves: pd.DataFrame, measure: str, limits: tuple[float, float]) -> Markup:
    """The training curve of one trial along its stream, its teachers dashed beside.

    `curves`: rows of `study.curves.curves_of`; `limits`: lowest and highest value of all panels.
    """
    students = curves[curves["role"] == "student"]
    starts: dict[tuple[int, str], float] = {}
    steps = 0.0
    for (i, task), part in students.groupby(["i", "task"], sort=False):
        starts[int(i), str(task)] = steps
        steps += float(part["step"].max())
    low, high = limits
    frame = _Frame(max(steps, 1.0), low, high if high > low else low + 1)
    drawn = [Markup("".join(_axes(frame)))]
    for (i, task), start in starts.items():
        drawn.append(
            Markup('<line class="edge" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                frame.x(start), _TOP, _HEIGHT - _BOTTOM
            )
        )
        drawn.append(
            Markup('<text class="name" x="{:.1f}" y="11">{}</text>').format(
                frame.x(start) + 2, task
            )
        )
        for role in ("teacher", "student"):
            rows = curves[(curves["role"] == role) & (curves["i"] == i) & (curves["task"] == task)]
            points = " ".join(
                f"{frame.x(start + step):.1f},{frame.y(value):.1f}"
                for step, value in zip(rows["step"], rows[measure], strict=True)
                if value == value and start + step <= steps
            )
            if points:
                drawn.append(Markup(f'<polyline class="{role}" points="{points}"/>'))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{measure} of each training", Markup("").join(drawn)
    )


def _axes(frame: _Frame) -> Iterator[str]:
    for value in (frame.low, (frame.low + frame.high) / 2, frame.high):
        y = frame.y(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 4}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 4}" y="{y + 3:.1f}">{text(value, 1)}</text>'
    yield f'<text class="tick" x="{_WIDTH - 4}" y="{_HEIGHT - 4}">step {frame.steps:,.0f}</text>'


def tree_picture(root: PrefixNode, labels: Mapping[str, str]) -> Markup:
    """The tree as rows of blocks, one row a task: a block is a stage, as wide as the orders that
    share it; its link leads to the stage. `labels`: short names of the tasks."""
    depth = _depth(root)
    shapes = Markup("").join(_blocks(root, 0, 0.0, _TREE_WIDTH / root.orders, labels, ()))
    return Markup(
        '<svg class="tree" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_TREE_WIDTH, depth * _ROW, "The stages of the stream, shared by its orders", shapes)


def _depth(node: PrefixNode) -> int:
    return 1 + max(map(_depth, node.children.values()), default=0)


def _blocks(
    node: PrefixNode,
    level: int,
    left: float,
    unit: float,
    labels: Mapping[str, str],
    prefix: Sequence[str],
) -> Iterator[Markup]:
    width = node.orders * unit
    name = labels.get(node.task, node.task) or "untrained"
    path = (*prefix, name) if node.task else ()
    words = (
        f"{' > '.join(path) or 'untrained'}: {node.state}; shared by {node.orders} orders here, "
        f"{node.trials} trials of the study"
    )
    letters = int((width - 8) / _LETTER)
    label = name if len(name) <= letters else name[: letters - 1] + "\N{HORIZONTAL ELLIPSIS}"
    block = Markup(
        '<rect class="{}" x="{:.2f}" y="{}" width="{:.2f}" height="{}" rx="2"/>{}<title>{}</title>'
    ).format(
        node.state.replace(" ", ""),
        left + 0.5,
        level * _ROW + 1,
        max(width - 1, 0.4),
        _ROW - 3,
        Markup('<text x="{:.1f}" y="{}">{}</text>').format(left + 5, level * _ROW + 21, label)
        if letters > 2
        else "",
        words,
    )
    if node.state == "done":
        block = Markup('<a href="/stage/{}">{}</a>').format(quote(node.key), block)
    else:
        block = Markup("<g>{}</g>").format(block)
    yield block
    for child in node.children.values():
        yield from _blocks(child, level + 1, left, unit, labels, path)
        left += child.orders * unit
