"""Repeat the demo over untouched seeds, with one teacher and with two, and write the README's
table.

    python examples/tiny/seeds.py runs/seeds [--seeds 11 12 ...] [--workers 2]

A seed decides the prompts, the teacher's answers, the rollouts and the order of training; models
and settings stay. Settings were chosen on seed 101, which is not among those reported.
OUT/table.md gets means, standard errors over seeds, and paired differences.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from task import make_prompt_files

from leyden.monitor.status import model_results
from leyden.run.graph import resolve
from leyden.run.run import Run

ROOT = Path(__file__).parents[2]
OTHER = ROOT / "examples/tiny/models/other_teacher"
CONDITIONS = {
    "one teacher": [],
    "two teachers": [
        f"--models.sft-teacher={OTHER}",
        "--score.allow-inconsistent-teacher=true",
    ],
}
ROWS = {
    "reference": "SFT (the reference policy)",
    "sft_continued": "SFT continued, fresh answers, equal steps",
    "sampled": "Lightning OPD, sampled token (the paper's)",
    "sampled_tau1": "Lightning OPD, sampled token, tau = 1",
    "topk_tail": "**Lightning OPD, top-8 with tail**",
}


def run_seed(out: Path, seed: int, condition: str) -> dict[str, float]:
    """One whole run in a process of its own; the accuracy of every model."""
    folder = out / condition.replace(" ", "-") / str(seed)
    prompts = out / "prompts" / str(seed)
    if not (prompts / "test.jsonl").exists():
        make_prompt_files(prompts, seed=seed)
    files = [f"--prompts.{name}.file={prompts / name}.jsonl" for name in ("sft", "opd")]
    tests = f'[{{name="sums", grader="{ROOT}/examples/tiny/task.py:grade", max_new_tokens=64, '
    tests += "temperature=1.0, top_p=1.0, "
    tests += f'problems={{file="{prompts}/test.jsonl", id_field="id"}}}}]'
    command = [sys.executable, "-m", "leyden.cli.main", "run", str(ROOT / "recipes/tiny.toml")]
    command += ["--out", str(folder), f"--seed={seed}", *files, *CONDITIONS[condition]]
    command += [f"--evaluate.benchmarks={tests}", "--evaluate.kl-prompts=0"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{seed}.log", "w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    print(f"{condition}, seed {seed}: done", file=sys.stderr, flush=True)
    results = model_results(resolve(Run.open(folder)))
    return {model: benchmarks["sums"].result.accuracy for model, benchmarks in results.items()}


def mean_and_error(values: list[float], *, signed: bool = False) -> str:
    """Mean +- standard error over seeds, in points."""
    array = 100 * np.array(values)
    error = array.std(ddof=1) / np.sqrt(len(array))
    return f"{array.mean():{'+' if signed else ''}.1f} ± {error:.1f}"


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: accuracy per arm and condition, then paired differences to SFT continued."""
    first, second = found.values()
    lines = ["| accuracy, % | one teacher | minus SFT continued | two teachers |"]
    lines += ["|---|---|---|---|"]
    for model, title in ROWS.items():
        gain = [run[model] - run["sft_continued"] for run in first]
        cells = [
            mean_and_error([run[model] for run in first]),
            "" if model == "sft_continued" else mean_and_error(gain, signed=True),
            mean_and_error([run[model] for run in second]),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    teacher = mean_and_error([run["teacher"] for run in first])
    base = mean_and_error([run["base"] for run in first])
    lines += ["", f"Teacher {teacher}, base {base}; {len(first)} seeds, 512 problems each, T = 1."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15, 16])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with ThreadPoolExecutor(args.workers) as pool:
        jobs = {
            condition: [pool.submit(run_seed, args.out, s, condition) for s in args.seeds]
            for condition in CONDITIONS
        }
        found = {condition: [job.result() for job in jobs[condition]] for condition in jobs}
    text = table(found)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
