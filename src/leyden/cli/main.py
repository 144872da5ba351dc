"""``leyden``: parse the command, run it, turn errors into an exit code.

Exit codes: 0 done; 1 a LeydenError, one sentence and a hint; 2 usage; 130 interrupted.
"""

import difflib
import logging
import os
import select
import sys
from functools import reduce
from operator import or_
from typing import Annotated, Any, TextIO

import tyro

from leyden.cli import commands as c
from leyden.cli.screen import print_error
from leyden.cli.visible import VisibleFormatter
from leyden.errors import LeydenError
from leyden.provenance.records import package_versions
from leyden.run.stage import EVALUATE, Artifact
from leyden.run.table import STAGES

OF_STAGES = {
    name: c.Evaluate if name == EVALUATE else c.stage_command(name)
    for name, stage in STAGES.items()
    if stage.artifact != Artifact.PROMPTS  # rendered when a stage needs them
}
COMMANDS: dict[str, type] = {
    "init": c.Init,
    "run": c.RunRecipe,
    **OF_STAGES,
    "work": c.Work,
    "compare": c.Compare,
    "check-overlap": c.CheckOverlap,
    "status": c.Status,
    "show": c.Show,
    "verify": c.Verify,
    "report": c.Report,
    "identify": c.Identify,
    "config": c.Config,
}
TAKES_FIELDS = (c.RunRecipe, c.Config, c.Evaluate)


def main(arguments: list[str] | None = None) -> None:
    """The console entry point."""
    try:
        try:
            code = run(sys.argv[1:] if arguments is None else arguments)
        except SystemExit as error:  # the parser has printed help, or a mistake in the arguments
            code = error.code
        sys.stdout.flush()
    except BrokenPipeError:
        code = _after_broken_pipe()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Parse and do one command; its exit code."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
    if arguments == ["--version"]:
        print(f"leyden {package_versions('leyden')['leyden']}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        print(_no_such_command(arguments[0]), file=sys.stderr)
        return 2
    command, rest = _parse(arguments)
    if rest and not isinstance(command, TAKES_FIELDS):
        print(f"leyden: unknown arguments: {' '.join(rest)}", file=sys.stderr)
        return 2
    try:
        if isinstance(command, TAKES_FIELDS):
            command.run(rest)
        else:
            command.run()
        sys.stdout.flush()  # an error of the disk that is written to is reported below
    except LeydenError as error:
        print_error(str(error), error.hint)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        place = error.filename or "standard output"
        print_error(
            f"{place}: {error.strerror}", "check the disk and the permissions of that place"
        )
        _drop(sys.stdout)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what is committed is kept\nhint: the same command resumes",
            file=sys.stderr,
        )
        return 130
    return 0


def _no_such_command(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `leyden {close[0]}`?" if close else f"one of {', '.join(COMMANDS)}"
    return f"error: leyden has no command {name!r}\nhint: {hint}"


def _parse(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command and the arguments that it does not know, which may be fields of a recipe."""
    named = [Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
    return tyro.cli(
        reduce(or_, named),
        prog="leyden",
        description="Distil a language model on its own outputs, with no teacher running. "
        "`leyden --version` prints the version.",
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _after_broken_pipe() -> int:
    """The exit code: 0 where the reader of our output, such as head, has seen enough.

    Where the reader of stderr has gone instead, work was cut short, and the code is 1.
    """
    ended = _has_no_reader(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if _has_no_reader(stream):
            _drop(stream)
    return 0 if ended else 1


def _has_no_reader(stream: TextIO) -> bool:
    """Whether the stream is a pipe whose other end is closed."""
    if sys.platform == "win32":  # implemented, not run: only output is piped away there
        return stream is sys.stdout
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # errors are reported whatever one asks for
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _drop(stream: TextIO) -> None:
    """Send what is still buffered nowhere, so that Python does not complain on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
