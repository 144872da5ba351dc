"""The text around a prompt: the tokenizer's chat template, or the recipe's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leyden.data.messages import Message
from leyden.errors import ConfigError, first_line
from leyden.recipe.schema import Template

SENTINEL = "\x02leyden-prompt\x03"  # control characters, which no prompt or template holds


def plain_text(template: Template, prompt: str) -> str:
    if template.plain.count("{prompt}") != 1:
        raise ConfigError(
            f"template.plain = {template.plain!r} must hold {{prompt}} exactly once",
            hint="write, for example, template.plain = 'Question: {prompt}\\nAnswer:'",
        )
    return template.plain.replace("{prompt}", prompt)


def wants_blocks(tokenizer: Any, template: Template, folder: Path) -> bool:
    """Whether the chat template takes the content of a message as blocks, and not as text."""
    if template.kind == "plain" or not tokenizer.chat_template:
        return False
    asked = [Message("user", SENTINEL)]
    try:
        return SENTINEL not in chat_text(tokenizer, template, folder, asked, False)
    except ConfigError:
        return _takes_blocks(tokenizer, template, folder, asked)


def _takes_blocks(
    tokenizer: Any, template: Template, folder: Path, asked: Sequence[Message]
) -> bool:
    try:
        return SENTINEL in chat_text(tokenizer, template, folder, asked, True)
    except ConfigError:
        return False


def chat_text(
    tokenizer: Any, template: Template, folder: Path, messages: Sequence[Message], blocks: bool
) -> str:
    """The rendered chat template, with the recipe's system prompt unless the messages bring one."""
    if template.kind == "plain":
        raise ConfigError(
            "a prompt has several messages, and template.kind = 'plain' has no turns",
            hint="use the model's chat template, or give prompts of one message",
        )
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{folder}: the tokenizer has no chat template",
            hint="set template.kind = 'plain' and template.plain",
        )
    whole = list(messages)
    if template.system is not None and messages[0].role != "system":
        whole.insert(0, Message("system", template.system))  # "" keeps the template's own away
    asked = {**template.arguments, "tokenize": False, "add_generation_prompt": True}
    try:
        return tokenizer.apply_chat_template([_turn(m, blocks) for m in whole], **asked)
    except Exception as error:  # a template is a program: it raises what it likes
        raise ConfigError(
            f"{folder}: the chat template failed: {first_line(error)}",
            hint="check template.system and template.arguments, or set template.kind = 'plain'",
        ) from error


def _turn(message: Message, blocks: bool) -> dict[str, Any]:
    content = [{"type": "text", "text": message.content}] if blocks else message.content
    return {"role": message.role, "content": content}
