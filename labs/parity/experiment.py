"""Measure one seed of one task: make its models, write its recipe, run its arms."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from arms import MAIN, RATES, SHARP, VOCAB, WHY, WHY_RATE, mistake
from leyden.monitor.costs import arm_costs
from leyden.monitor.status import divergences, model_results
from leyden.pipeline.pipeline import run_jobs
from leyden.recipe.toml import validate_recipe, write_recipe
from leyden.run.graph import resolve
from leyden.run.layout import METRICS, RECIPE
from leyden.run.run import Run
from leyden.run.stage import DISTILL, EVALUATE, SCORE, distill, evaluate
from leyden.telemetry.metrics import read_metrics
from models import make_models
from tasks import TASKS

STEPS, HELDOUT, SFT, TEST = 40, 128, 640, 512


def measure(out: Path, task: str, seed: int, rates: Mapping[str, float]) -> dict[str, dict]:
    """Measure one seed. Condition (``one`` or ``two`` teachers) -> arm -> its numbers."""
    make_models(task, seed, out / "models" / task / str(seed))
    make_prompts(task, seed, out / "prompts" / task / str(seed))
    return {kind: measure_one(out, task, seed, kind, rates) for kind in ("one", "two")}


def measure_one(
    out: Path, task: str, seed: int, condition: str, rates: Mapping[str, float]
) -> dict[str, Any]:
    folder, measured = out / "runs" / task / f"{seed}-{condition}", {}
    for name, arms in (("main", MAIN), ("sharp", SHARP)):
        tuned = {arm: {**arms[arm], "learning_rate": rates[arm]} for arm in arms}
        run = make_run(out, task, seed, condition, folder / name, tuned, sharp=name == "sharp")
        if name == "sharp":
            share_beginning(folder / "main", folder / "sharp")
        do_arms(run, models=("teacher", "base", "reference") if name == "main" else ())
        measured |= numbers(run)
    return measured


def tune(out: Path, task: str, seed: int) -> dict[str, dict[str, dict]]:
    """Measure a development seed with one teacher. Arm -> learning rate -> its numbers."""
    make_models(task, seed, out / "models" / task / str(seed))
    make_prompts(task, seed, out / "prompts" / task / str(seed))
    folder = out / "runs" / task / f"{seed}-tune"
    measured: dict[str, dict[str, dict]] = {}
    for name, arms in (("main", MAIN), ("sharp", SHARP)):
        grid = {
            f"{arm}-{i}": {**settings, "learning_rate": rate}
            for arm, settings in arms.items()
            for i, rate in enumerate(RATES)
        }
        run = make_run(out, task, seed, "one", folder / name, grid, sharp=name == "sharp")
        if name == "sharp":
            share_beginning(folder / "main", folder / "sharp")
        do_arms(run, models=("reference",) if name == "main" else ())
        about = numbers(run)
        for arm in arms:
            measured[arm] = {str(r): about[f"{arm}-{i}"] for i, r in enumerate(RATES)}
        measured |= {model: {"": about[model]} for model in ("reference",) if model in about}
    return measured


def explain(out: Path, task: str, seed: int) -> dict[str, dict]:
    """Measure the arms of WHY on a tuned development seed, at one rate."""
    tuned, folder = (out / "runs" / task / f"{seed}-{name}" for name in ("tune", "why"))
    arms = {arm: {**settings, "learning_rate": WHY_RATE} for arm, settings in WHY.items()}
    run = make_run(out, task, seed, "one", folder, arms, sharp=False)
    share_beginning(tuned / "main", folder)
    do_arms(run, models=())
    return numbers(run)


def make_prompts(task: str, seed: int, folder: Path, *, epochs: int = 1) -> None:
    """Write three disjoint sets of distinct prompts. The size of ``opd`` lets training on each
    prompt ``epochs`` times take all steps."""
    if (folder / "done").exists():
        return
    rng, seen = np.random.default_rng(50_000 + seed), set()
    folder.mkdir(parents=True, exist_ok=True)
    opd = STEPS * TASKS[task].batch // epochs + HELDOUT
    for name, size in {"test": TEST, "sft": SFT, "opd": opd}.items():
        rows = []
        while len(rows) < size:
            prompt = TASKS[task].make_prompt(rng)
            if prompt not in seen:
                rows.append({"id": f"{name}-{len(rows)}", "prompt": prompt})
                seen.add(prompt)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "done").touch()


def make_run(
    out: Path, task: str, seed: int, condition: str, root: Path, arms: Mapping, *, sharp: bool
) -> Run:
    models, prompts = out / "models" / task / str(seed), out / "prompts" / task / str(seed)
    length = TASKS[task].max_new_tokens
    files = {
        name: {"file": str(prompts / f"{name}.jsonl"), "id_field": "id"}
        for name in ("sft", "opd", "test")
    }
    values: dict[str, Any] = {
        "name": task,
        "seed": seed,
        "models": {"teacher": str(models / "teacher"), "base": str(models / "base")},
        "prompts": {"sft": files["sft"], "opd": files["opd"], "heldout": HELDOUT},
        "teach": {"max_new_tokens": length, "answer_opd_prompts": True},
        "sft": {"steps": 20, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 2},
        "rollout": {"temperature": 1.0, "max_new_tokens": length},
        "score": {"top_k": VOCAB - 1},
        "distill": {
            "steps": STEPS,
            "batch_size": TASKS[task].batch,
            "warmup_steps": 4,
            "heldout_samples": 64,
            "arms": dict(arms),
        },
        "evaluate": {
            "benchmarks": [
                {
                    "name": "problems",
                    "problems": files["test"],
                    "grader": TASKS[task].grader,
                    "max_new_tokens": length,
                    "temperature": 1.0,
                    "top_p": 1.0,
                }
            ]
        },
        "execution": {
            "device": "cpu",
            "threads": 1,
            "generate_batch_size": 512,
            "rows_per_unit": 1024,
            "batch_tokens": 16384,
        },
    }
    if sharp:
        values["rollout"] |= {"temperature": 0.7, "top_p": 0.9}
    if condition == "two":
        values["models"]["sft_teacher"] = str(models / "other_teacher")
        values["score"]["allow_inconsistent_teacher"] = True
    recipe = validate_recipe(values, source=f"{task} {seed} {condition}")
    root.mkdir(parents=True, exist_ok=True)
    write_recipe(recipe, root / RECIPE)
    return Run(root, recipe)


def share_beginning(source: Path, target: Path) -> None:
    """Copy the jobs up to the reference policy, which the sharp rollouts share."""
    for name in ("prompts", "problems", "teach", "sft"):
        if not (target / name / "record.json").exists():
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.copytree(source / name, target / name)


def do_arms(run: Run, *, models: tuple[str, ...]) -> None:
    """Do every job of the run, and make an arm's mistake while that arm trains. Of the evaluations
    do those of ``models`` and of the arms."""
    run_jobs(run, [job for job in resolve(run).jobs if job.stage not in (DISTILL, EVALUATE)])
    for arm in run.arms():
        with mistake(arm):
            run_jobs(run, [distill(arm)])
    run_jobs(run, [evaluate(m) for m in (*models, *run.arms())])


def numbers(run: Run) -> dict[str, dict[str, Any]]:
    """Model -> accuracy and length; for arms also costs, and the measurements behind warnings."""
    graph = resolve(run)
    costs, kl = arm_costs(graph), divergences(graph)
    surprisal = graph.require(SCORE).counts["surprisal_over_entropy"]
    result: dict[str, dict[str, Any]] = {}
    for model, results in model_results(graph).items():
        about = results["problems"].result
        result[model] = {
            "accuracy": about.accuracy,
            "mean_tokens": about.mean_tokens,
            "truncated": about.truncated / about.samples,
        }
        if model in run.arms():
            lines = read_metrics(run.folder(distill(model)) / METRICS)
            heldout = [line for line in lines if line["split"] == "heldout"]
            result[model] |= {
                "settings": run.arms()[model].model_dump(exclude_defaults=True),
                "costs": asdict(costs[model]),
                "surprisal_over_entropy": surprisal,
                "heldout": heldout,
            }
    return result | ({"divergence": {m: asdict(d) for m, d in kl.items()}} if kl else {})
