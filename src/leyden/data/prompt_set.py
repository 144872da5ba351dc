"""The rendered prompts of a run: one JSON line each, made once, read by every stage."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leyden.data.sources import Prompt
from leyden.files import write_atomic
from leyden.provenance.identity import hash_file
from leyden.run.run import RENDERED, check_prompt_set
from leyden.telemetry.progress import Progress


@dataclass(frozen=True)
class RenderedPrompt:
    """``id`` is unique in the run: ``split/id-in-file``. ``ids`` are what the model is given."""

    id: str
    split: str
    ids: tuple[int, ...]
    text: str
    answer: str | None
    row: dict[str, Any]


def render_all(
    renderer: Any, prompts: Sequence[Prompt], split: str, progress: Progress
) -> list[RenderedPrompt]:
    """``prompts`` as token ids, by a ``Renderer``; the split goes before their ids."""
    rendered = []
    with progress(f"prompts, {split}", len(prompts), "rows") as advance:
        for p in prompts:
            ids = tuple(renderer.render(p.text))
            rendered.append(RenderedPrompt(f"{split}/{p.id}", split, ids, p.text, p.answer, p.row))
            advance(1)
    return rendered


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
