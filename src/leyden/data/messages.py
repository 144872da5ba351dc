"""Messages of a conversation, as data sets write them, up to the turn that a model answers."""

from typing import Any, NamedTuple

from leyden.errors import ConfigError

ROLES = {  # of the layouts of OpenAI, ShareGPT and others -> of chat templates
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bot": "assistant",
}  # fmt: skip


class Message(NamedTuple):
    """A turn. ``role`` is system, user or assistant."""

    role: str
    content: str


def as_messages(value: list[Any], where: str) -> tuple[Message, ...]:
    """The messages in a field, without answers at the end: the last is the user's.

    Raises ConfigError with ``where`` for anything else than messages of text.
    """
    messages = [_message(one, where) for one in value]
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role != "user":
        raise ConfigError(
            f"{where}: its messages end without a message of the user",
            hint="a prompt is a text, or a list of messages with role and content, the last of "
            "them the user's",
        )
    return tuple(messages)


def as_text(messages: tuple[Message, ...]) -> str:
    """All messages as one text, for people, hashes and comparisons."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _message(value: Any, where: str) -> Message:
    if isinstance(value, dict):
        role = ROLES.get(str(value.get("role", value.get("from", ""))).lower())
        content = _content(value.get("content", value.get("value")))
        if role and content is not None:
            return Message(role, content)
    raise ConfigError(
        f"{where}: {repr(value)[:120]} is no message",
        hint="a message has role (system, user or assistant) and content (text); ShareGPT's from "
        "and value are read as well",
    )


def _content(value: Any) -> str | None:
    """Text, or blocks of text."""
    if isinstance(value, str):
        return value
    blocks = value if isinstance(value, list) else []
    texts = [block["text"] for block in blocks if isinstance(block, dict) and "text" in block]
    whole = blocks and len(texts) == len(blocks) and all(isinstance(text, str) for text in texts)
    return "".join(texts) if whole else None
