"""WikiSQL's queries as text: one column, at most one aggregate, a conjunction of conditions.

    SELECT COUNT fleet series FROM table WHERE fuel propulsion = cng AND year > 2001

is decaNLP's form: names and values are not quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

AGGREGATES = ("MAX", "MIN", "COUNT", "SUM", "AVG")
OPERATORS = ("=", ">", "<")

_QUERY = re.compile(
    r"select (?:(max|min|count|sum|avg) )?(.+?) from table(?: where (.+))?", re.IGNORECASE
)
_CONDITION = re.compile(r"(.+?) ([=<>]) (.+)")
_AND = re.compile(r" and ", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """The logical form of a query."""

    column: str
    aggregate: str
    conditions: frozenset[tuple[str, str, str]]
    """(column, operator, value)"""


def render(column: str, aggregate: str, conditions: Iterable[tuple[str, str, str]]) -> str:
    select = f"SELECT {aggregate} {column}" if aggregate else f"SELECT {column}"
    where = " AND ".join(" ".join(condition) for condition in conditions)
    return f"{select} FROM table" + (f" WHERE {where}" if where else "")


def parse(text: str) -> Query | None:
    """The logical form of a query, lower-cased; None if the text is not a query.

    A name or value that contains " and " is kept whole: two parts are two conditions only if each
    has an operator.
    """
    query = _QUERY.fullmatch(" ".join(text.lower().split()))
    if query is None:
        return None
    aggregate, column, where = query.groups()
    clauses: list[str] = []
    for part in _AND.split(where) if where else []:
        if clauses and not (_CONDITION.fullmatch(part) and _CONDITION.fullmatch(clauses[-1])):
            clauses[-1] += f" and {part}"
        else:
            clauses.append(part)
    conditions = [_CONDITION.fullmatch(clause) for clause in clauses]
    parsed = [(c[1], c[2], c[3]) for c in conditions if c is not None]
    if len(parsed) < len(clauses):
        return None
    return Query(column, aggregate or "", frozenset(parsed))
