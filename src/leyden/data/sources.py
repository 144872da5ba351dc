"""Prompts in files of rows: a text or messages, with an id and perhaps an answer."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leyden.data.messages import Message, as_messages, as_text
from leyden.data.tables import Row, files_of, read_rows
from leyden.errors import ConfigError
from leyden.provenance.identity import fingerprint, hash_file
from leyden.recipe.sampling import PromptFile

MOST_CHARACTERS = 2**20  # of a prompt; tokenizing ten times as many takes gigabytes
MOST_KEPT = 2000  # characters of a field of a row that is kept beside its prompt
PROMPT_NAMES = (  # of published data sets, the likeliest first
    "prompt", "question", "problem", "messages", "conversations", "instruction", "query", "text",
    "input",
)  # fmt: skip
ANSWER_NAMES = ("answer", "reward_model.ground_truth", "ground_truth", "solution", "target")


def hash_data(*places: str | Path) -> str | None:
    """A hash of the data files of places; None where there are none yet."""
    if len(places) != 1:
        hashes = [hash_data(place) for place in places]
        return fingerprint(hashes) if hashes and None not in hashes else None
    place = places[0]
    path = Path(place)
    if path.is_file():
        return hash_file(path)
    try:
        paths = files_of(place)
    except ConfigError:
        return None
    if not all(one.is_file() for one in paths):
        return None
    return fingerprint({one.name: hash_file(one) for one in paths})


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt file. ``row`` keeps its fields, long ones only for graders.

    ``messages`` are there where the prompt is more than one message of a user; ``text`` then shows
    all of them.
    """

    id: str
    text: str
    answer: str | None
    row: dict[str, Any]
    messages: tuple[Message, ...] | None = None


P = TypeVar("P", bound=Prompt)


class Window(Protocol):
    """The part of a file's rows that is used."""

    @property
    def skip(self) -> int: ...

    @property
    def limit(self) -> int | None: ...


def read_prompts(
    source: PromptFile, *, unique: bool = True, files: Sequence[Path] | None = None
) -> list[Prompt]:
    """All prompts of a place, in order. Repeated ones are left out, and counted, if it says so.

    ``files`` are those of a Hub data set, which the caller has fetched. Raises ConfigError with the
    line of the first bad row, or of the second row with one id, unless ids need not be ``unique``.
    """
    rows = (
        (f"{path}:{number}", row)
        for path in (files or [path for place in source.places for path in files_of(place)])
        for number, row in read_rows(path)
    )
    repeated: list[str] = []
    prompts = take(
        rows,
        lambda row, where: _prompt(row, source, where),
        source,
        unique=unique,
        repeated=repeated if source.deduplicate else None,
    )
    if repeated:
        logging.getLogger(__name__).warning(
            "%s: %d rows repeat the prompt of an earlier one and are left out, first %s",
            source.title,
            len(repeated),
            repeated[0],
        )
    if not prompts:
        raise ConfigError(
            f"{source.title}: no prompts are left after skip = {source.skip}"
            if source.skip
            else f"{source.title}: is empty: it holds no prompt",
            hint="add rows, or lower skip" if source.skip else "give a file with a prompt per row",
        )
    return prompts


def take(
    rows: Iterable[tuple[str, Row]],
    read: Callable[[Row, str], P],
    source: Window,
    *,
    unique: bool = True,
    repeated: list[str] | None = None,
) -> list[P]:
    """Apply ``read`` to each (where, row) that skip and limit leave. Ids must all differ.

    With ``repeated``, rows with the text of an earlier one are left out, and their places added.
    """
    seen: dict[str, tuple[str, P]] = {}
    texts: set[str] = set()
    prompts: list[P] = []
    for where, row in islice(rows, source.skip, None):
        if len(prompts) == source.limit:
            break
        prompt = read(row, where)
        if repeated is not None and prompt.text in texts:
            repeated.append(where)
            continue
        texts.add(prompt.text)
        if unique and prompt.id in seen:
            place, first = seen[prompt.id]
            file, _, line = place.rpartition(":")
            other = "" if where.startswith(f"{file}:") else f" of {file}"
            what = "the same prompt" if prompt.text == first.text else "another prompt"
            raise ConfigError(
                f"{where}: prompt id {prompt.id!r} was used in line {line}{other} for {what}",
                hint="set deduplicate = true to keep the first of equal prompts, or an id_field "
                "that tells them apart; without it the id is a hash of the text",
            )
        seen[prompt.id] = (where, prompt)
        prompts.append(prompt)
    return prompts


