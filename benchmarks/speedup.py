"""What does an offline teacher save? Lightning OPD, standard OPD and TRL's DistillationTrainer.

    python benchmarks/speedup.py OUT [--repeats 3] [--task walk]

Same machine, models, prompts, batch, optimizer and number of steps, in one run: the long-answer
task of labs/parity (answers of about 110 tokens, a teacher 13 times the student). Threads are tuned
for each method on a few steps. Repeats are interleaved; medians are printed with their range, and
the accuracy that each student reaches. Needs the extra ``bench`` for TRL.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "labs/parity"))

import torch  # noqa: E402

import experiment  # noqa: E402
from leyden.config import Execution, Sampling  # noqa: E402
from leyden.costs import arm_costs  # noqa: E402
from leyden.engines.transformers import GenerateRequest, TransformersEngine  # noqa: E402
from leyden.modeling import load_model  # noqa: E402
from leyden.pipeline import run_jobs  # noqa: E402
from leyden.recipe import validate_recipe, write_recipe  # noqa: E402
from leyden.run import RECIPE, Run  # noqa: E402
from models import make_models, make_tokenizer  # noqa: E402
from tasks import TASKS  # noqa: E402

SEED, STUDENTS, RATE = 902, 10, 1e-3
DENSE = {"objective": "topk_tail", "top_k": 19, "learning_rate": RATE}  # exact reverse KL, as TRL's
Seconds = dict[str, float]


def lightning(run: Run, threads: int) -> Seconds:
    """Roll out, score and train one student on the store; then nine more on the same store."""
    run = variant(run, threads, {f"s{i}": DENSE | {"reduction": r} for i, r in enumerate(
        ["token_mean", "sequence_mean"] * (STUDENTS // 2))})  # fmt: skip
    for job in ("rollout", "score", "distill"):
        shutil.rmtree(run.root / job, ignore_errors=True)
    run_jobs(run, ["rollout", "score", *(f"distill/s{i}" for i in range(STUDENTS))], announce=quiet)
    costs = list(arm_costs(run).values())
    first = costs[0]
    trained = [cost["training"] for cost in costs]
    return phases(first) | {
        "further_student": statistics.median(trained),
        "ten_students": first["sampling"] + first["scoring"] + sum(trained),
    }


def online(run: Run, threads: int) -> Seconds:
    """Standard OPD in this program: fresh rollouts and a live teacher at every step."""
    run = variant(run, threads, {"s0": DENSE | {"reduction": "token_mean", "refresh_every": 1}})
    shutil.rmtree(run.root / "distill", ignore_errors=True)
    run_jobs(run, ["rollout", "score", "distill/s0"], announce=quiet)
    return phases(next(iter(arm_costs(run).values())))


def trl(run: Run, threads: int, *, steps: int | None = None) -> Seconds:
    """TRL's trainer from the same reference, teacher and prompts."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer

    torch.set_num_threads(threads)
    settings = run.recipe.distill
    prompts = read_prompts(run.recipe.prompts.opd.file)
    prompts = prompts[: len(prompts) - run.recipe.prompts.heldout]
    reference = run.place("reference")
    arguments = DistillationConfig(
        output_dir=str(run.root / "trl"), max_steps=steps or settings.steps, beta=1.0,
        per_device_train_batch_size=settings.batch_size, learning_rate=RATE,
        lr_scheduler_type="constant_with_warmup", warmup_steps=settings.warmup_steps,
        adam_beta1=settings.beta1, adam_beta2=settings.beta2, weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip, max_completion_length=run.recipe.rollout.max_new_tokens,
        temperature=1.0, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        save_strategy="no", logging_steps=1000, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(run.place("teacher")),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(reference),
    )
    spent = {"sampling": 0.0, "scoring": 0.0}
    trainer._generate_single_turn = timed(trainer._generate_single_turn, spent, "sampling")
    teacher = trainer.teacher_model
    teacher.base_model.forward = timed(teacher.base_model.forward, spent, "scoring")
    began = time.monotonic()
    trainer.train()
    whole = time.monotonic() - began
    trainer.model.save_pretrained(run.root / "trl/model")
    return spent | {"training": whole - sum(spent.values())}


