"""Read prompt files: JSON lines with a prompt, an id and perhaps an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.asking import PromptFile
from leyden.data.tables import read_rows
from leyden.errors import ConfigError
from leyden.identity import fingerprint


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt file. ``row`` keeps every field, for graders that want more."""

    id: str
    text: str
    answer: str | None
    row: dict[str, Any]


def read_prompts(source: PromptFile, *, unique: bool = True) -> list[Prompt]:
    """All prompts of a file in order. Raises ConfigError with the line of the first bad row, or of
    the second with one id unless ids need not be ``unique``."""
    path, seen, prompts = Path(source.file), {}, []
    for index, (number, row) in enumerate(read_rows(path)):
        if index < source.skip:
            continue
        if source.limit is not None and len(prompts) == source.limit:
            break
        prompt = _prompt(row, source, f"{path}:{number}")
        if unique and prompt.id in seen:
            raise ConfigError(
                f"{path}:{number}: prompt id {prompt.id!r} was already used in line "
                f"{seen[prompt.id]}",
                hint="make ids unique; without prompts.*.id_field the prompt's own text is the id",
            )
        seen[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise ConfigError(
            f"{path}: no prompts are left after skip = {source.skip}",
            hint="add rows, or lower skip",
        )
    return prompts


def _prompt(row: dict[str, Any], source: PromptFile, where: str) -> Prompt:
    text = _field(row, source.prompt_field, where)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"{where}: {source.prompt_field} is {text!r}, expected text",
            hint="mend that line",
        )
    answer = scalar(row, source.answer_field, where) if source.answer_field else None
    name = scalar(row, source.id_field, where) if source.id_field else fingerprint(text)[:16]
    return Prompt(name, text, answer, row)


def scalar(row: dict[str, Any], name: str, where: str) -> str:
    """An id or an answer: text or a number."""
    value = _field(row, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(
            f"{where}: {name} is {value!r}, expected text or a number", hint="mend that line"
        )
    return str(value)


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ConfigError(
            f"{where}: has no field {name!r}; it has {', '.join(map(repr, sorted(row)))}",
            hint="name the right field in the recipe (prompt_field, answer_field, id_field)",
        )
    return row[name]