def text_id(text: str) -> str:
    """The id of a prompt whose file gives none: a hash of its text."""
    return fingerprint(text)[:16]


def _prompt(row: dict[str, Any], source: PromptFile, where: str) -> Prompt:
    text, messages = read_prompt(row, source.prompt_field, where)
    answer = scalar(row, source.answer_field, where) if source.answer_field else None
    name = text_id(text)
    if source.id_field:
        if find_field(row, source.id_field) is None:
            raise ConfigError(
                f"{where}: has no field {source.id_field!r}; it has "
                f"{', '.join(map(repr, sorted(row)))}",
                hint="leave id_field out, or name the right field; without it a hash is the id",
            )
        name = scalar(row, source.id_field, where)
    return Prompt(name, text, answer, _small(row), messages)


def _small(row: Row) -> Row:
    """Without long values: a data set may hold whole solutions beside its prompts, which nothing
    reads."""
    return {k: v for k, v in row.items() if len(str(v)) <= MOST_KEPT}


def read_prompt(row: Row, name: str, where: str) -> tuple[str, tuple[Message, ...] | None]:
    """The prompt in the field ``name``: its text, and its messages where it is more than one
    message of a user."""
    value = field_of(row, name, where)
    if isinstance(value, list):
        messages = as_messages(value, f"{where}: {name}")
        if len(messages) > 1 or messages[0].role != "user":
            return _checked(as_text(messages), name, where), messages
        value = messages[0].content
    text = _checked(value, name, where)
    if name == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
        text = f"{text}\n\n{row['input']}"  # the layout of Alpaca
    return text, None


def written(row: Row, name: str, where: str) -> str:
    """Read a question: text that is not empty, perhaps as the only message of a user."""
    text, messages = read_prompt(row, name, where)
    if messages is not None:
        raise ConfigError(
            f"{where}: {name} has {len(messages)} messages, and a problem is one question",
            hint="give the question as text",
        )
    return text


def _checked(text: Any, name: str, where: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"{where}: {name} is {_shown(text)}, expected text or a list of messages",
            hint="correct that line",
        )
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{where}: {name} has {len(text):,} characters, over {MOST_CHARACTERS:,}",
            hint="shorten or remove it; no model reads a prompt of that length",
        )
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def scalar(row: dict[str, Any], name: str, where: str) -> str:
    """Read an id or an answer: text or a number."""
    value = field_of(row, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(
            f"{where}: {name} is {_shown(value)}, expected text or a number",
            hint="correct that line, or name a field inside with a dot, as in "
            "reward_model.ground_truth",
        )
    return str(value)


def field_of(row: dict[str, Any], name: str, where: str) -> Any:
    """The value of a field; a dot leads into an object. Raises ConfigError with the fields there
    are and the lines of a recipe that would read them."""
    value = find_field(row, name)
    if value is not None or name in row:
        return value
    raise ConfigError(
        f"{where}: has no field {name!r}; it has {', '.join(map(repr, sorted(row)))}",
        hint=_lines_that_read(row),
    )


def find_field(row: dict[str, Any], name: str) -> Any:
    """The value of a field, perhaps inside of another; None where there is none."""
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    inside = row.get(first)
    return find_field(inside, rest) if dot and isinstance(inside, dict) else None


def _lines_that_read(row: Row) -> str:
    prompts = [name for name in PROMPT_NAMES if find_field(row, name) is not None]
    answers = [name for name in ANSWER_NAMES if find_field(row, name) is not None]
    lines = [f'prompt_field = "{name}"' for name in prompts[:1]]
    lines += [f'answer_field = "{name}"' for name in answers[:1]]
    if not prompts:
        return "name the right field in the recipe (prompt_field, answer_field, id_field)"
    return f"these lines of the recipe would read it: {' and '.join(lines)}"
