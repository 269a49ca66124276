"""The `l2kd` command as a test runs it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from l2kd_ray import cli

L2KD = [sys.executable, "-m", "l2kd_ray.cli"]


# Planted in the environment of every command: none may be written or said anywhere.
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef-planted-wandb-key",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "AWS_SESSION_TOKEN": "planted-aws-token",
    "HF_TOKEN": "hf_planted-token",
    "RAY_AUTH_TOKEN": "planted-ray-token-of-32-letters-x",
}


def l2kd(*words: object, folder: Path, code: int = 0, **more: str) -> str:
    """Run the command; its output, after a look at its exit code.

    What starts a cluster runs in a process of its own; the rest in this one, which spares the
    seconds of the imports.
    """
    said = [str(word) for word in words]
    environment = {"HOME": str(folder), "WANDB_MODE": "offline", "COLUMNS": "120"} | SECRETS | more
    run = _outside if said[0] == "sweep" and "--inline" not in said else _inside
    ended, output = run(said, folder, environment)
    assert ended == code, output
    assert not [name for name, secret in SECRETS.items() if secret in output]
    return output


def _outside(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [*L2KD, *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _inside(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    ended: object = None
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["l2kd", *words]),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as exit:
            ended = exit.code
    text = ""
    for stream in (out, err):
        stream.flush()
        text += stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    return (ended if isinstance(ended, int) else 0), text
