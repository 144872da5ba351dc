"""Exact answers to what the paper claims, by enumeration: results.json, plots and the page.

    python labs/theory/run.py [OUT]

Takes two processes and under two minutes. Without OUT it rewrites the page beside this file. Exits
with 1 if a claim of the page does not agree with the numbers. Needs the extra ``labs``.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXPERIMENTS = [  # the longest first
    "final_kl", "sampling", "covariance", "shared_optimum", "against_k", "teacher_bias",
    "gap_along_path", "bound_against_length", "regression_identity",
]  # fmt: skip


def compute(name: str) -> Any:
    import torch

    import experiments

    torch.set_num_threads(1)
    return getattr(experiments, name)()


def run_all() -> dict[str, Any]:
    """Name -> result, computed in two processes."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return dict(zip(EXPERIMENTS, pool.map(compute, EXPERIMENTS), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=HERE)
    out = parser.parse_args().out
    from claims import check
    from page import write_page

    began = time.monotonic()
    results = run_all()
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    verdicts = check(results)
    write_page(results, verdicts, out)
    for claim, holds in verdicts.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    print(f"{time.monotonic() - began:.0f} s; page: {out / 'README.md'}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
