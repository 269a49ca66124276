"""YAML of study files: numbers and booleans of YAML 1.2, plain values only, of bounded size.

PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90, `no` is false and 1e-4 is a text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from l2kd_ray.errors import InputError

_MOST_BYTES = 1 << 20
_MOST_NODES = 10_000
"""Values of a file with its aliases in place, far above those of any study: with more, reading
takes seconds, or, with nested aliases, does not end."""
_MOST_DEEP = 50

_TAG = "tag:yaml.org,2002:"
_NUMBER = r"(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SCHEMA = {
    f"{_TAG}null": r"~|null|Null|NULL|",
    f"{_TAG}bool": r"true|True|TRUE|false|False|FALSE",
    # What readers of YAML disagree on, or what would lose a sign or a digit as a text: refused.
    "!ambiguous": rf"[-+]?0[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\+{_NUMBER}"
    r"|[-+]?0(?:x[0-9a-fA-F]+|o[0-7]+)|-0",
    f"{_TAG}int": r"-?[0-9]+",
    f"{_TAG}float": rf"-?{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    f"{_TAG}merge": "<<",
}
"""The plain scalars that are no texts, by tag; the first that matches counts."""
_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Line breaks of YAML 1.1 and not of 1.2: PyYAML drops the blanks around them."""
_TEMPLATE = re.compile(r"\{\{|\{%|\$\{(?!\w+\})", re.ASCII)
"""The openings of templates (Jinja, Helm, OmegaConf); `${NAME}` may be a variable in a path."""


def read(path: str | Path) -> Any:
    """The content of a YAML file. Raises: InputError if it cannot be read or used."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            "cannot read the file",
            where=str(path),
            got=error.strerror or str(error),
            expected="a YAML file, or the name of a study: `l2kd list`",
        ) from None
    if len(data) > _MOST_BYTES:
        raise InputError("the file is too large", where=str(path), expected="1 MiB at most")
    try:
        return load(data.decode("utf-8-sig"), where=str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            "the file is not UTF-8",
            where=f"{path}:{line}",
            got=data[error.start : error.start + 8],
            fix="save it as UTF-8",
        ) from None


def load(text: str, *, where: str = "", key: str = "") -> Any:
    """The value of a YAML text; `where` and `key` name it in errors.

    Raises: InputError, with the line if `where` is a file.
    """
    try:
        if strange := _BREAKS.search(text):
            raise yaml.reader.ReaderError(where, strange.start(), ord(strange[0]), "", "")
        return _Loader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        line, note = text.count("\n", 0, error.position), "write it as an escape, in double quotes"
        problem = f"the character {chr(int(error.character))!r} is not allowed in YAML"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, note = (mark.line if mark else 0), error.note or ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        if type(error) is not yaml.MarkedYAMLError:  # not one of `_fault`
            problem = f"not valid YAML: {problem}"
        if r"'\t'" in problem:
            problem, note = "a tab where YAML wants blanks", "indent with blanks"
    rows = text.split("\n")
    row = rows[min(line, len(rows) - 1)].strip()
    if _TEMPLATE.search(row):
        problem, note = "a template that nobody filled in", "put its value there"
    raise InputError(
        problem, where=f"{where}:{line + 1}" if where else "", key=key, got=row, fix=note
    )


def dump(data: Any) -> str:
    """The data as YAML that `load` reads unchanged, and so do readers of YAML 1.1."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _fault(problem: str, mark: yaml.Mark, fix: str = "") -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark, note=fix)


class _Loader(yaml.SafeLoader):
    """Plain values, counted as they are composed: what is refused has its line."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # none of YAML 1.1  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None
        or tag.removeprefix(_TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; values are counted here, before an alias is put in place."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        alias, mark, before = isinstance(event, yaml.AliasEvent), event.start_mark, self._nodes
        self._depth += 1
        if self._depth > _MOST_DEEP:
            raise _fault(f"more than {_MOST_DEEP} lists and mappings inside each other", mark)
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        if alias and node not in self._sizes:
            raise _fault("an alias inside of what it stands for", mark)
        self._nodes += self._sizes[node] if alias else 1
        if self._nodes > _MOST_NODES:
            raise _fault(f"more than {_MOST_NODES:,} values, aliases put in place", mark)
        self._sizes.setdefault(node, self._nodes - before)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        event: yaml.ScalarEvent = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_scalar_node(anchor)
        if event.tag not in (None, "!", f"{_TAG}str"):
            raise _fault(
                f"a value of the tag {event.tag}", node.start_mark, "write the plain value"
            )
        if _TEMPLATE.search(node.value):
            raise _fault("a template that nobody filled in", node.start_mark, "put its value there")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                scalar = isinstance(key, yaml.ScalarNode)
                fix = f"quote it: '{key.value}'" if scalar else ""
                raise _fault("a key is a text", key.start_mark, fix)
            if key.value in keys:
                raise _fault(f"the key {key.value!r} is given twice", key.start_mark)
            keys.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = str(self.construct_scalar(node))
        if len(value) > 20 or not -(2**63) <= int(value) < 2**63:
            raise _fault("a number of more than 64 bits", node.start_mark, "quote it for a text")
        return int(value)

    def refuse_ambiguous(self, node: yaml.ScalarNode) -> None:
        raise _fault(
            f"{node.value}: a number with a leading 0 or a plus has several meanings",
            node.start_mark,
            f"write it without (007 as 7), or quote it for a text: '{node.value}'",
        )


class _Dumper(yaml.SafeDumper):
    """Texts in quotes wherever YAML 1.1 or 1.2 would read anything else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text; in double quotes a line break of YAML 1.1 is written as an escape."""
        style = '"' if _BREAKS.search(data) else None
        return self.represent_scalar(f"{_TAG}str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor("!ambiguous", _Loader.refuse_ambiguous)
for _tag, _form in _SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), None)
