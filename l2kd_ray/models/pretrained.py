"""The identity of a pretrained model: the digest of its folder's files, or its hub commit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from l2kd_ray.errors import InputError
from l2kd_ray.models import files
from l2kd_ray.models.spec import ModelSpec
from l2kd_ray.tasks.readers.files import check_unchanged, digest


@dataclass(frozen=True)
class Pretrained:
    """`digest` identifies the files; `location` (folder or hub id) and `revision` locate them."""

    digest: str
    location: str = field(metadata={"identity": False})
    revision: str | None = field(default=None, metadata={"identity": False})
    names: tuple[str, ...] = field(
        default=(), metadata={"identity": False}, compare=False, repr=False
    )
    """The files of a hub model, or of its copy in the local cache; empty for a folder."""

    def check_files(self, *, where: str, key: str) -> None:
        """Check that these are the files of a model, by names and headers. Raises: InputError."""
        if Path(self.location).is_dir():
            files.check_folder(Path(self.location), where=where, key=key)
        elif self.names:
            files.check_names(self.names, self.location, where=where, key=key)

    def unchanged(self) -> Path:
        """Its folder or file (of a hub id no path), at the moment of reading.

        Raises: InputError if a file is no longer what it was when the study was planned.
        """
        path = Path(self.location)
        if path.exists():
            found = _of_folder(path).digest if path.is_dir() else digest(path)
            check_unchanged("model", self.location, found, self.digest)
        return path


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
            return _of_folder(folder.resolve())
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
            return Pretrained(digest(file), str(file.resolve()))
    raise InputError(
        "no such file of word vectors",
        where=where,
        key="vectors",
        got=path,
        expected="a text file with a word and its numbers on each line",
    )


def _of_folder(folder: Path) -> Pretrained:
    every = hashlib.sha256()
    for name, path in files.of_folder(folder).items():
        every.update(f"{name}\0".encode())
        every.update(bytes.fromhex(digest(path)))
    return Pretrained(every.hexdigest(), str(folder))


def _of_hub(spec: ModelSpec, where: str) -> Pretrained:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    model = spec.model or ""
    names: tuple[str, ...] = ()
    try:
        found = HfApi().model_info(model, revision=spec.revision, timeout=10)
        commit, names = found.sha, tuple(each.rfilename for each in found.siblings or ())
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
        names = tuple(path.name for path in Path(cached).parent.iterdir())
    return Pretrained(f"hub:{model}@{commit}", model, commit, names)
