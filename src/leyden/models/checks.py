"""Find out what a loaded model does, on a few tokens, before anything is computed with it.

An architecture may change its logits after the head, let a token see later ones, or carry state
from one sequence of a packed row into the next, and nothing in its configuration says so. Each
check compares two ways to the same log-probs. Where they differ by more than rounding, the model
is refused by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.data.batches import collate
from leyden.data.sequences import TokenSequence
from leyden.errors import EngineError, first_line
from leyden.logprobs import Head, head_logits
from leyden.models.parts import backbone, head_of, run_backbone

# Nats by which rounding moves log-probs, as ``compare`` measures it: at logits that spread by
# SPREAD, whatever the scale of the weights. A leak from another sequence moves them by more.
SPREAD = 4.0  # standard deviation over the vocabulary, as of language models at work
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1}
HEAD_ROUNDING = 1e-2  # nats, at logits of up to a hundred, in float32 whatever the model's dtype
HEAD_ROWS = 2**24  # numbers of the head's weight that are compared: 64 MiB in float32
NUM_STATES = 8
LENGTHS = (7, 11, 5)  # tokens; short, so that the checks cost what one short prompt costs

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)

_passed: WeakKeyDictionary[PreTrainedModel, set[str]] = WeakKeyDictionary()


def require(model: PreTrainedModel, name: str, check: Callable[[PreTrainedModel], None]) -> None:
    """Run ``check`` unless this model has passed it."""
    passed = _passed.setdefault(model, set())
    if name not in passed:
        with _trying(model, name):
            check(model)
        passed.add(name)


@contextmanager
def _trying(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Without gradients; errors of the architecture's own code become sentences."""
    try:
        with torch.no_grad():  # not inference_mode: what a model keeps is used in training
            yield
    except EngineError:
        raise
    except OUT_OF_MEMORY as error:  # which says nothing about the model
        raise EngineError(
            f"{named(model)}: there is not enough memory to run it",
            hint="free some, use another execution.device, or a smaller model",
        ) from error
    except Exception as error:  # each architecture has errors of its own
        raise EngineError(
            f"{named(model)} cannot be used for {name}: {first_line(error)}",
            hint="use a model of another architecture",
        ) from error


def check_model(model: PreTrainedModel) -> None:
    """Refuse a model whose log-probs are not those of a causal model with a plain head."""
    if model.get_output_embeddings() is None:
        raise EngineError(f"{named(model)}: has no language-model head", hint="give a causal model")
    require(model, "causal language modelling", _check_causal)
    require(model, "log-probs", check_head)
    require(model, "padded batches", partial(_check_layout, layout="padded"))


def check_packing(model: PreTrainedModel) -> None:
    """Refuse a model in which a sequence of a packed row changes the next."""
    require(model, "packed batches", partial(_check_layout, layout="packed"))


def compare(model: PreTrainedModel, states_TD: Tensor, expected_TD: Tensor) -> float:
    """The difference of two [T, V] tables of log-probs, in nats, given by hidden states.

    Both are scaled alike, so that the second has logits that spread by SPREAD: an untrained model
    has tiny ones, in which no leak would show. The difference is the mean over the vocabulary, at
    the worst token; over all tokens where rounding is coarse, and one expert more or less may move
    one of them.
    """
    head = Head(head_of(model).weight_VD)
    first, second = (head_logits(states, head) for states in (states_TD, expected_TD))
    scale = SPREAD / second.std(-1).mean().clamp_min(torch.finfo(second.dtype).tiny)
    first, second = ((scale * logits).log_softmax(-1) for logits in (first, second))
    gap_T = (first - second).abs().mean(-1)
    return (gap_T.mean() if model.dtype == torch.bfloat16 else gap_T.max()).item()


def agrees(model: PreTrainedModel, gap: float) -> bool:
    """Whether ``gap`` nats are rounding. They are not where the gap is NaN."""
    return gap <= ROUNDING[model.dtype]


