"""Commands and URLs on events of a sweep (`on_event`): a mirror that only speaks up at times."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from urllib.request import Request, urlopen

from l2kd_ray.mirrors import Mirror, MirroredStudy, StudyState
from l2kd_ray.study.schema import StudyConfig

_PATIENCE_S = 30.0
_URL = re.compile(r"https?://")


class Events(Mirror):
    """Runs a command, or posts to a URL, when a study has finished, failed, or reached a look."""

    title = "on_event"

    @classmethod
    def ways(cls, config: StudyConfig) -> Sequence[str]:
        return ("",)  # a second one would send again what has been sent

    def __init__(self, study: MirroredStudy) -> None:
        super().__init__(study)
        self._looks: int | None = None
        self._problems: list[str] = []

    def on_study(self, study: StudyState) -> None:
        if self._looks is not None and study.looks > self._looks:
            self._send("look", study)
        self._looks = study.looks
        if study.state != "running":
            self._send("failed" if study.state == "failed" else "finished", study)

    def close(self) -> str:
        return "\n".join(f"on_event.{problem}" for problem in self._problems)

    def _send(self, event: str, study: StudyState) -> None:
        target = getattr(self.study.config.on_event, event)
        if target is None:
            return
        body = json.dumps(
            {
                "event": event,
                "study": self.study.name,
                "state": study.state,
                "trials": study.trials,
                "trials_done": study.trials_done,
                "failures": list(study.failures),
                "numbers": dict(study.numbers),
                "folder": str(self.study.folder),
            }
        ).encode()
        try:
            if _URL.match(os.path.expandvars(target)):
                kind = {"Content-Type": "application/json"}
                with urlopen(Request(os.path.expandvars(target), body, kind), timeout=_PATIENCE_S):
                    return
            variables = {"L2KD_EVENT": event, "L2KD_STUDY": self.study.name}
            subprocess.run(
                ["/bin/sh", "-c", target],
                input=body,
                env={**os.environ, **variables},
                check=True,
                timeout=_PATIENCE_S,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # Not its text: a URL may be a secret.
            status = getattr(error, "code", getattr(error, "returncode", ""))
            self._problems.append(f"{event}: it failed ({type(error).__name__} {status})".strip())
