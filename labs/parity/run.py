"""Is offline as good as online? Every arm, one teacher and two, over seeds that vary all models.

    python labs/parity/run.py OUT [--tasks climb walk] [--seeds 1 ... 8] [--dev-seeds 901 902]

Learning rates are chosen on the development seeds, from the same five for every arm. Results are
kept in results/ beside this file and not computed again; a killed run resumes. The page beside this
file is written from results/ alone. After an edit here begin a new OUT, because models and prompts
in an old one are used as they are. To measure again, delete results/: this takes two hours on two
cores, one with ``--seeds 1 2``. Needs the extra ``labs``.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DEMO = HERE.parents[1] / "examples/tiny"


def job(kind: str, out: Path, task: str, *given: Any) -> Any:
    import torch

    import experiment

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    return getattr(experiment, kind)(out, task, *given)


def keep(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value | {"made_by": sources()}, sort_keys=True) + "\n")


DECIDES = ("answers", "arms", "climb", "demo", "experiment", "models", "tasks", "walk")


def sources() -> str:
    """A hash of every file here that decides a result. Results of other hashes are made again."""
    files = [HERE / f"{name}.py" for name in DECIDES] + [DEMO / "make_models.py", DEMO / "task.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def is_kept(path: Path) -> bool:
    return path.exists() and json.loads(path.read_text())["made_by"] == sources()


def work(todo: Iterable[tuple[Path, tuple]], workers: int) -> None:
    """Do the jobs without a result in a pool of processes, and keep each result at once."""
    missing = [(path, given) for path, given in todo if not is_kept(path)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(job, *given): path for path, given in missing}
        began = time.monotonic()
        for done in as_completed(running):
            keep(running[done], done.result())
            print(f"{time.monotonic() - began:6.0f} s  {running[done].name}", flush=True)


def choose(task: str, dev_seeds: list[int]) -> dict[str, float]:
    """Arm -> the learning rate with the highest mean accuracy on the development seeds."""
    tuned = [json.loads((RESULTS / f"{task}-tune-{seed}.json").read_text()) for seed in dev_seeds]
    return {
        arm: float(
            max(rates, key=lambda rate, arm=arm: sum(t[arm][rate]["accuracy"] for t in tuned))
        )
        for arm, rates in tuned[0].items()
        if arm not in ("made_by", "reference")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["climb", "walk"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--dev-seeds", type=int, nargs="+", default=[901, 902])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    out = args.out.resolve()
    tuning = [
        (RESULTS / f"{task}-tune-{seed}.json", ("tune", out, task, seed))
        for task in args.tasks
        for seed in args.dev_seeds
    ]
    work(tuning, args.workers)
    reasons = [
        (RESULTS / f"{task}-why-{seed}.json", ("explain", out, task, seed))
        for task in args.tasks
        for seed in args.dev_seeds
    ]
    rates = {task: choose(task, args.dev_seeds) for task in args.tasks}
    measured = [
        (RESULTS / f"{task}-{seed}.json", ("measure", out, task, seed, rates[task]))
        for seed in args.seeds
        for task in args.tasks
    ]
    work([*measured, *reasons], args.workers)
    from page import write_page
    from teachers import share_right

    for task in args.tasks:
        if not is_kept(path := RESULTS / f"{task}-teachers.json"):
            keep(path, share_right(out, task, args.seeds))

    write_page(RESULTS, HERE, args.tasks, args.dev_seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
