"""The door for what comes from outside: `pkg.module:name`, `./file.py:name`, or an entry point.

Methods, divergences, metrics, readers and replay filters come in by it. What comes in is named in
the study file, its source is part of the keys of the stages that use it, and one file travels to
Ray's workers with the stages; a package must be installed there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from l2kd_ray.errors import InputError
from l2kd_ray.section import Section

PluginKind = Literal["methods", "divergences", "metrics", "readers", "filters"]
"""What may come from outside; `l2kd_ray.<kind>` is the group of its entry points."""
PATH = re.compile(r"^(?P<module>[^:]+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)$")
_OWN = "l2kd_plugin_"


@dataclass(frozen=True)
class Plugin:
    """A function from outside, as a stage holds it."""

    name: str
    code: str
    """Digest of the source file, and the distribution's version where it is installed."""
    options: tuple[tuple[str, Any], ...] = ()
    path: str = field(default="", metadata={"identity": False}, compare=False)
    source: str | None = field(
        default=None, metadata={"identity": False}, compare=False, repr=False
    )
    """The text of its file; None where it is imported from an installed package."""

    def load(self) -> Callable[..., Any]:
        """The function, with `options=` bound where it has any. Raises: InputError."""
        module, name = _parts(self.path)
        found = getattr(_module(module, self.source), name)
        if hasattr(found, "options"):
            return partial(found, options=found.options(**dict(self.options)))
        loaded: Callable[..., Any] = found
        return loaded


def named(value: str | Plugin) -> str:
    """What results and messages call a built-in (its name) or a plug-in."""
    return value if isinstance(value, str) else value.name


def options(model: type[Section]) -> Callable[[Any], Any]:
    """A decorator: the function takes `options=`, a section of the study file under its name."""

    def declared(function: Any) -> Any:
        function.options = model
        return function

    return declared


def find(
    kind: PluginKind, name: str, known: Mapping[str, Any], *, where: str = "", key: str = ""
) -> tuple[Any, Plugin]:
    """The object from outside that a study names, and what a stage holds of it.

    Raises: InputError where it cannot be imported, is not there, or has a built-in's name.
    """
    path = name if PATH.match(name) else _entry_points(kind).get(name)
    if path is None:
        more = sorted(_entry_points(kind))
        raise InputError(
            f"there is no such {kind.removesuffix('s')}",
            where=where,
            key=key,
            got=name,
            expected=", ".join([*known, *more]) + "; or one of your own: ./file.py:name",
        )
    module_path, attribute = _parts(path)
    if attribute in known:
        raise _shadows(attribute, name, where, key)
    try:
        source = None if _is_installed(module_path) else _read(module_path)
        module = _module(module_path, source)
    except Exception as error:  # whatever the module raises when it is imported
        raise InputError(
            f"the plug-in cannot be imported ({type(error).__name__}: {error})",
            where=where,
            key=key,
            got=name,
            expected="./file.py:name, seen from the study file or the working directory, or "
            "package.module:name of an installed package",
            fix=f"try it: python -c 'import runpy; runpy.run_path(\"{module_path}\")'"
            if module_path.endswith(".py")
            else f"install the package of {module_path}, here and on every node, or name its file",
        ) from None
    if not hasattr(module, attribute):
        own = [
            n
            for n, one in vars(module).items()
            if getattr(one, "__module__", "") == module.__name__
        ]
        raise InputError(
            f"there is no {attribute} in {module_path}",
            where=where,
            key=key,
            got=name,
            expected="one of " + ", ".join(own) if own else "",
        )
    plugin = Plugin(attribute, _code(module), path=path, source=source)
    return getattr(module, attribute), plugin


def held(
    kind: PluginKind,
    name: str,
    known: Mapping[str, Any],
    options: Mapping[str, Section],
    plugins: Mapping[str, Plugin],
) -> str | Plugin:
    """A built-in's name, or what a stage holds of a plug-in, with its options.

    `options`: the sections of the study file, by the plug-in's name; `plugins`: those found as
    the study was read, whose files need not be here. Raises: InputError.
    """
    if name in known:
        return name
    plugin = plugins.get(name) or find(kind, name, known, key=kind)[1]
    if plugin.name in known:
        raise _shadows(plugin.name, name, "", kind)
    section = options.get(plugin.name)
    if section is None:
        return plugin
    chosen = {field: getattr(section, field) for field in type(section).model_fields}
    return replace(plugin, options=tuple(sorted(chosen.items())))


def _shadows(attribute: str, name: str, where: str, key: str) -> InputError:
    return InputError(
        f"{attribute} is built in, and a plug-in may not take its place",
        where=where,
        key=key,
        got=name,
        fix="give the function another name",
    )


def absolute(name: str, base: Path | None) -> str:
    """A plug-in's path with its file found from the working directory or from `base`."""
    match = PATH.match(name)
    if match is None or not match["module"].endswith(".py"):
        return name
    file = Path(match["module"]).expanduser()
    if not file.exists() and base is not None and (base / file).exists():
        file = base / file
    return f"{file.absolute()}:{match['name']}"


def modules() -> Iterator[ModuleType]:
    """The modules of plug-ins that no other process can import by name."""
    return (module for name, module in sys.modules.items() if name.startswith(_OWN))


def _parts(path: str) -> tuple[str, str]:
    match = PATH.match(path)
    if match is None:
        raise InputError("a plug-in is named ./file.py:name or package.module:name", got=path)
    return match["module"], match["name"]


@cache
def _entry_points(kind: PluginKind) -> Mapping[str, str]:
    return {point.name: point.value for point in metadata.entry_points(group=f"l2kd_ray.{kind}")}


def _is_installed(module: str) -> bool:
    return module.partition(".")[0] in metadata.packages_distributions()


def _read(module: str) -> str:
    if module.endswith(".py"):
        return Path(module).read_text(encoding="utf-8")
    with _working_directory():
        spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {module}")
    return Path(spec.origin).read_text(encoding="utf-8")


@contextmanager
def _working_directory() -> Iterator[None]:
    """A console script does not look for modules in the working directory."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _module(path: str, source: str | None) -> ModuleType:
    """The module of a plug-in; that of a text is made once a process and named by its digest."""
    if source is None:
        return importlib.import_module(path)
    name = _OWN + hashlib.sha256(source.encode()).hexdigest()[:16]
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = path
        sys.modules[name] = module
        try:
            exec(compile(source, path, "exec"), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        _mark(module)
    return sys.modules[name]


def _mark(module: ModuleType) -> None:
    """Put the source's digest on the module's own classes: a stage of such a class has it in its
    key (`core.stage`)."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            value.source_code = _code(module)  # type: ignore[attr-defined]


def _code(module: ModuleType) -> str:
    if module.__name__.startswith(_OWN):
        return module.__name__.removeprefix(_OWN)
    digest = hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()[:16]
    owners = metadata.packages_distributions().get(module.__name__.partition(".")[0], [])
    return " ".join(
        [*(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners))), digest]
    )
