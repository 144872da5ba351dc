"""The demo's task: add up some digits in any order, one running total per step.

Prompt ``7+4+9+0=``; answer ``9>9,4>3,0>3,7>0``: every term once, in any order, each followed by the
running total modulo 10. Problems have 4 to 8 terms, so an answer takes 16 to 32 tokens with its
stop token, and when to stop follows from the problem. Any order is right, so two teachers can be
equally right and differ in style: style ``large`` prefers large terms, style ``small`` small ones.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

MIN_TERMS, MAX_TERMS = 4, 8
STYLES = {"large": +2.0, "small": -2.0, "even": 0.0}


def make_terms(rng: np.random.Generator, *, longest: int = MAX_TERMS) -> list[int]:
    """One problem: 4 to ``longest`` digits."""
    return rng.integers(0, 10, rng.integers(MIN_TERMS, longest + 1)).tolist()


def make_prompt(terms: Sequence[int]) -> str:
    return "+".join(map(str, terms)) + "="


def make_steps(
    rng: np.random.Generator, terms: Sequence[int], style: str, *, slip: float = 0.0
) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield (term, total, term is a slip, total is a slip) until every term is used.

    A slip in the term picks a digit that is not left (no term is used up); a slip in the total
    writes a random one, from which the sum goes on. With ``slip = 0`` the answer is right.
    """
    left, total = list(terms), 0
    for _ in range(3 * len(terms)):
        if not left:
            return
        absent = [d for d in range(10) if d not in left]
        term_slips, total_slips = rng.random(2) < slip
        if term_slips and absent:
            term = int(rng.choice(absent))
        else:
            weight = np.exp(STYLES[style] * np.array(left) / 9)
            term, term_slips = left.pop(rng.choice(len(left), p=weight / weight.sum())), False
        total = (total + term) % 10
        if total_slips:
            total = (total + int(rng.integers(1, 10))) % 10
        yield term, total, bool(term_slips), bool(total_slips)


def grade(problem: dict, completion: str) -> bool:
    """True when every term of ``problem["prompt"]`` is used once and every total is right."""
    terms = [int(t) for t in problem["prompt"].rstrip("=").split("+")]
    used, total = [], 0
    for step in completion.split(","):
        if len(step) != 3 or step[1] != ">" or not (step[0] + step[2]).isdigit():
            return False
        total = (total + int(step[0])) % 10
        if total != int(step[2]):
            return False
        used.append(int(step[0]))
    return Counter(used) == Counter(terms)


def write_prompts(
    path: Path, *, count: int, seed: int, exclude: set[str] = frozenset()
) -> set[str]:
    """Write ``count`` distinct problems as JSON lines and return their prompts."""
    rng, prompts = np.random.default_rng(seed), {}
    while len(prompts) < count:
        prompt = make_prompt(make_terms(rng))
        if prompt not in exclude:
            prompts[prompt] = None
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{path.stem}-{i:05d}", "prompt": p} for i, p in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return set(prompts)


def make_prompt_files(folder: Path, *, seed: int) -> None:
    """Write sft.jsonl, opd.jsonl and test.jsonl, which share no problem."""
    seen: set[str] = set()
    for offset, (name, count) in enumerate({"sft": 1000, "opd": 4352, "test": 512}.items()):
        path = folder / f"{name}.jsonl"
        seen |= write_prompts(path, count=count, seed=1000 * seed + offset, exclude=seen)


if __name__ == "__main__":
    make_prompt_files(Path(sys.argv[1]), seed=int(sys.argv[2]))
