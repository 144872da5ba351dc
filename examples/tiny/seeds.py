"""Repeat the demo over untouched seeds, with one teacher and with two, for the README's table.

    python examples/tiny/seeds.py runs/seeds [--seeds 11 12 ...] [--workers 2]

A seed decides the prompts, the teacher's completions, the rollouts and the order of training.
Models and settings stay. The settings were chosen on seed 101, which is not reported. OUT gets
accuracies.json with the accuracy of every model, and table.md with means, standard errors over
seeds and paired differences. The accuracies behind the README are kept in seeds.json.
"""

import argparse
import json
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
    "reference": "After SFT: the reference policy",
    "sft_continued": "SFT continued on fresh teacher completions",
    "sampled": "Lightning OPD, the paper's loss",
    "sampled_tau1": "Lightning OPD, the paper's loss clipped at 1 nat",
    "topk_tail": "**Lightning OPD, dense targets**",
}
Accuracies = dict[str, list[dict[str, float]]]
"""Condition -> for every seed, model -> accuracy from 0 to 1."""


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


def mean_and_error(values: np.ndarray, *, signed: bool = False) -> str:
    """Mean +- standard error over seeds, in points. ``values`` [seeds] from 0 to 1."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{100 * values.mean():{'+' if signed else ''}.1f} ± {100 * error:.1f}"


def of(runs: list[dict[str, float]], model: str) -> np.ndarray:
    """The accuracies of a model, [seeds]."""
    return np.array([run[model] for run in runs])


def table(accuracies: Accuracies) -> str:
    """Markdown: accuracy per arm and condition, and paired differences to SFT continued."""
    one, two = accuracies.values()
    lines = ["| Accuracy, % | One teacher | Gain over SFT continued | Two teachers |"]
    lines += ["|---|---|---|---|"]
    for model, title in ROWS.items():
        gain = mean_and_error(of(one, model) - of(one, "sft_continued"), signed=True)
        cells = [
            mean_and_error(of(one, model)),
            "" if model == "sft_continued" else gain,
            mean_and_error(of(two, model)),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    teacher, base = mean_and_error(of(one, "teacher")), mean_and_error(of(one, "base"))
    models = f"Teacher {teacher}, student before SFT {base}."
    lines += ["", f"{models} {len(one)} seeds with 512 problems each, sampled at temperature 1."]
    lines += ["Differences are taken before rounding."]
    return "\n".join(lines) + "\n"


def gains(accuracies: Accuracies, model: str) -> list[str]:
    """Points that a model gains over its reference with one teacher, with two, and the loss from
    the second teacher: all paired by seed."""
    one, two = (of(runs, model) - of(runs, "reference") for runs in accuracies.values())
    return [mean_and_error(one), mean_and_error(two), mean_and_error(one - two)]


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
        accuracies = {
            condition: [j.result() for j in running] for condition, running in jobs.items()
        }
    (args.out / "accuracies.json").write_text(json.dumps(accuracies, indent=1) + "\n")
    text = table(accuracies)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
