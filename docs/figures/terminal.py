"""Draws `terminal.svg`: what `l2kd sweep` shows while a sweep runs.

    python docs/figures/terminal.py

It sweeps the quickstart with tiny settings, in this process, and takes the picture on the way.
"""

import re
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from l2kd_ray import load_study
from l2kd_ray.report.live import clock, picture, rows_of

TITLE = "l2kd sweep quickstart"


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as storage:
        tiny = {
            "storage": storage,
            "search": None,
            "kd.temperature": 2,
            "kd.weight": 1,
            "max_train": 24,
            "max_dev": 8,
            "max_test": 8,
            "train.epochs": 2,
            "student.n_embd": 32,
            "evaluate.max_new_tokens": 8,
            "report_to": "none",
        }
        study = load_study("quickstart", tiny)
        threading.Thread(target=study.sweep, args=("inline",), daemon=True).start()
        started, look = time.monotonic(), study.look()
        while True:
            time.sleep(1)
            found = look()
            if found.running and found.trials_done > found.trials / 2:
                break
        elapsed = clock(time.monotonic() - started)
    running = [replace(one, host="laptop") for one in found.running]
    found = replace(found, running=running)
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=64, file=nowhere)
        console.print(picture(elapsed, rows_of(found), found.failures, found))
    drawn = console.export_svg(title=TITLE)
    drawn = re.sub(r"@font-face {.*?}", "", drawn, flags=re.DOTALL)  # which the network would give
    Path(__file__).with_name("terminal.svg").write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