def timed(call: Callable[..., Any], spent: Seconds, name: str) -> Callable[..., Any]:
    """``call``, its seconds added to ``spent[name]``."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            spent[name] += time.monotonic() - began

    return wrapped


def read_prompts(file: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in Path(file).read_text().splitlines()]


def variant(run: Run, threads: int, arms: dict[str, Any]) -> Run:
    """The same run with other arms and threads, beside its shared beginning."""
    values = json.loads(run.recipe.model_dump_json(exclude_none=True))
    values["distill"]["arms"] = arms
    values["distill"]["eval_every"] = 0
    values["distill"]["heldout_samples"] = 0
    values["execution"]["threads"] = threads
    recipe = validate_recipe(values, source="speedup")
    write_recipe(recipe, run.root / RECIPE)
    return Run(run.root, recipe)


def phases(cost: Seconds) -> Seconds:
    return {name: cost[name] for name in ("sampling", "scoring", "training")}


def quiet(job: str, state: str) -> None:
    """Timings are printed at the end."""


def accuracy(run: Run, folder: Path) -> float:
    """On the run's test problems, sampled at temperature 1."""
    task = TASKS[run.recipe.name]
    prompts = read_prompts(run.recipe.evaluate.benchmarks[0].problems.file)
    tokenizer = make_tokenizer()
    model = load_model(folder, device="cpu", dtype="float32")
    engine = TransformersEngine(model, Execution(device="cpu", generate_batch_size=512))
    requests = [GenerateRequest(tokenizer(p)["input_ids"], i) for i, p in enumerate(prompts)]
    answers = engine.generate(requests, Sampling(max_new_tokens=task.max_new_tokens), [1])
    right = [
        a.finish_reason == "stop" and task.grade(p, tokenizer.decode(a.ids[:-1].tolist()))
        for p, a in zip(prompts, answers, strict=True)
    ]
    return sum(right) / len(right)


METHODS: dict[str, Callable[..., Seconds]] = {
    "Lightning OPD": lightning, "standard OPD": online, "TRL DistillationTrainer": trl,
}  # fmt: skip
STUDENT = {
    "Lightning OPD": "distill/s0/model", "standard OPD": "distill/s0/model",
    "TRL DistillationTrainer": "trl/model",
}  # fmt: skip


def measure(out: Path, task: str, repeats: int, threads: dict[str, int]) -> dict[str, Any]:
    run = beginning(out, task)
    found: dict[str, Any] = {name: {"seconds": [], "accuracy": None} for name in METHODS}
    for repeat in range(repeats):
        for name, method in METHODS.items():
            seconds = method(run, threads[name])
            found[name]["seconds"].append(seconds)
            if repeat == 0:
                found[name]["accuracy"] = accuracy(run, run.root / STUDENT[name])
            print(repeat, name, {k: round(v, 2) for k, v in seconds.items()}, flush=True)
    return found | {"reference": accuracy(run, run.place("reference"))}


def beginning(out: Path, task: str) -> Run:
    """Models, prompts, teach and sft: what all methods share."""
    make_models(task, SEED, out / "models" / task / str(SEED))
    experiment.make_prompts(task, SEED, out / "prompts" / task / str(SEED))
    root = out / "runs" / task / "speedup"
    run = experiment.make_run(out, task, SEED, "one", root, {"s0": DENSE}, sharp=False)
    run_jobs(run, ["prompts", "problems", "teach", "sft"], announce=quiet)
    return run


def summary(found: dict[str, Any], steps: int) -> str:
    """Medians over repeats with their range, and ratios to standard OPD."""
    lines = ["| method | sampling | teacher | training | in all | per step | standard OPD / this | "
             "accuracy |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    totals = {n: [sum(phases(s).values()) for s in found[n]["seconds"]] for n in METHODS}
    for name in METHODS:
        runs = found[name]["seconds"]
        parts = [statistics.median(s[p] for s in runs) for p in ("sampling", "scoring", "training")]
        whole = statistics.median(totals[name])
        ratios = [o / t for o, t in zip(totals["standard OPD"], totals[name], strict=True)]
        cells = [f"{p:.2f} s" for p in parts]
        cells += [f"{whole:.2f} [{min(totals[name]):.2f}, {max(totals[name]):.2f}] s"]
        cells += [f"{whole / steps:.3f} s", spread(ratios), f"{100 * found[name]['accuracy']:.1f}%"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    runs = found["Lightning OPD"]["seconds"]
    pairs = list(zip(totals["standard OPD"], runs, strict=True))
    further = [o / s["further_student"] for o, s in pairs]
    ten = [10 * o / s["ten_students"] for o, s in pairs]
    lines += [
        "",
        f"A further student from the same store: standard OPD takes {spread(further)} as long; ten "
        f"students, store included: {spread(ten)}. Reference: {100 * found['reference']:.1f}%.",
    ]
    return "\n".join(lines)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="walk", choices=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    out = args.out.resolve()
    run = beginning(out, args.task)
    threads = {}
    for name, method in METHODS.items():
        timings = {n: sum(phases(method(run, n)).values()) for n in (1, 2)}
        threads[name] = min(timings, key=lambda n, t=timings: t[n])
        print(f"{name}: threads {timings}", flush=True)
    found = measure(out, args.task, args.repeats, threads)
    (out / "speedup.json").write_text(json.dumps(found | {"threads": threads}, indent=1))
    print(f"\nthreads: {threads}\n\n{summary(found, run.recipe.distill.steps)}")


if __name__ == "__main__":
    main()
