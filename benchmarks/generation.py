"""Measure how fast completions are sampled, against `model.generate` of Transformers.

    python benchmarks/generation.py MODEL [--file PROMPTS] [--prompts 64] [--places 16]
                                    [--vllm PYTHON]

With a file of JSON lines, prompts are its field ``prompt`` in the model's chat template; else they
are random ids. Both sample the same prompts at temperature 1 until a natural stop or the cap, in
one process, in pairs. `model.generate` gets batches of as many prompts as the engine has places, in
the order of their lengths. Printed are the medians of tokens a second, and of the pairs' ratios.
With the interpreter of a vLLM, that engine takes part.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from leyden.engines.base import EngineSpec, GenerateRequest
from leyden.engines.transformers import TransformersEngine
from leyden.engines.vllm import VllmEngine
from leyden.models.load import load_model
from leyden.models.vocabulary import load_tokenizer
from leyden.recipe.engines import EngineChoice
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution


def ours(engine, prompts, cap: int, stop_ids: Sequence[int], seed: int) -> tuple[float, list[int]]:
    """(seconds, lengths) of the engine."""
    asked = [GenerateRequest(prompt, seed + i) for i, prompt in enumerate(prompts)]
    began = time.perf_counter()
    made = dict(engine.generate(asked, Sampling(max_new_tokens=cap), stop_ids))
    return time.perf_counter() - began, [len(c.ids) for c in made.values()]


@torch.inference_mode()
def theirs(model, prompts, cap: int, stop_ids, places: int, seed: int) -> tuple[float, list[int]]:
    """(seconds, lengths) of `model.generate`."""
    torch.manual_seed(seed)
    lengths: list[int] = []
    began = time.perf_counter()
    for start in range(0, len(prompts), places):
        batch = prompts[start : start + places]
        longest = max(map(len, batch))
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        made = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, max_new_tokens=cap, eos_token_id=list(stop_ids), pad_token_id=0,
        )[:, longest:]  # fmt: skip
        ends = torch.isin(made, torch.tensor(list(stop_ids))).int()
        first = torch.where(ends.any(1), ends.argmax(1) + 1, made.shape[1])
        lengths += first.tolist()
    return time.perf_counter() - began, lengths


def vllm_engine(model: Path, python: str, places: int) -> VllmEngine:
    """vLLM over the same model, with as many places."""
    choice = EngineChoice(kind="vllm", python=python, sequences=places)
    execution = Execution(device="cpu")
    return VllmEngine(EngineSpec("student", str(model.resolve()), execution, None, choice))


def prompts_of(file: Path | None, tokenizer, count: int) -> list[list[int]]:
    """Prompts by length, the shortest first."""
    rng = np.random.default_rng(0)
    if file is None:
        size = len(tokenizer)
        return sorted(
            (rng.integers(3, size, rng.integers(8, 48)).tolist() for _ in range(count)), key=len
        )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    chosen = [rows[i] for i in rng.permutation(len(rows))[:count]]
    messages = [[{"role": "user", "content": row["prompt"]}] for row in chosen]
    texts = [
        tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True)
        for m in messages
    ]
    return sorted((tokenizer(t, add_special_tokens=False).input_ids for t in texts), key=len)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cap", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--file", type=Path)
    parser.add_argument("--vllm", help="a Python interpreter that has vLLM")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = load_tokenizer(given.model)
    model = load_model(given.model, device="cpu", dtype="float32")
    stop_ids = [tokenizer.eos_token_id]
    prompts = prompts_of(given.file, tokenizer, given.prompts)
    engine = TransformersEngine.around(model, Execution(generate_batch_size=given.places))
    ours(engine, prompts[:4], 8, stop_ids, 0)
    theirs(model, prompts[:4], 8, stop_ids, 4, 0)
    fast = vllm_engine(given.model, given.vllm, given.places) if given.vllm else None
    if fast is not None:
        ours(fast, prompts[:4], 8, stop_ids, 0)
    rates, faster = [], []
    for repeat in range(given.repeats):
        a, lengths = ours(engine, prompts, given.cap, stop_ids, 1000 * repeat)
        b, others = theirs(model, prompts, given.cap, stop_ids, given.places, repeat)
        rates.append((sum(lengths) / a, sum(others) / b))
        if fast is not None:
            c, lengths = ours(fast, prompts, given.cap, stop_ids, 1000 * repeat)
            faster.append(sum(lengths) / c)
        print(
            f"pair {repeat}: {rates[-1][0]:.0f} and {rates[-1][1]:.0f} tokens/s, "
            f"mean lengths {np.mean(lengths):.0f} and {np.mean(others):.0f}",
            flush=True,
        )
    ratio = [a / b for a, b in rates]
    print(
        f"leyden {statistics.median(r[0] for r in rates):.0f} tokens/s, model.generate "
        f"{statistics.median(r[1] for r in rates):.0f} tokens/s, ratio "
        f"{statistics.median(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}]"
    )
    if fast is not None:
        fast.close()
        times = [rate / r[0] for rate, r in zip(faster, rates, strict=True)]
        print(
            f"vLLM {statistics.median(faster):.0f} tokens/s, {statistics.median(times):.2f} "
            f"[{min(times):.2f}, {max(times):.2f}] times leyden's Transformers engine"
        )


if __name__ == "__main__":
    main()
