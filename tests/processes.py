"""`leyden` processes for tests that kill them, without four seconds of imports for each.

A server imports everything and runs nothing, and every process is a fork of it: a real process with
its own signals, locks and exit code.
"""

import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

PRELOADED = [
    "leyden.cli.main", "leyden.stages.distill", "leyden.stages.evaluate", "leyden.stages.prompts",
    "leyden.pipeline.evaluate_model", "leyden.report.page", "math_verify",
]  # fmt: skip
CONTEXT = get_context("forkserver")
WAIT_SECONDS = 120
CONTEXT.set_forkserver_preload(PRELOADED)


class Leyden:
    """A running command. ``log`` gets what it prints, both streams."""

    def __init__(self, arguments: Sequence[object], log: Path) -> None:
        self.log = log
        texts = [str(argument) for argument in arguments]
        self.process = CONTEXT.Process(target=_run, args=(texts, str(log), os.getcwd()))
        self.process.start()

    def running(self) -> bool:
        return self.process.exitcode is None

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.join()

    def wait(self) -> int:
        """The exit code; -N where signal N ended it."""
        self.process.join(WAIT_SECONDS)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    @property
    def printed(self) -> str:
        return self.log.read_text()


def _run(arguments: list[str], log: str, folder: str) -> None:
    from leyden.cli.main import run

    # Tests that a shell runs in the background ignore Ctrl-C; a user's command heeds it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    code = run(arguments)
    sys.stdout.flush()
    os._exit(code)  # as a command ends, without the machinery of multiprocessing
