"""The section on a search over orders: the most extreme ones tried, and what was not seen."""

from __future__ import annotations

import pandas as pd

from l2kd_ray.analysis.extreme import OrderSearch
from l2kd_ray.report.blocks import Measured, Prose, ReportSection, Table, measured, text
from l2kd_ray.report.labels import count, level_label, method_label, order_labels

_SHOWN = 5
"""Orders in the table; the CSV file has all that were tried."""


def search_section(found: OrderSearch | None) -> list[ReportSection]:
    if found is None:
        return []
    rows = found.orders.head(_SHOWN)
    labels, legend = _labels(found)
    frame = pd.DataFrame(
        {
            "Order": rows["order"].map(labels),
            "Dev gap": rows["dev"].astype(float),
            "Gap": measured(rows, "gap", "gap/low", "gap/high"),
            "Minus the mean": measured(rows, "more", "more/low", "more/high"),
            "Proposed": ["yes" if proposed else "no" for proposed in rows["proposed"]],
        }
    )
    caption = (
        f"The {found.goal} {len(rows)} orders tried, by their gap on dev; in points. Gap: on test. "
        "Minus the mean: gap minus the mean gap of the orders drawn at random. The intervals of "
        f"all {found.possible:,} orders together hold at 95 % (Bonferroni: "
        f"{level_label(found.level)} each), so that they hold for whichever was picked."
        f"{f' Tasks: {legend}.' if legend else ''}"
    )
    apart = Prose(
        "Orders are proposed for what others showed, so they are no sample: no other number of "
        "this report reads them. Their scores are in `proposed.parquet`."
    )
    title = f"Search for the {found.goal} order"
    blocks = (Prose(search_words(found)), Table("order_search", caption, frame), apart)
    return [ReportSection(title, blocks)]


def search_words(found: OrderSearch) -> str:
    """The order found and what is known of those not tried; **strong** is marked."""
    labels, _ = _labels(found)
    return f"{_found(found, labels[found.orders['order'].iloc[0]])} {_unseen(found, labels)}"


def _labels(found: OrderSearch) -> tuple[dict[str, str], str]:
    expected = [found.predicted.order] if found.predicted else []
    return order_labels([*found.orders["order"].head(_SHOWN), *expected])


def _found(found: OrderSearch, order: str) -> str:
    """The order found, its gap, and how far that is from the mean."""
    row = found.orders.iloc[0]
    gap, more = (Measured(*row[[n, f"{n}/low", f"{n}/high"]]) for n in ("gap", "more"))
    tried = f"{len(found.orders):,} orders"
    if len(found.orders) < found.budget:
        tried = f"the {tried} tried so far (of {found.budget:,})"
    words = (
        f"Of {tried}, **{order}** is the {found.goal} for {method_label(found.method)} on dev. On "
        f"test its gap is **{text(gap)}** points"
    )
    if found.drawn:
        words += f"; minus the mean of the {found.drawn:,} drawn at random: {text(more)}"
    return f"{words}."


def _unseen(found: OrderSearch, labels: dict[str, str]) -> str:
    """The sentences on the orders that were not tried."""
    than = f"{'worse' if found.goal == 'worst' else 'better'} than it on dev with these seeds"
    left = found.possible - len(found.orders)
    if not left:
        return f"All {found.possible:,} orders ran: none is {than}."
    words = [f"{count(left, 'order')} of all {found.possible:,} did not run."]
    if found.beyond is not None:
        share = text(100 * found.beyond / found.possible)
        words.append(
            f"With 95 % confidence at most {found.beyond:,} of all ({share} %) are {than}, since "
            f"none of the {found.drawn:,} drawn at random is."
        )
    if found.predicted is not None:
        ran = "ran" if found.predicted.tried else "did not run"
        words.append(
            f"A model of which task comes before which expects {labels[found.predicted.order]} to "
            f"be the {found.goal} of all, with a dev gap of {text(found.predicted.dev)}; it {ran}."
        )
    return " ".join(words)
