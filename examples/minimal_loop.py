"""Lightning OPD on one page: plain torch and transformers, nothing of leyden.

    python examples/minimal_loop.py examples/tiny/models/teacher examples/tiny/models/base

A teacher writes answers, the student learns them (SFT), the student writes its own, the same
teacher scores every token of them once, and the student trains on those scores alone. The teacher
could be deleted before the last loop begins. For what a real run needs besides (a store, identity,
resuming, padding, chunked logits), see the package; a test holds this page's losses against the
package's.

Shapes: T tokens of one sequence, V vocabulary. One sequence at a time, so that nothing is padded.
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

TAU = 10.0  # advantage clip, nats: arXiv 2604.13010


@dataclass
class Rollout:
    """Token ids, how many of them are prompt, and what the teacher stored about the others."""

    ids_T: Tensor
    num_prompt: int
    teacher_logp: Tensor | None = None
    topk_ids: Tensor | None = None
    topk_logp: Tensor | None = None
    tail_logp: Tensor | None = None


def completion_logp(model, rollout: Rollout) -> Tensor:
    """[C, V] log-probs at every completion token; the state before a token predicts it."""
    logits_TV = model(rollout.ids_T[None]).logits[0].float()
    return logits_TV[rollout.num_prompt - 1 : -1].log_softmax(-1)


def chosen(logp_CV: Tensor, rollout: Rollout) -> Tensor:
    """[C] log-probs of the completion's own tokens, the stop token among them."""
    return logp_CV.gather(-1, rollout.ids_T[rollout.num_prompt :, None])[:, 0]


@torch.no_grad()
def sample(model, prompt_ids: list[int], stop_id: int, max_new_tokens: int) -> Rollout:
    """Sample at temperature 1 and keep the ids: they are never made again from text."""
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        probs_V = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        ids.append(int(torch.multinomial(probs_V, 1)))
        if ids[-1] == stop_id:
            break
    return Rollout(torch.tensor(ids), len(prompt_ids))


@torch.no_grad()
def score(teacher, rollout: Rollout, top_k: int) -> Rollout:
    """Everything the student will ever learn from the teacher about this rollout."""
    logp_CV = completion_logp(teacher, rollout)
    topk = logp_CV.topk(top_k)
    rest_CV = logp_CV.scatter(-1, topk.indices, -torch.inf)
    return Rollout(
        rollout.ids_T,
        rollout.num_prompt,
        teacher_logp=chosen(logp_CV, rollout),
        topk_ids=topk.indices,
        topk_logp=topk.values,
        tail_logp=rest_CV.logsumexp(-1),
    )


def sft_loss(model, rollout: Rollout) -> Tensor:
    """[C] negative log-likelihood."""
    return -chosen(completion_logp(model, rollout), rollout)


def sampled_loss(model, rollout: Rollout) -> Tensor:
    """[C] Huber of the live advantage: gradient -clip(A, -tau, tau) grad log pi, the paper's."""
    advantage = rollout.teacher_logp - chosen(completion_logp(model, rollout), rollout)
    size = advantage.abs()
    return torch.where(size <= TAU, size**2 / 2, TAU * (size - TAU / 2))


def topk_tail_loss(model, rollout: Rollout) -> Tensor:
    """[C] reverse KL over the teacher's k likeliest tokens and one bucket for all others."""
    logp = completion_logp(model, rollout).gather(-1, rollout.topk_ids)
    tail = (1 - logp.exp().sum(-1)).clamp_min(torch.finfo(logp.dtype).eps).log()
    inside = (logp.exp() * (logp - rollout.topk_logp)).sum(-1)
    return inside + tail.exp() * (tail - rollout.tail_logp)


def batch_loss(model, rollouts: list[Rollout], token_loss, *, per_sequence: bool) -> Tensor:
    """Sums divided once, by counts of the whole batch: over sequences of means, or over tokens."""
    losses = [token_loss(model, rollout) for rollout in rollouts]
    if per_sequence:
        return sum(loss.sum() / (len(loss) * len(losses)) for loss in losses)
    return sum(loss.sum() for loss in losses) / sum(len(loss) for loss in losses)


def train(model, data: list[Rollout], token_loss, *, steps, batch_size, lr, per_sequence) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(steps):
        rows = torch.randperm(len(data))[:batch_size]
        loss = batch_loss(model, [data[i] for i in rows], token_loss, per_sequence=per_sequence)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"  {token_loss.__name__} step {step + 1:3d}  loss {loss.item():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("base")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(args.teacher).eval()
    student = AutoModelForCausalLM.from_pretrained(args.base).eval()
    stop = tokenizer.eos_token_id
    digits = torch.randint(0, 10, (2 * args.prompts, 6)).tolist()
    prompts = [tokenizer("+".join(map(str, d)) + "=")["input_ids"] for d in digits]

    answers = [sample(teacher, prompt, stop, 40) for prompt in prompts[: args.prompts]]
    kept = [
        a for a in answers if a.ids_T[-1] == stop
    ]  # a truncated answer teaches to stop anywhere
    common = {"steps": args.steps, "batch_size": 16}
    train(student, kept, sft_loss, lr=3e-4, per_sequence=False, **common)

    rollouts = [sample(student, prompt, stop, 40) for prompt in prompts[args.prompts :]]
    scored = [score(teacher, rollout, top_k=8) for rollout in rollouts]
    del teacher  # Lightning OPD: from here on there is none
    train(student, scored, topk_tail_loss, lr=3e-4, per_sequence=True, **common)


if __name__ == "__main__":
    main()
