"""The rendered prompts of a run: one JSON line each, made once, read by every stage."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leyden.files import write_atomic
from leyden.identity import hash_file
from leyden.run import RENDERED, check_prompt_set


@dataclass(frozen=True)
class RenderedPrompt:
    """``id`` is unique in the run: ``split/id-in-file``. ``ids`` are what the model is given."""

    id: str
    split: str
    ids: tuple[int, ...]
    text: str
    answer: str | None
    row: dict[str, Any]


def write_prompt_set(folder: Path, prompts: list[RenderedPrompt]) -> str:
    """Write them all and return the file's sha256."""
    lines = [json.dumps(asdict(p), ensure_ascii=True) for p in prompts]
    write_atomic(folder / RENDERED, ("\n".join(lines) + "\n").encode())
    return hash_file(folder / RENDERED)


def read_prompt_set(folder: Path, *, expected: str) -> dict[str, RenderedPrompt]:
    """By id, in order. Raises StoreError when the file is not the one recorded as ``expected``."""
    path = check_prompt_set(folder, expected)
    prompts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        values["ids"] = tuple(values["ids"])
        prompts[values["id"]] = RenderedPrompt(**values)
    return prompts
