"""``leyden``: parse the command, run it, turn what went wrong into an exit code.

Exit codes: 0 done; 1 a LeydenError, one sentence and a hint; 2 usage; 130 interrupted.
"""

import os
import sys
from typing import Annotated

import tyro

from leyden.cli import commands as c
from leyden.errors import LeydenError

Sub = tyro.conf.subcommand
Command = (
    Annotated[c.RunRecipe, Sub("run")]
    | Annotated[c.Teach, Sub("teach")]
    | Annotated[c.Sft, Sub("sft")]
    | Annotated[c.Rollout, Sub("rollout")]
    | Annotated[c.Score, Sub("score")]
    | Annotated[c.Distill, Sub("distill")]
    | Annotated[c.Evaluate, Sub("evaluate")]
    | Annotated[c.Compare, Sub("compare")]
    | Annotated[c.CheckOverlap, Sub("check-overlap")]
    | Annotated[c.Status, Sub("status")]
    | Annotated[c.Show, Sub("show")]
    | Annotated[c.Verify, Sub("verify")]
    | Annotated[c.Report, Sub("report")]
    | Annotated[c.Identify, Sub("identify")]
    | Annotated[c.Config, Sub("config")]
)
TAKES_FIELDS = (c.RunRecipe, c.Config, c.Evaluate)


def main(arguments: list[str] | None = None) -> None:
    """The console entry point."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    command, rest = tyro.cli(
        Command,
        prog="leyden",
        description="Distil a language model on its own outputs, with no teacher running.",
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    if rest and not isinstance(command, TAKES_FIELDS):
        print(f"leyden: unknown arguments: {' '.join(rest)}", file=sys.stderr)
        return 2
    try:
        if isinstance(command, TAKES_FIELDS):
            command.run(rest)
        else:
            command.run()
        sys.stdout.flush()
    except LeydenError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        print("hint: check the disk and the permissions of that place", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what is committed is kept\nhint: the same command resumes",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    main()
