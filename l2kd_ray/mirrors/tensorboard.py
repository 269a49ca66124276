"""The TensorBoard mirror: a folder of event files a trial, below the study's `tensorboard`.

    tensorboard --logdir l2kd_results/studies/NAME/tensorboard

tensorboardX, which Ray Tune brings, writes the files; TensorBoard itself is only needed to look.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from l2kd_ray.mirrors import Mirror, StudyState, TrialRun


class TensorBoard(Mirror):
    """TensorBoard's event files; they are only appended to."""

    title = "TensorBoard"

    def on_trial(self, trial: TrialRun) -> None:
        folder = self._folder / re.sub(r"[^\w.,=>+-]", "_", f"{trial.name} {trial.trial}")
        first = len(list(events(folder)))
        # Points that are gone have no number, but are counted.
        rows = {point.number: (point.step, point.values) for point in trial.points}
        last = max(rows, default=-1)
        self._append(folder, [rows.get(n, (0, {})) for n in range(first, last + 1)])

    def on_study(self, study: StudyState) -> None:
        seen = list(events(self._folder / "report"))
        if study.numbers and study.trials_done not in seen:
            self._append(self._folder / "report", [(study.trials_done, study.numbers)])

    def close(self) -> str:
        return f"TensorBoard: tensorboard --logdir {self._folder}"

    @property
    def _folder(self) -> Path:
        return self.study.folder / "tensorboard"

    def _append(self, folder: Path, rows: list[tuple[int, Mapping[str, float]]]) -> None:
        """One event a row, so that the events of a trial count its points."""
        from tensorboardX import FileWriter
        from tensorboardX.proto.summary_pb2 import Summary

        if not rows:
            return
        suffix = f".{len(list(folder.glob('events.*'))):05d}"  # two in a second have one name
        writer = FileWriter(str(folder), filename_suffix=suffix)
        for step, values in rows:
            found = [Summary.Value(tag=tag, simple_value=one) for tag, one in values.items()]
            writer.add_summary(Summary(value=found), step)
        writer.close()


def events(folder: Path) -> Iterator[int]:
    """The steps of the summaries in a folder's event files, up to a cut one in each file.

    Each record is a length (8 bytes), its checksum (4), the event and its checksum (4).
    """
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            end = at + 12 + struct.unpack_from("<Q", data, at)[0]
            if end + 4 > len(data):
                break
            event = Event.FromString(data[at + 12 : end])
            if event.HasField("summary"):
                yield event.step
            at = end + 4
