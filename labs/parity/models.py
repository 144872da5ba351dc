"""The models of one seed: two teachers and a base student, all of them new.

The teacher is trained on contexts with slips whose own loss is masked. It therefore goes on
sensibly from a student's wrong prefixes. The other teacher is the same model tuned to the other
style. The base learns from completions full of slips. Layers and loop are those of
examples/tiny/make_models.py.
"""

from functools import partial
from pathlib import Path

import torch

from answers import make_batch
from demo import models as demo
from tasks import CHARACTERS, TASKS

VOCAB = len(demo.SPECIAL) + len(CHARACTERS)


def make_models(name: str, seed: int, out: Path) -> None:
    """Write OUT/{teacher,other_teacher,base} unless they are there."""
    task, done = TASKS[name], out / "done"
    if done.exists():
        return
    torch.set_num_threads(1)
    tokenizer = demo.make_tokenizer(CHARACTERS)
    steps, first, fill = task.training, 10 * seed, partial(batches, task, tokenizer)
    careful = {"slip": 0.06, "learn_slips": False, "size": task.batches[0]}
    teacher = demo.make_model(**size(task.teacher), seed=1000 + seed)
    large, small = (fill(style=style, **careful) for style in ("large", "small"))
    demo.train(teacher, large, steps=steps[0], learning_rate=3e-3, seed=first)
    demo.save(teacher, tokenizer, out / "teacher")
    demo.train(teacher, small, steps=steps[1], learning_rate=1e-3, seed=first + 1)
    demo.save(teacher, tokenizer, out / "other_teacher")
    base = demo.make_model(**size(task.student), seed=2000 + seed)
    noisy = fill(style="even", slip=task.slip, learn_slips=True, size=task.batches[1])
    demo.train(base, noisy, steps=steps[2], learning_rate=task.base_rate, seed=first + 2)
    demo.save(base, tokenizer, out / "base")
    done.touch()


def size(of: tuple[int, int, int]) -> dict[str, int]:
    width, inner, layers = of
    return {"width": width, "inner": inner, "num_layers": layers, "vocab_size": VOCAB}


def batches(task, tokenizer, **settings):
    """``make_batch`` with all arguments except its random generator."""
    ids_of = tokenizer.get_vocab()
    encode = lambda text: [ids_of[c] for c in text]  # noqa: E731
    return partial(make_batch, task=task, encode=encode, **settings)
