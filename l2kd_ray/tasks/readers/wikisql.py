"""WikiSQL as text2sql-data releases it (jkkummerfeld/text2sql-data), one bz2 file of JSON.

    context   "The table has columns ... and key words ... -- how many ...?"   as decaNLP's
    answer    "SELECT COUNT col FROM table WHERE col = value"                  see `tasks.sql`

That release contains no tables: a table's columns are those that some query of the file names (a
partial schema, in alphabetical order, which carries no information).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from l2kd_ray.errors import InputError
from l2kd_ray.tasks import sql
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.readers.files import decode, parse_json, read_bytes, unpack

NOTE = (
    "partial schema: a table's columns are those that some query names, fewer to choose from than "
    "in WikiSQL, so lfem does not compare with published numbers"
)
WIKISQL_QUESTION = "What is the translation from English to SQL?"
_KEYWORDS = ", ".join((*sql.AGGREGATES, *sql.OPERATORS, "SELECT", "WHERE", "AND"))
_QUERY = re.compile(
    r"SELECT (?:(MAX|MIN|COUNT|SUM|AVG) )?(?:TABLEalias0\.)?(.+?)_FIELD"
    r" FROM (?:TABLE AS TABLEalias0|table)(?: WHERE (.*))? ;"
)
# A value may contain AND, so a condition ends only where another one begins, or at the end.
_NEXT = r"(?: AND (?=(?:TABLEalias0\.)?\S+_FIELD [=<>] )|$)"
_CONDITION = re.compile(r"(?:TABLEalias0\.)?(.+?)_FIELD ([=<>]) (.*?)" + _NEXT)
_VARIABLE = re.compile(r"\"?\b(var\d+)\b\"?")


def read(location: str, options: Mapping[str, str]) -> list[Example]:
    """The split `options["split"]`; the columns of a table are collected over all splits."""
    data = read_bytes(location)
    text = decode(unpack(data, location) if data[:3] == b"BZh" else data, location)
    columns: dict[str, set[str]] = defaultdict(set)
    questions = []
    for query, table, split, question in _queries(parse_json(text, location), location):
        column, _, conditions = query
        columns[table].update((column, *(name for name, _, _ in conditions)))
        if split == options["split"]:
            questions.append((table, question.strip(), sql.render(*query)))
    return [
        Example(
            id=str(number),
            context=f"The table has columns {', '.join(sorted(columns[table]))}"
            f" and key words {_KEYWORDS} -- {question}",
            question=WIKISQL_QUESTION,
            answers=(answer,),
        )
        for number, (table, question, answer) in enumerate(questions)
    ]


_Query = tuple[str, str, list[tuple[str, str, str]]]
"""(column, aggregate, [(column, operator, value)])"""


def _queries(entries: Any, location: str) -> Iterator[tuple[_Query, str, str, str]]:
    """Each question of the release: (its query, table, split, text)."""
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            query = _QUERY.fullmatch(entry["sql"][0])
            if query is None:
                raise ValueError(entry["sql"][0])
            aggregate, column, where = query.groups(default="")
            clauses = _CONDITION.findall(where)
            examples = {variable["name"]: variable["example"] for variable in entry["variables"]}
            for sentence in entry["sentences"]:
                # A question that uses one value twice lists it under one of its names only.
                values = {**examples, **sentence["variables"]}
                conditions = [(_name(c), op, _value(text, values)) for c, op, text in clauses]
                parsed = _name(column), aggregate, conditions
                table, split = str(sentence["table-id"]), str(sentence["question-split"])
                yield parsed, table, split, str(sentence["original"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                "not in the form of text2sql-data's WikiSQL",
                where=f"{location}: record {number}",
                got=f"{type(error).__name__}: {error}",
                expected="{sql, variables, sentences: [{original, table-id, question-split}]}",
            ) from None


def _name(field: str) -> str:
    return " ".join(field.lower().replace("_", " ").split())


def _value(text: str, values: Mapping[str, str]) -> str:
    """A condition's value; the release's renaming of tables also hit the word "table" in values."""
    text = _VARIABLE.sub(lambda variable: values[variable[1]], text.replace("TABLEalias0", "table"))
    return " ".join(text.split())
