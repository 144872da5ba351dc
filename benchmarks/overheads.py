"""What leyden adds to the bare work: reading rows, nuclei, scoring, and starting up.

    python benchmarks/overheads.py RUN          # after `make demo`: runs/tiny

Each line is the median of interleaved pairs, with the smallest and the largest ratio.
"""

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from leyden.data.scored import open_pair
from leyden.engines.sampling import sample
from leyden.logprobs import Head, score_tokens
from leyden.store.plan import PLAN, make_plan
from leyden.store.reader import open_store
from leyden.store.schema import COMPLETIONS
from leyden.store.writer import open_writer

PAIRS = 7
PLANNED = 500_000
VOCAB, WIDTH = 49152, 576  # SmolLM2-135M's


def pairs(name: str, ours: Callable[[], object], bare: Callable[[], object], unit: float) -> None:
    """Print both times in microseconds per unit, and their ratio."""
    times: list[tuple[float, float]] = []
    for _ in range(PAIRS + 1):
        times.append((seconds(ours), seconds(bare)))
    mine, theirs = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratios = sorted(a / b for a, b in times[1:])
    print(
        f"{name:34} {1e6 * mine / unit:12.1f} us {1e6 * theirs / unit:12.1f} us   "
        f"{mine / theirs:.2f}x [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    )


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def mapped_rows(folder: Path) -> int:
    """The same rows as slices of memory-mapped columns, with no check at all."""
    count = 0
    for path in sorted((folder / "shards").glob("*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        columns = []
        for column in table.columns:
            array = column.combine_chunks()
            if pa.types.is_list(array.type):
                columns.append(
                    (array.values.to_numpy(zero_copy_only=False), array.offsets.tolist())
                )
        for i in range(table.num_rows):
            _ = [values[offsets[i] : offsets[i + 1]] for values, offsets in columns]
            count += 1
    return count


def rows(run: Path) -> None:
    scores = open_store(run / "score")
    pairs(
        "a row of the store, or of a map",
        lambda: [scores[i] for i in range(len(scores))],
        lambda: mapped_rows(run / "score"),
        len(scores),
    )
    pair = open_pair(open_store(run / "rollout"), scores, split="opd", vocab_size=48)
    both = (run / "rollout", run / "score")
    pairs(
        "a scored sequence, or two maps",
        lambda: [pair[i] for i in range(len(pair))],
        lambda: [mapped_rows(folder) for folder in both],
        len(pair),
    )


def plans() -> None:
    ids = [f"opd/{i}" for i in range(PLANNED)]
    settings: dict[str, Any] = {"samples": 1, "rows_per_unit": 64, "seed": 3, "purpose": "rollout"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = make_plan(ids, **settings)
        open_writer(folder, COMPLETIONS, plan, origin="o")
        pairs(
            "a row planned, or its seed hashed",
            lambda: make_plan(ids, **settings),
            lambda: [hashlib.sha256(name.encode()).digest() for name in ids],
            PLANNED,
        )
        pairs(
            "a planned row resumed, or hashed",
            lambda: open_writer(folder, COMPLETIONS, plan, origin="o"),
            lambda: hashlib.sha256((folder / PLAN).read_bytes()),
            PLANNED,
        )


def nuclei() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(32, VOCAB, generator=generator) * 3
    uniform_B = torch.rand(32, generator=generator, dtype=torch.float64)
    pairs(
        "a nucleus of 0.95, or top-p 1",
        lambda: sample(logits_BV, uniform_B, temperature=0.6, top_p=0.95),
        lambda: sample(logits_BV, uniform_B, temperature=0.6, top_p=1.0),
        32,
    )


def scoring(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(1024, WIDTH, generator=generator).to(dtype)
    weight_VD = (torch.randn(VOCAB, WIDTH, generator=generator) * 0.05).to(dtype)
    ids_N = torch.randint(0, VOCAB, (1024,), generator=generator)

    def bare() -> list[Tensor]:
        wide_VD = weight_VD.float()
        return [
            (part.float() @ wide_VD.T).log_softmax(-1).gather(-1, ids[:, None])
            for part, ids in zip(hidden_ND.split(512), ids_N.split(512), strict=True)
        ]

    pairs(
        f"a token scored, {str(dtype)[6:]}, or bare",
        lambda: score_tokens(hidden_ND, Head(weight_VD), ids_N, top_k=8, chunk=512),
        bare,
        1024,
    )


def commands(run: Path) -> None:
    program = [sys.executable, "-m", "leyden.cli.main"]
    for name, arguments in {"--help": ["--help"], "status": ["status", str(run)]}.items():
        pairs(
            f"leyden {name}, or python alone",
            lambda arguments=arguments: subprocess.run(
                [*program, *arguments], check=True, capture_output=True
            ),
            lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
            1,
        )


def main() -> None:
    run = Path(sys.argv[1])
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    rows(run)
    plans()
    nuclei()
    scoring(torch.float32)
    scoring(torch.bfloat16)
    commands(run)


if __name__ == "__main__":
    main()
