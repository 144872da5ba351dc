"""Tokenizers and sizes of models. Token ids may cross between models that number them alike."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from leyden.errors import AlignmentError, EngineError, first_line
from leyden.models.context import position_limit
from leyden.provenance.identity import fingerprint


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Raises EngineError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers, json and transformers each have errors of their own
        raise EngineError(
            f"{folder}: its tokenizer cannot be loaded: {first_line(error)}",
            hint="the folder needs tokenizer.json and tokenizer_config.json",
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_sizes(folder: Path) -> tuple[int, int]:
    """(rows of the embedding, longest sequence that it scores by itself) of a model, from its
    config."""
    try:
        # Models with several parts, such as vision ones, keep the text model's sizes inside.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
        context = int(config.max_position_embeddings)
        return int(config.vocab_size), min(context, position_limit(config) or context)
    except Exception as error:  # transformers validates a config with errors of its own
        raise EngineError(
            f"{folder}: its config.json cannot be used: {first_line(error)}",
            hint="the folder must hold a causal language model that Transformers knows",
        ) from error


def continuation_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text that ``ids`` add to what stands before them.

    Some decoders drop a space at the very beginning of what they decode, as SentencePiece does, so
    the ids are decoded after a letter.
    """
    letter = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    before, whole = (
        str(tokenizer.decode(i, skip_special_tokens=False)) for i in (letter, [*letter, *ids])
    )
    alone = str(tokenizer.decode(list(ids), skip_special_tokens=False))
    added = whole.removeprefix(before)
    # Another change than a space, such as one that joins words, is of the letter and not of ids.
    return added if added.lstrip(" ") == alone.lstrip(" ") else alone


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of ids up to the last one that is a token. A model may have more, as padding."""
    return 1 + max(tokenizer.get_vocab().values())


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the map from tokens to ids: models may share ids only where it is equal."""
    return fingerprint(tokenizer.get_vocab())


def check_same_vocabulary(
    first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase, *, names: Sequence[str]
) -> None:
    """Raise AlignmentError with the first token that two tokenizers number differently."""
    ids, others = first.get_vocab(), second.get_vocab()
    differ = [t for t in ids.keys() | others.keys() if ids.get(t) != others.get(t)]
    if differ:
        token = min(differ, key=lambda t: ids.get(t, others.get(t, 0)))
        raise AlignmentError(
            f"{names[0]} and {names[1]} have different tokenizers: {len(differ)} tokens differ, "
            f"first {token!r}, which is {ids.get(token)} and {others.get(token)}",
            hint="teacher and student must share one vocabulary; choose models of one family",
        )
