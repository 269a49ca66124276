"""What a pretrained model *is*: the digest of its folder's files, or the commit of its hub id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from l2kd_ray.config import InputError, ModelSpec

# What a model is loaded from; a README beside it does not make another model.
_SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".py", ".jinja"}


@dataclass(frozen=True)
class Pretrained:
    """`digest` identifies the files; `location` (folder or hub id) and `revision` find them."""

    digest: str
    location: str = field(metadata={"identity": False})
    revision: str | None = field(default=None, metadata={"identity": False})


def resolve_model(spec: ModelSpec, *, where: str, base: Path | None = None) -> Pretrained | None:
    """Find a model of a study, a folder or on the hub; None where it is trained from scratch.

    A relative folder is looked for below the working directory, then below `base`.
    Raises: InputError where neither is there, or the hub cannot be reached.
    """
    if spec.model is None:
        return None
    for folder in (Path(spec.model).expanduser(), (base or Path()) / spec.model):
        if folder.is_dir():
            return _of_folder(folder.resolve(), where)
    if spec.model.startswith((".", "/", "~")) or spec.model.count("/") > 1:
        raise InputError(
            "no such model folder",
            where=where,
            key="model",
            got=spec.model,
            expected="a folder with config.json, or a hub id",
        )
    return _of_hub(spec, where)


def _of_folder(folder: Path, where: str) -> Pretrained:
    if not (folder / "config.json").is_file():
        raise InputError(
            "the folder holds no model",
            where=where,
            key="model",
            got=str(folder),
            expected="config.json, model.safetensors and the tokenizer's files",
        )
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _SUFFIXES:
            digest.update(f"{path.name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Pretrained(digest.hexdigest(), str(folder))


def _of_hub(spec: ModelSpec, where: str) -> Pretrained:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    model = spec.model or ""
    try:
        commit = HfApi().model_info(model, revision=spec.revision, timeout=10).sha
    except Exception as error:
        cached = try_to_load_from_cache(model, "config.json", revision=spec.revision)
        if not isinstance(cached, str):
            raise InputError(
                f"the model cannot be found on the hub ({type(error).__name__})",
                where=where,
                key="model",
                got=model,
                expected=f"a model of {constants.ENDPOINT} and a network, or a folder",
                mend="download it elsewhere and give its folder: student.model=FOLDER",
            ) from None
        commit = Path(cached).parent.name
    return Pretrained(f"hub:{model}@{commit}", model, commit)
