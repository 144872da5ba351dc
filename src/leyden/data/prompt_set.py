"""The rendered prompts of a run: one JSON line each, made once, read by every stage."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leyden.errors import REDO, StoreError
from leyden.files import write_atomic
from leyden.provenance.identity import hash_file
from leyden.typed_json import first_problem, read_lines

RENDERED = "rendered.jsonl"
# Splits: which set a prompt is from. The problems of a benchmark are the split bench-NAME.
SFT_SPLIT, OPD_SPLIT, HELDOUT, BENCHMARK = "sft", "opd", "heldout", "bench-"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as token ids. ``id`` is unique in the run: ``split/id-in-file``.

    ``row`` keeps the fields of the prompt file's row, for graders.
    """

    id: str
    split: str
    ids: tuple[int, ...]
    text: str
    answer: str | None
    row: dict[str, Any]


@dataclass(frozen=True)
class PromptFacts:
    """Facts about the rendered prompts that every later stage uses."""

    stop_ids: tuple[int, ...]
    """The tokens that end a completion."""
    vocab_size: int
    """Ids below this exist in every model of the run and in its tokenizer. Log-probs are over these
    ids alone, so that padding of the embeddings is neither sampled nor scored."""
    vocabulary: str
    """Hash of the tokenizer's map from tokens to ids."""
    template: tuple[str, str]
    """The rendered text before and after a prompt."""

    @classmethod
    def read(cls, facts: dict[str, Any]) -> "PromptFacts":
        """From a record's JSON values, in which tuples are lists. Raises StoreError."""
        try:
            return TypeAdapter(cls).validate_python(facts)
        except ValidationError as error:
            raise StoreError(
                f"prompts: the facts in its record are damaged: {first_problem(error)}", hint=REDO
            ) from error


def write_prompt_set(folder: Path, prompts: Sequence[RenderedPrompt]) -> str:
    """Write all prompts into ``folder`` and return the file's sha256."""
    lines = [json.dumps(asdict(p), ensure_ascii=True) for p in prompts]
    write_atomic(folder / RENDERED, ("\n".join(lines) + "\n").encode())
    return hash_file(folder / RENDERED)


def check_prompt_set(folder: Path, expected: str) -> None:
    """Raise StoreError unless the prompts in ``folder`` have the sha256 ``expected``."""
    path = folder / RENDERED
    content = hash_file(path) if path.is_file() else "missing"
    if content != expected:
        raise StoreError(
            f"{path}: the rendered prompts changed: sha256 is {content[:12]}, "
            f"recorded {expected[:12]}",
            hint=f"restore the file, or `leyden run RECIPE --redo {folder.name}`",
        )


def read_prompt_set(folder: Path, *, expected: str) -> dict[str, RenderedPrompt]:
    """Read prompts by id, in order. Raises StoreError unless they have the sha256 ``expected``."""
    check_prompt_set(folder, expected)
    return {prompt.id: prompt for prompt in read_lines(folder / RENDERED, RenderedPrompt)}
