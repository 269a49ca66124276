"""Loading of plug-ins, named as `pkg.module:name`, `./file.py:name` or by an entry point.

Methods, divergences, metrics, readers, replay filters and mirrors can be plug-ins. A study file
names them, and their source is part of the keys of the stages that use them. A single file is sent
to Ray's workers with the stages; a package must be installed there.
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

from l2kd_ray.errors import InputError, did_you_mean
from l2kd_ray.section import Section, expanded

PluginKind = Literal["methods", "divergences", "metrics", "readers", "filters", "mirrors"]
"""The kinds of plug-in; `l2kd_ray.<kind>` is the group of their entry points."""
PATH = re.compile(r"^(?P<module>[^:]+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)$")
_OWN = "l2kd_plugin_"


@dataclass(frozen=True)
class Plugin:
    """A plug-in function in the form that a stage holds."""

    name: str
    code: str
    """Digest of the source file, with the distribution's version if it is installed."""
    options: tuple[tuple[str, Any], ...] = ()
    path: str = field(default="", metadata={"identity": False}, compare=False)
    source: str | None = field(
        default=None, metadata={"identity": False}, compare=False, repr=False
    )
    """The text of its file; None if it is imported from an installed package."""

    def load(self) -> Callable[..., Any]:
        """The function, with `options=` bound if it has any. Raises: InputError."""
        module, name = _parts(self.path)
        found = getattr(_module(module, self.source), name)
        if hasattr(found, "options"):
            return partial(found, options=found.options(**dict(self.options)))
        loaded: Callable[..., Any] = found
        return loaded


def named(value: str | Plugin) -> str:
    """The name of a built-in or of a plug-in, in results and messages."""
    return value if isinstance(value, str) else value.name


def options(model: type[Section]) -> Callable[[Any], Any]:
    """A decorator for a function with `options=`: a section of the study file under its name."""

    def declared(function: Any) -> Any:
        function.options = model
        return function

    return declared


def names(kind: PluginKind, name: str) -> bool:
    """True if this names a plug-in: a path, or an entry point of the kind."""
    return PATH.match(name) is not None or name in _entry_points(kind)


def find(
    kind: PluginKind, name: str, known: Mapping[str, Any], *, where: str = "", key: str = ""
) -> tuple[Any, Plugin]:
    """The plug-in object that a study names, and the `Plugin` that a stage holds.

    Raises: InputError if it cannot be imported, does not exist, or has a built-in's name.
    """
    path = name if PATH.match(name) else _entry_points(kind).get(name)
    if path is None:
        names = [*known, *sorted(_entry_points(kind))]
        raise InputError(
            f"there is no such {kind.removesuffix('s')}",
            where=where,
            key=key,
            got=name,
            expected=", ".join(names) + "; or one of your own: ./file.py:name",
            fix=did_you_mean(name, names),
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
    """The name of a built-in, or the `Plugin` (with its options) that a stage holds.

    `options`: sections of the study file by plug-in name; `plugins`: those loaded when the study
    was read, whose files need not exist here. Raises: InputError.
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
    """A plug-in's path with an absolute file, looked up in the working directory, then in
    `base`."""
    match = PATH.match(name)
    if match is None or not match["module"].endswith(".py"):
        return name
    file = Path(expanded(match["module"]))
    if not file.exists() and base is not None and (base / file).exists():
        file = base / file
    return f"{file.absolute()}:{match['name']}"


def modules() -> Iterator[ModuleType]:
    """The loaded modules of plug-in files, which other processes cannot import by name."""
    return (module for name, module in sys.modules.items() if name.startswith(_OWN))


def _parts(path: str) -> tuple[str, str]:
    match = PATH.match(path)
    if match is None:
        raise InputError("a plug-in is named ./file.py:name or package.module:name", got=path)
    return match["module"], match["name"]


@cache
def _entry_points(kind: PluginKind) -> Mapping[str, str]:
    return {point.name: point.value for point in metadata.entry_points(group=f"l2kd_ray.{kind}")}


@cache  # it looks at the files of every package
def _packages() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _is_installed(module: str) -> bool:
    return module.partition(".")[0] in _packages()


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
    """Add the working directory to the import path, which a console script does not search."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _module(path: str, source: str | None) -> ModuleType:
    """The module of a plug-in; one from source text is executed once per process.

    Its name contains the digest of the source, so that a changed file is a new module.
    """
    if source is None:
        installed = importlib.import_module(path)
        if path.partition(".")[0] != "l2kd_ray":
            _mark(installed)
        return installed
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
    """Set `source_code` on the module's classes, so that it enters their stages' keys."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            value.source_code = _code(module)  # type: ignore[attr-defined]


def _code(module: ModuleType) -> str:
    if module.__name__.startswith(_OWN):
        return module.__name__.removeprefix(_OWN)
    digest = hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()[:16]
    owners = _packages().get(module.__name__.partition(".")[0], [])
    return " ".join(
        [*(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners))), digest]
    )
