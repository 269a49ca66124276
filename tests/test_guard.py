"""The parent of a sweep: what it passes on, what it says, and that nothing outlives it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drills import is_alive

COMMAND = """
import os, signal, subprocess, sys, time
from l2kd_ray.cluster.guard import Stopped, guarded, say_stopped, stoppable
with stoppable():
    try:
        if (code := guarded()) is not None:
            sys.exit(code)
        print("begun", flush=True)
        {body}
    except Stopped as stop:
        say_stopped()
        sys.exit(stop.code)
"""
ORPHAN = "subprocess.Popen(['sh', '-c', 'sleep 600 & echo $!; exit']).wait()"


def heed_signals() -> None:
    """Undo what tests that run in the background inherit: they ignore some signals."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)


def run(body: str, *signals: signal.Signals) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a guarded command that gets the signals."""
    command = [sys.executable, "-c", COMMAND.format(body=body)]
    # No buffer: `communicate` would not see what a line's read took with it.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(  # type: ignore[call-overload]
        command, preexec_fn=heed_signals, **pipes
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        for one in signals:
            time.sleep(0.5)  # so that the command is within its body
            process.send_signal(one)
        out, err = process.communicate(timeout=100)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("code", [0, 2, 3, 4])
def test_a_child_that_ends_by_itself_speaks_for_itself(code: int) -> None:
    body = f"print('mine', file=sys.stderr); os.write(2, b'theirs'); sys.exit({code})"
    assert run(body) == (code, "", "mine\n")


@pytest.mark.parametrize(
    ("body", "how"), [("os._exit(1)", "exit code 1"), ("os.abort()", "signal 6")]
)
def test_a_child_that_is_ended_from_within_is_spoken_for(body: str, how: str) -> None:
    code, _, err = run(f"os.write(2, b'a page of C++'); {body}")
    assert code == 4
    assert how in err
    assert "what is finished is kept; the same command goes on" in err
    assert "a page" not in err
    (named,) = re.findall(r"Ray's own messages: (\S+)", err)
    assert Path(named).read_text().startswith("a page of C++")
    Path(named).unlink()


@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_passed_on_and_said_once(asked: signal.Signals, code: int) -> None:
    """Also where it comes again, while the child stops."""
    body = "\n        ".join(
        ["try: time.sleep(600)", "finally:", "    time.sleep(3); print('put away', flush=True)"]
    )
    ended, out, err = run(body, asked, asked)
    assert (ended, out) == (code, "put away\n")
    assert err.count("what is finished is kept") == 1


def test_a_child_that_dies_while_it_stops_was_stopped() -> None:
    """As one whose Ray got the same signal, from `docker stop`, and aborts."""
    body = "\n        ".join(["try: time.sleep(600)", "finally: os.abort()"])
    code, _, err = run(body, signal.SIGTERM)
    assert code == 143
    assert "what is finished is kept" in err


@pytest.mark.parametrize("end", ["sys.exit(0)", "os.abort()"])
def test_no_orphan_is_left(end: str) -> None:
    _, out, _ = run(f"{ORPHAN}; {end}")
    assert not is_alive(int(out))


def test_what_ignores_hangups_goes_on() -> None:
    """`nohup l2kd sweep`."""
    body = "time.sleep(1); print('whole')"
    program = f"import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{COMMAND}"
    with subprocess.Popen(
        [sys.executable, "-c", program.format(body=body)], stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=60)[0] == b"whole\n"
    assert process.returncode == 0
