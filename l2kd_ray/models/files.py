"""The files of a pretrained model: which belong to it, and what their headers tell.

No weight is read here, and neither torch nor transformers is needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from l2kd_ray.errors import InputError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_FOREIGN = {
    ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite",
}  # fmt: skip
"""Weights in formats that are never loaded: most of them are pickles, which may run code."""
_UNREAD = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf"}


def of_folder(folder: Path) -> dict[str, Path]:
    """The files that a model may be loaded from, by their names below the folder, sorted.

    Documents, hidden files and weights in other formats do not make another model.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in found.items() if path.is_file() and _is_read(name)}


def _is_read(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    document = path.suffix.lower() in _UNREAD or path.name.upper().startswith(("LICENSE", "README"))
    return not hidden and not document and path.suffix.lower() not in _FOREIGN


def check_names(names: Collection[str], model: str, *, where: str, key: str) -> None:
    """Check the names of all files of a model's folder or repository. Raises: InputError."""

    def refuse(problem: str, got: object, expected: str, fix: str) -> InputError:
        return InputError(problem, where=where, key=key, got=got, expected=expected, fix=fix)

    if _ADAPTER in names:
        raise refuse(
            "this is an adapter of a model, and not a model",
            f"{model}: {_ADAPTER}",
            f"{CONFIG} and {WEIGHTS} of a whole model",
            "merge it: peft's AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload()"
            ".save_pretrained(MERGED), and the tokenizer beside it",
        )
    if CONFIG not in names:
        raise refuse("this is no model", model, f"{CONFIG}, {WEIGHTS} and a tokenizer's files", "")
    if not {WEIGHTS, INDEX} & set(names):
        foreign = sorted(name for name in names if PurePosixPath(name).suffix in _FOREIGN)
        raise refuse(
            "the model has no weights in safetensors",
            f"{model}: {', '.join(foreign) or 'no weights'}",
            f"{WEIGHTS}, or {INDEX} and its shards; pickles are never read",
            "if you trust its source, convert it: AutoModelForCausalLM.from_pretrained(FOLDER, "
            "use_safetensors=False).save_pretrained(FOLDER)"
            if foreign
            else "download or save the model again",
        )


def check_folder(folder: Path, *, where: str, key: str) -> None:
    """Check the names and the headers of a folder's files. Raises: InputError."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    check_names(names, str(folder), where=where, key=key)
    config = _read_json(folder / CONFIG, key)
    if not isinstance(config.get("model_type"), str):
        raise InputError(
            "the config does not name the type of its model",
            where=str(folder / CONFIG),
            key=key,
            got={"model_type": config.get("model_type")},
            expected="a type of transformers, such as gpt2",
        )
    if WEIGHTS in names:
        _tensors(folder / WEIGHTS, key)
        return
    shards = _read_json(folder / INDEX, key).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise _torn(folder / INDEX, key, "no weight_map")
    for shard in sorted(set(shards.values())):
        wanted = {name for name, file in shards.items() if file == shard}
        if not (folder / shard).is_file():
            raise _torn(folder / INDEX, key, f"its shard {shard} does not exist")
        if missing := wanted - _tensors(folder / shard, key):
            raise _torn(folder / shard, key, f"{len(missing)} tensors of the index are missing")


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _tensors(path: Path, key: str) -> set[str]:
    """The names of a file's tensors; their offsets and sizes must fill the file."""
    try:
        with safe_open(str(path), "numpy") as file:
            names: Iterable[str] = file.keys()
            return set(names)
    except (SafetensorError, OSError, ValueError) as error:
        raise _torn(path, key, str(error)) from None


def _read_json(path: Path, key: str) -> dict[str, object]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _torn(path, key, str(error)) from None
    if not isinstance(value, dict):
        raise _torn(path, key, type(value).__name__)
    return value


def _torn(path: Path, key: str, got: str) -> InputError:
    return InputError(
        "the file is not whole",
        where=str(path),
        key=key,
        got=got,
        expected="a file as transformers writes it",
        fix="download or save the model again",
    )
