"""Measure what several workers save: one stage with 1, 2, ... processes, in rounds.

    python benchmarks/hands.py RUN OUT [--stage rollout] [--workers 1 2] [--samples 16] [--rounds 3]

RUN is a finished run of the demo (`make demo`). Its stage is made again in copies of the run, with
more samples of each prompt, so that the seconds in which processes start count little. One thread
for each process. Printed are medians of the wall time, and their ratio to one process.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from leyden.recipe.toml import load_recipe, parse_overrides, write_recipe

LEYDEN = [sys.executable, "-m", "leyden.cli.main"]


def seconds_of(run: Path, out: Path, stage: str, workers: int, flags: list[str]) -> float:
    """Wall time of the stage in a copy of the run."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("superseded", "evaluate", "distill"))
    for later in ("rollout", "score"):
        if later == stage or (stage == "rollout" and later == "score"):
            shutil.rmtree(out / later)
    recipe = load_recipe(
        out / "recipe.toml", parse_overrides([*flags, "--execution.workers", str(workers)])
    )
    write_recipe(recipe, out / "recipe.toml")
    began = time.perf_counter()
    subprocess.run([*LEYDEN, stage, str(out)], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", default="rollout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    flags = ["--rollout.samples-per-prompt", str(given.samples), "--execution.threads", "1"]
    times: dict[int, list[float]] = {workers: [] for workers in given.workers}
    seals = set()
    for round_number in range(given.rounds):
        for workers in given.workers:
            took = seconds_of(given.run, given.out, given.stage, workers, flags)
            times[workers].append(took)
            seals.add((given.out / given.stage / "SEALED.json").read_bytes())
            print(f"round {round_number}, {workers} workers: {took:.1f} s", flush=True)
    one = statistics.median(times[given.workers[0]])
    for workers, measured in times.items():
        middle = statistics.median(measured)
        spread = f"[{min(measured):.1f}, {max(measured):.1f}]"
        print(f"{workers} workers: {middle:.1f} s {spread}, {one / middle:.2f} times as fast")
    print(f"{len(seals)} different seal(s)")


if __name__ == "__main__":
    main()
