"""Lightning OPD on one page: plain torch and transformers, nothing of leyden.

    python examples/minimal_loop.py examples/tiny/models/teacher examples/tiny/models/base

A teacher writes completions and the student learns them (SFT). The student then writes completions
of its own, the same teacher scores every token of them once, and the student trains on these scores
alone. The teacher could be deleted before the last loop begins. A real run needs more (a store,
identity, resuming, padding, chunked logits): see the package. A test holds this page's losses
against the package's.

Shapes: T tokens of one sequence, C of them its completion, V vocabulary, K stored ids. One sequence
at a time, so nothing is padded.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

TAU = 10.0  # advantage clip, nats: arXiv 2604.13010


@dataclass
class Rollout:
    """Token ids, and how many of them are the prompt."""

    ids_T: Tensor
    num_prompt: int


@dataclass
class Scored(Rollout):
    """A rollout with everything that the student will ever learn from the teacher about it."""

    teacher_logp_C: Tensor
    topk_ids_CK: Tensor
    topk_logp_CK: Tensor
    tail_logp_C: Tensor


TokenLoss = Callable[..., Tensor]


def completion_logp(model, rollout: Rollout) -> Tensor:
    """[C, V] log-probs at every completion token; the state before a token predicts it."""
    logits_TV = model(rollout.ids_T[None]).logits[0].float()
    return logits_TV[rollout.num_prompt - 1 : -1].log_softmax(-1)


def chosen(logp_CV: Tensor, rollout: Rollout) -> Tensor:
    """[C] log-probs of the completion's own tokens, the stop token among them."""
    return logp_CV.gather(-1, rollout.ids_T[rollout.num_prompt :, None])[:, 0]


@torch.no_grad()
def sample(model, prompt_ids: Sequence[int], stop_id: int, max_new_tokens: int) -> Rollout:
    """Sample at temperature 1 and keep the ids: they are never made again from text."""
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        probs_V = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        ids.append(int(torch.multinomial(probs_V, 1)))
        if ids[-1] == stop_id:
            break
    return Rollout(torch.tensor(ids), len(prompt_ids))


@torch.no_grad()
def score(teacher, rollout: Rollout, top_k: int) -> Scored:
    """Score every completion token by one forward of the teacher."""
    logp_CV = completion_logp(teacher, rollout)
    topk = logp_CV.topk(top_k)
    rest_CV = logp_CV.scatter(-1, topk.indices, -torch.inf)  # the other tokens, in one bucket
    return Scored(
        rollout.ids_T,
        rollout.num_prompt,
        teacher_logp_C=chosen(logp_CV, rollout),
        topk_ids_CK=topk.indices,
        topk_logp_CK=topk.values,
        tail_logp_C=rest_CV.logsumexp(-1),
    )


def sft_loss(model, rollout: Rollout) -> Tensor:
    """[C] negative log-likelihood."""
    return -chosen(completion_logp(model, rollout), rollout)


def sampled_loss(model, rollout: Scored) -> Tensor:
    """[C] Huber function of the live advantage. Its gradient, -clip(A, -tau, tau) grad log pi, is
    the paper's update."""
    advantage_C = rollout.teacher_logp_C - chosen(completion_logp(model, rollout), rollout)
    size_C = advantage_C.abs()
    return torch.where(size_C <= TAU, size_C**2 / 2, TAU * (size_C - TAU / 2))


def topk_tail_loss(model, rollout: Scored) -> Tensor:
    """[C] reverse KL over the teacher's k likeliest tokens and one bucket for all others."""
    logp_CK = completion_logp(model, rollout).gather(-1, rollout.topk_ids_CK)
    tail_C = (1 - logp_CK.exp().sum(-1)).clamp_min(torch.finfo(logp_CK.dtype).eps).log()
    inside_C = (logp_CK.exp() * (logp_CK - rollout.topk_logp_CK)).sum(-1)
    return inside_C + tail_C.exp() * (tail_C - rollout.tail_logp_C)


def batch_loss(
    model, rollouts: Sequence[Rollout], token_loss: TokenLoss, *, per_sequence: bool
) -> Tensor:
    """Sums divided once, by counts of the whole batch: a mean over sequences, or over tokens."""
    losses = [token_loss(model, rollout) for rollout in rollouts]
    if per_sequence:
        return torch.stack([loss.mean() for loss in losses]).mean()
    return torch.cat(losses).mean()


def train(
    model, data: Sequence[Rollout], token_loss: TokenLoss, *, steps, batch_size, lr, per_sequence
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(steps):
        rows = torch.randperm(len(data))[:batch_size].tolist()
        loss = batch_loss(model, [data[i] for i in rows], token_loss, per_sequence=per_sequence)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"  {token_loss.__name__} step {step + 1:3d}  loss {loss.item():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("base")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.teacher)
    assert tokenizer is not None
    teacher = AutoModelForCausalLM.from_pretrained(args.teacher).eval()
    student = AutoModelForCausalLM.from_pretrained(args.base).eval()
    stop = tokenizer.eos_token_id
    digits = torch.randint(0, 10, (2 * args.prompts, 6)).tolist()
    prompts = [tokenizer("+".join(map(str, d)) + "=")["input_ids"] for d in digits]

    # 1, 2: the teacher writes, the student learns. A completion that was cut off would teach it to
    # stop anywhere, so only those with a stop token are kept.
    written = [sample(teacher, prompt, stop, 40) for prompt in prompts[: args.prompts]]
    whole = [rollout for rollout in written if rollout.ids_T[-1] == stop]
    common = {"steps": args.steps, "batch_size": 16}
    train(student, whole, sft_loss, lr=3e-4, per_sequence=False, **common)

    # 3, 4, 5: the student writes, the teacher scores, the student trains on the scores.
    rollouts = [sample(student, prompt, stop, 40) for prompt in prompts[args.prompts :]]
    scored = [score(teacher, rollout, top_k=8) for rollout in rollouts]
    del teacher  # from here on there is none
    train(student, scored, topk_tail_loss, lr=3e-4, per_sequence=True, **common)


if __name__ == "__main__":
    main()
