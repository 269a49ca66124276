"""The identity of a pretrained model: the digest of its folder's files, or its hub commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from l2kd_ray.errors import InputError
from l2kd_ray.models.spec import ModelSpec

# The files that a model is loaded from; a changed README does not make another model.
_SUFFIXES = {".json", ".safetensors", ".model", ".txt", ".py", ".jinja"}


@dataclass(frozen=True)
class Pretrained:
    """`digest` identifies the files; `location` (folder or hub id) and `revision` locate them."""

    digest: str
    location: str = field(metadata={"identity": False})
    revision: str | None = field(default=None, metadata={"identity": False})


def resolve_model(spec: ModelSpec, *, where: str, base: Path | None = None) -> Pretrained | None:
    """Find the model that a study names (folder or hub id); None if it is trained from scratch.

    A relative folder is looked for below the working directory, then below `base`.
    Raises: InputError if the model is in neither, the hub cannot be reached, or a revision is asked
    of a folder.
    """
    if spec.model is None:
        return None
    for folder in (Path(spec.model), (base or Path()) / spec.model):
        if folder.is_dir():
            if spec.revision is not None:
                raise InputError(
                    "a folder has no revisions: its files are what it is",
                    where=where,
                    key="revision",
                    got=spec.revision,
                    fix="take it away",
                )
            return _of_folder(folder.resolve(), where)
    # A hub id has at most one slash and looks like no path.
    if spec.model.startswith((".", "/", "~")) or spec.model.count("/") > 1:
        raise InputError(
            "no such model folder",
            where=where,
            key="model",
            got=spec.model,
            expected="a folder with config.json, or a hub id",
        )
    return _of_hub(spec, where)


def resolve_vectors(path: str, *, where: str, base: Path | None = None) -> Pretrained:
    """Find a file of word vectors, as `resolve_model` finds a folder. Raises: InputError."""
    for file in (Path(path), (base or Path()) / path):
        if file.is_file():
            return Pretrained(hashlib.sha256(file.read_bytes()).hexdigest(), str(file.resolve()))
    raise InputError(
        "no such file of word vectors",
        where=where,
        key="vectors",
        got=path,
        expected="a text file with a word and its numbers on each line",
    )


def check_tokenizers(
    own: str | None, teacher: str | None, models: Mapping[str, Pretrained], where: str
) -> None:
    """Check that a pretrained teacher reads the student's vocabulary.

    Word-KD compares distributions token by token. `own` and `teacher`: the names of the student's
    model (or tokenizer) and of the teacher. Raises: InputError if their vocabularies differ.
    """
    if teacher is None or teacher == own:
        return
    fix = f"tokenizer.model={teacher} for a student from scratch, or a teacher of its family"
    if own is None:
        raise InputError(
            "a pretrained teacher has a tokenizer, but the student's would be trained from scratch",
            where=where,
            key="teacher.model",
            got=teacher,
            expected="one tokenizer for teacher and student",
            fix=fix,
        )
    vocabularies = [_vocabulary(models[name]) for name in (teacher, own)]
    if vocabularies[0] != vocabularies[1]:
        different = len(set(vocabularies[0].items()) ^ set(vocabularies[1].items()))
        raise InputError(
            "teacher and student do not share a tokenizer",
            where=where,
            key="teacher.model",
            got=f"{len(vocabularies[0])} and {len(vocabularies[1])} tokens; {different} differ",
            expected="one tokenizer for teacher and student",
            fix=fix,
        )


def _vocabulary(source: Pretrained) -> dict[str, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def _of_folder(folder: Path, where: str) -> Pretrained:
    if not (folder / "config.json").is_file():
        raise InputError(
            "the folder contains no model",
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
        # Without a network a model in the local cache will do.
        cached = try_to_load_from_cache(model, "config.json", revision=spec.revision)
        if not isinstance(cached, str):
            raise InputError(
                f"the model cannot be found on the hub ({type(error).__name__})",
                where=where,
                key="model",
                got=model,
                expected=f"a model of {constants.ENDPOINT} and a network, or a folder",
                fix="download it elsewhere and give its folder: student.model=FOLDER",
            ) from None
        commit = Path(cached).parent.name
    return Pretrained(f"hub:{model}@{commit}", model, commit)