def sample_ids(model: PreTrainedModel) -> list[Tensor]:
    """A few short sequences of token ids, the same every time."""
    size, generator = model.config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    # The lowest ids are often special, and some models mask or count them.
    draw = partial(torch.randint, min(16, size // 2), size, generator=generator)
    return [draw((length,)).to(model.device) for length in LENGTHS]


def states_alone(model: PreTrainedModel, ids_T: Tensor) -> Tensor:
    """The hidden states of one sequence by itself, [T, D]."""
    return backbone(model)(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]


def fused_attention_is_right(model: PreTrainedModel) -> bool:
    """Whether a model that uses fused attention computes what it would with the eager one.

    The fused one leaves out what it does not know, such as a cap on attention logits.
    """
    with _trying(model, "a forward pass"):
        ids_T = sample_ids(model)[1]
        fused_TD = states_alone(model, ids_T)
        model.set_attn_implementation("eager")
        eager_TD = states_alone(model, ids_T)
        model.set_attn_implementation("sdpa")
        # Bits that are all equal are of an architecture that chose its attention when it was made.
        compared = not torch.equal(fused_TD, eager_TD)
        return compared and agrees(model, compare(model, fused_TD, eager_TD))


def _check_causal(model: PreTrainedModel) -> None:
    ids_T = sample_ids(model)[0]
    whole_TD, part_TD = states_alone(model, ids_T), states_alone(model, ids_T[:4])
    if not torch.isfinite(whole_TD).all():
        raise EngineError(
            f"{named(model)}: its log-probs are not finite",
            hint="the weights hold NaN or infinity; save the model again from a sound copy",
        )
    gap = compare(model, whole_TD[:4], part_TD)
    if not agrees(model, gap):
        raise EngineError(
            f"{named(model)}: lets a token see later ones, which moves log-probs by {gap:.2g} nats",
            hint="give a causal (decoder) model",
        )


def _check_layout(model: PreTrainedModel, layout: str) -> None:
    """Sequences in one batch must score as they do alone."""
    ids = sample_ids(model)
    sequences = [
        TokenSequence(s[:1].astype(np.int32), s[1:].astype(np.int32))
        for s in (sequence.cpu().numpy() for sequence in ids)
    ]
    batch = collate(sequences, layout=layout).to(model.device)
    alone_ND = torch.cat([states_alone(model, sequence)[:-1] for sequence in ids])
    gap = compare(model, run_backbone(model, batch), alone_ND)
    if not agrees(model, gap):
        what = "packed into one row" if layout == "packed" else "padded to one length"
        raise EngineError(
            f"{named(model)}: sequences {what} change each other, by {gap:.2g} nats",
            hint='set execution.layout = "padded"'
            if layout == "packed"
            else "use a model of another architecture",
        )


def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not those of its ``Head``.

    The head must read the states that the backbone gives. Then the model's own forward is run with
    states of ours before the head, which make logits from 1 to 100, and with the head in float32.
    Whole rows of log-probs are compared.
    """
    head = head_of(model)
    rows = max(2, HEAD_ROWS // head.weight_VD.shape[1])
    part = Head(head.weight_VD[:rows].float(), None, head.scale, head.cap)
    if head.bias_V is not None:
        part = replace(part, bias_V=head.bias_V[:rows].float())
    ids_T = sample_ids(model)[1][:NUM_STATES]
    states_TD = _states(part.weight_VD)
    read_TD, logits_TV = _with_states(model, ids_T, states_TD, part)
    if not agrees(model, compare(model, read_TD, states_alone(model, ids_T))):
        raise _unknown_head(model, "its head reads other states than its backbone gives")
    ours_TV = head_logits(states_TD, part).log_softmax(-1)
    same_shape = ours_TV.shape == logits_TV.shape
    gap = (ours_TV - logits_TV.log_softmax(-1)).abs().max().item() if same_shape else float("nan")
    if not gap <= HEAD_ROUNDING:
        raise _unknown_head(model, f"its log-probs are not those of its head, by {gap:.3g} nats")


def _unknown_head(model: PreTrainedModel, what: str) -> EngineError:
    hint = "the model changes its logits in a way that leyden does not know; use another"
    return EngineError(f"{named(model)}: {what}", hint=hint)


def _states(weight_VD: Tensor) -> Tensor:
    """[T, D] states whose logits spread over 1 to 100, exact in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    draw_TD = torch.randn(NUM_STATES, weight_VD.shape[1], generator=generator).to(weight_VD.device)
    spread_T = (draw_TD @ weight_VD.T).abs().amax(-1).clamp_min(1e-30)
    wanted_T = torch.logspace(0, 2, NUM_STATES, device=weight_VD.device)
    return (draw_TD * (wanted_T / spread_T)[:, None]).bfloat16().float()


def _with_states(
    model: PreTrainedModel, ids_T: Tensor, states_TD: Tensor, head: Head
) -> tuple[Tensor, Tensor]:
    """(the states that the model's head read, [T, D]; the logits that the model's forward made of
    ``states_TD`` in their place, [T, V])."""
    read: list[Tensor] = []

    def give_states(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        read.append(arguments[0])
        return nn.functional.linear(states_TD[None], head.weight_VD, head.bias_V)

    linear = model.get_output_embeddings()
    assert linear is not None, "check_model refused this model"
    hook = linear.register_forward_hook(give_states)
    try:
        logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0].float()
    finally:
        hook.remove()
    return read[0][0], logits_TV


def named(model: PreTrainedModel) -> str:
    return f"{model.name_or_path} ({type(model).__name__})"
