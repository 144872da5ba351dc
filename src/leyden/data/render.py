"""Render prompts to token ids, once per run, with the teacher's tokenizer.

Text that looks like a special token inside a prompt stays text: the template around it is tokenised
with special tokens, the prompt itself without.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden.data.messages import Message
from leyden.data.prompt_set import RenderedPrompt
from leyden.data.sources import Prompt
from leyden.data.templates import SENTINEL, chat_text, plain_text, wants_blocks
from leyden.errors import ConfigError
from leyden.files import read_object
from leyden.recipe.schema import Template
from leyden.telemetry.progress import Progress

SYSTEM_MARK = "\x02leyden-system\x03"


class Renderer:
    """Turns prompt text into ids. ``stop_ids`` end a completion."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, folder: Path
    ) -> None:
        self.tokenizer, self._template, self._folder = tokenizer, template, folder
        self._blocks = wants_blocks(tokenizer, template, folder)
        text = self._fill(SENTINEL)
        before, _, after = text.partition(SENTINEL)
        if text.count(SENTINEL) != 1:
            raise ConfigError(
                f"{folder}: the chat template drops, changes or repeats the user's message",
                hint="set template.kind = 'plain' and template.plain",
            )
        self.before, self.after = before, after
        if template.system == "" and self._keeps_a_default():
            raise ConfigError(
                f"{folder}: template.system = '' does not keep out the system prompt that its chat "
                "template adds by itself",
                hint="give the system prompt that you want, or set template.kind = 'plain'",
            )
        self.stop_ids = _stop_ids(tokenizer, template, folder)
        self._specials = _control_tokens(tokenizer)
        # A chat template writes the first token itself; a plain one leaves it to the tokenizer.
        self._first = _first_ids(tokenizer) if template.kind == "plain" else []

    @property
    def default_system(self) -> str:
        """The system prompt that the chat template adds by itself; empty where it adds none."""
        if self._template.kind == "plain" or self._template.system is not None:
            return ""
        none, given = self._with_system(None), self._with_system(SYSTEM_MARK)
        before, found, after = given.partition(SYSTEM_MARK)
        added = len(none) - len(before) - len(after)
        fits = found and added > 0 and none.startswith(before) and none.endswith(after)
        return none[len(before) : len(before) + added].strip() if fits else ""

    def _keeps_a_default(self) -> bool:
        """Whether an empty system prompt is taken for none, and the template then has its own."""
        empty, none, given = map(self._with_system, ("", None, SYSTEM_MARK))
        # Without a default, a prompt is shorter without a system message than with an empty one.
        return empty == none and len(none) > len(given) - len(SYSTEM_MARK)

    def _with_system(self, system: str | None) -> str:
        template = self._template.model_copy(update={"system": system})
        asked = [Message("user", SENTINEL)]
        try:
            return chat_text(self.tokenizer, template, self._folder, asked, self._blocks)
        except ConfigError:  # a template that takes no system message adds none
            return ""

    def render(self, text: str) -> list[int]:
        """Ids of the whole prompt, ready for the model to continue."""
        whole = self._fill(text)
        # The whole text is tokenised at once if it can be, since tokens may cross the seams.
        if not any(special in text for special in self._specials):
            return self._begun(self._encode(whole))
        inside = whole.removeprefix(self.before).removesuffix(self.after)
        if self.before + inside + self.after != whole:
            raise self._changes(text)
        return self._begun(
            [
                *self._encode(self.before),
                *self._encode_as_text(inside),
                *self._encode(self.after),
            ]
        )

    def render_messages(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to the turn that the model answers."""
        whole, contents = self._chat(messages), [message.content for message in messages]
        if not any(special in content for special in self._specials for content in contents):
            return self._encode(whole)
        marks = [f"{SENTINEL}{number}\x03" for number in range(len(messages))]
        turns = zip(messages, marks, strict=True)
        marked = self._chat([Message(message.role, mark) for message, mark in turns])
        parts = re.split("|".join(map(re.escape, marks)), marked)
        for written in (contents, [content.strip() for content in contents]):  # templates may trim
            pieces = list(zip(parts, [*written, ""], strict=False))
            if len(parts) == len(marks) + 1 and whole == "".join(map("".join, pieces)):
                return [i for part, text in pieces for i in self._both(part, text)]
        raise self._changes(contents[-1])

    def _both(self, part: str, text: str) -> list[int]:
        return [*self._encode(part), *(self._encode_as_text(text) if text else [])]

    def _chat(self, messages: Sequence[Message]) -> str:
        return chat_text(self.tokenizer, self._template, self._folder, messages, self._blocks)

    def _changes(self, text: str) -> ConfigError:
        return ConfigError(
            f"prompt text {text[:60]!r} holds special tokens, and the chat template of "
            f"{self._folder} writes something else around it than around other text",
            hint="remove them from the prompt, or set template.kind = 'plain'",
        )

    def _begun(self, ids: list[int]) -> list[int]:
        """With the tokens that the tokenizer puts first, unless the template wrote them."""
        written = ids[: len(self._first)] == self._first
        return ids if written else [*self._first, *ids]

    def _fill(self, text: str) -> str:
        """The template around ``text`` as the user's message, which the template may trim or
        change."""
        if self._template.kind == "plain":
            return plain_text(self._template, text)
        return self._chat([Message("user", text)])

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _encode_as_text(self, text: str) -> list[int]:
        """Encode with special tokens off; where one is still found, cut its string in two."""
        # Text outside the vocabulary becomes the unknown token, which steers nothing.
        forbidden = set(self._specials.values()) - {self.tokenizer.unk_token_id}
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        if not forbidden & set(encoded["input_ids"]):
            return encoded["input_ids"]
        pieces, start = [], 0
        for position in range(1, len(text)):
            if any(text.startswith(s, position - 1) and len(s) > 1 for s in self._specials):
                pieces.append(text[start:position])
                start = position
        pieces.append(text[start:])
        ids = [i for piece in pieces for i in self._encode(piece)]
        if remaining := forbidden & set(ids):
            names = self.tokenizer.convert_ids_to_tokens(sorted(remaining))
            raise ConfigError(
                f"prompt text {text[:60]!r} cannot be written without the special tokens {names}",
                hint="remove them from the prompt",
            )
        return ids


def render_all(
    renderer: Renderer, prompts: Sequence[Prompt], split: str, progress: Progress
) -> list[RenderedPrompt]:
    """Render ``prompts`` to token ids; their ids get the split in front."""
    rendered = []
    with progress(f"prompts, {split}", len(prompts), "rows") as advance:
        for p in prompts:
            turns = p.messages
            ids = renderer.render(p.text) if turns is None else renderer.render_messages(turns)
            name = f"{split}/{p.id}"
            rendered.append(RenderedPrompt(name, split, tuple(ids), p.text, p.answer, p.row))
            advance(1)
    return rendered


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Added tokens that steer a model: special ones, and those written like <think> or [INST].

    Other added tokens, such as runs of spaces, are ordinary text.
    """
    return {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or re.fullmatch(r"<.+>|\[.+\]", token.content)
    }


def _first_ids(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer itself puts before a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[: next(starts, 0)]


def _stop_ids(tokenizer: Any, template: Template, folder: Path) -> tuple[int, ...]:
    if template.stop_tokens:
        vocabulary = tokenizer.get_vocab()
        unknown = [t for t in template.stop_tokens if t not in vocabulary]
        if unknown:
            raise ConfigError(
                f"template.stop_tokens: {unknown[0]!r} is not in the vocabulary of {folder}",
                hint="name tokens as the tokenizer spells them, such as '<|im_end|>'",
            )
        return tuple(sorted(vocabulary[t] for t in template.stop_tokens))
    ids: set[int] = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    if (folder / "generation_config.json").is_file():
        listed = read_object(folder / "generation_config.json").get("eos_token_id")
        ids |= set(listed if isinstance(listed, list) else [listed]) - {None}
    if not all(isinstance(i, int) for i in ids):
        raise ConfigError(
            f"{folder}: its end-of-sequence ids are {sorted(map(str, ids))}, not numbers",
            hint="set template.stop_tokens",
        )
    if not ids:
        raise ConfigError(
            f"{folder}: neither tokenizer nor generation config names an end-of-sequence token",
            hint="set template.stop_tokens",
        )
    return tuple(sorted(ids))
