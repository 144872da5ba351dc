"""The models of one seed: two teachers and a base student, all of them new.

The teacher is trained on contexts with slips whose own loss is masked, so that it stays sane on a
student's wrong prefixes; the other teacher is the same model tuned to the other style; the base
learns from answers full of slips.
"""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks import TASKS

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
CHARACTERS = "0123456789+=>,:."
IGNORED = -100


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; 20 symbols."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **names)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return fast


def make_model(size: tuple[int, int, int], seed: int) -> LlamaForCausalLM:
    width, inner, layers = size
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(CHARACTERS),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return LlamaForCausalLM(config)


def make_batch(task, rng, ids_of: dict[str, int], *, style, slip, learn_slips, size):
    """ids_BT and labels_BT of fresh problems; a slip carries loss only if ``learn_slips``."""
    rows = []
    for _ in range(size):
        prompt = task.make_prompt(rng)
        pieces = list(task.answer(rng, prompt, style, slip))
        ids = [ids_of[c] for c in prompt] + [ids_of[c] for c, _ in pieces] + [1]
        told = [i if learn_slips or not s else IGNORED for i, (_, s) in
                zip(ids[len(prompt):], pieces, strict=False)]  # fmt: skip
        rows.append((ids, [IGNORED] * len(prompt) + told + [1]))
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor([lab + [IGNORED] * (length - len(lab)) for _, lab in rows])
    return ids_BT, labels_BT


def train(task, model, *, steps: int, learning_rate: float, seed: int, **batch) -> float:
    """Train in place; the last loss."""
    ids_of = make_tokenizer().get_vocab()
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / warmup, 0.02 + 0.49 * (1 + np.cos(np.pi * min(1.0, i / steps)))),
    )
    loss = torch.zeros(())
    for _ in range(steps):
        ids_BT, labels_BT = make_batch(task, rng, ids_of, **batch)
        loss = model(ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return loss.item()


def make_models(name: str, seed: int, out: Path) -> None:
    """Write OUT/{teacher,other_teacher,base} unless they are there."""
    task, done = TASKS[name], out / "done"
    if done.exists():
        return
    torch.set_num_threads(1)
    steps = task.training
    careful = {"slip": 0.06, "learn_slips": False, "size": task.batches[0]}
    teacher = make_model(task.teacher, seed=1000 + seed)
    first = 10 * seed
    train(task, teacher, steps=steps[0], learning_rate=3e-3, seed=first, style="large", **careful)
    save(teacher, out / "teacher")
    train(
        task, teacher, steps=steps[1], learning_rate=1e-3, seed=first + 1, style="small", **careful
    )
    save(teacher, out / "other_teacher")
    base = make_model(task.student, seed=2000 + seed)
    noisy = {"slip": 0.05, "learn_slips": True, "style": "even", "size": task.batches[1]}
    train(task, base, steps=steps[2], learning_rate=3e-3, seed=first + 2, **noisy)
    save(base, out / "base")
    done.touch()


def save(model, folder: Path) -> None:
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
