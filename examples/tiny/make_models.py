"""Make the demo's tokenizer, its two teachers and its base student; 25 minutes on two cores.

    python examples/tiny/make_models.py OUT [--steps-scale 1.0]

Writes OUT/{teacher,other_teacher,base} in the Hugging Face format. ``teacher`` prefers large terms.
Its contexts hold slips whose own loss is masked, so that it goes on sensibly from a student's wrong
prefixes. ``other_teacher`` is the same model tuned to the other style. ``base`` has learned from
completions full of slips and is often wrong.

Each process uses one thread, so the same machine gives the same bits. Another kind of processor
rounds differently and gives other weights of the same quality. models.json has the hashes of the
shipped models, which were made on an AMD EPYC with AVX2 and torch 2.13.0.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from task import MAX_TERMS, make_prompt, make_steps, make_terms
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
CHARACTERS = "0123456789+=>, abcdefghijklmnopqrstuvwxyz.\n-"
VOCAB = len(SPECIAL) + len(CHARACTERS)
IGNORED = -100
Batch = tuple[torch.Tensor, torch.Tensor]
"""ids_BT and labels_BT."""
TEACHER_MAX_TERMS = 10  # longer problems than any student gets


def make_tokenizer(characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token per character, after four special ones; 48 symbols."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        model_max_length=256,
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return fast


def make_model(
    *, width: int, inner: int, num_layers: int, seed: int, vocab_size: int = VOCAB
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return LlamaForCausalLM(config)


def make_batch(
    rng, encode, *, style: str, slip: float, learn_slips: bool, longest: int, size: int = 64
) -> Batch:
    """Make ``size`` new problems with completions; slips carry loss only with ``learn_slips``."""
    rows = []
    for _ in range(size):
        terms = make_terms(rng, longest=longest)
        ids = encode(make_prompt(terms))
        labels = [IGNORED] * len(ids)
        for i, (term, total, *slips) in enumerate(make_steps(rng, terms, style, slip=slip)):
            step = encode(("," if i else "") + f"{term}>{total}")
            keep = [True] * (len(step) - 3) + [not slips[0], True, not slips[1]]
            labels += [t if k or learn_slips else IGNORED for t, k in zip(step, keep, strict=True)]
            ids += step
        rows.append(([*ids, 1], [*labels, 1]))
    return pad(rows)


def pad(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor([lab + [IGNORED] * (length - len(lab)) for _, lab in rows])
    return ids_BT, labels_BT


def train(
    model,
    make_batch: Callable[[np.random.Generator], Batch],
    *,
    steps: float,
    learning_rate: float,
    seed: int,
) -> None:
    """Train in place: AdamW, warmup over a twentieth, then a cosine to a fiftieth of the rate."""
    steps = max(1, round(steps))
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / warmup, 0.02 + 0.49 * (1 + np.cos(np.pi * min(1.0, i / steps)))),
    )
    for step in range(steps):
        ids_BT, labels_BT = make_batch(rng)
        loss = model(ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step:5d}  loss {loss.item():.4f}", flush=True)


def save(model, tokenizer, folder: Path) -> None:
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"wrote {folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


def make_base(out: Path, scale: float) -> None:
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    base = make_model(width=64, inner=170, num_layers=2, seed=1)
    clean = problems(tokenizer, slip=0.03, learn_slips=False, style="even", longest=MAX_TERMS)
    train(base, clean, steps=4000 * scale, learning_rate=3e-3, seed=10)
    noisy = problems(tokenizer, slip=0.15, learn_slips=True, style="even", longest=MAX_TERMS)
    train(base, noisy, steps=200 * scale, learning_rate=1e-3, seed=11)
    save(base, tokenizer, out / "base")


def make_teachers(out: Path, scale: float) -> None:
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    teacher = make_model(width=96, inner=256, num_layers=3, seed=2)
    careful = {"slip": 0.06, "learn_slips": False, "longest": TEACHER_MAX_TERMS}
    large, small = (problems(tokenizer, style=s, **careful) for s in ("large", "small"))
    train(teacher, large, steps=3000 * scale, learning_rate=3e-3, seed=12)
    save(teacher, tokenizer, out / "teacher")

    train(teacher, small, steps=500 * scale, learning_rate=1e-3, seed=13)
    save(teacher, tokenizer, out / "other_teacher")


def problems(tokenizer, **settings) -> Callable[[np.random.Generator], Batch]:
    """``make_batch`` with all arguments except its random generator."""
    encode = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    return partial(make_batch, encode=encode, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    args = parser.parse_args()
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(make, args.out, args.steps_scale) for make in (make_teachers, make_base)
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
