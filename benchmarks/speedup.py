"""Measure what an offline teacher saves, against standard OPD and TRL's DistillationTrainer.

    python benchmarks/speedup.py OUT [--repeats 3] [--task walk] [--teacher-layers 24]

All methods run on one machine with the same models, prompts, batch, optimizer and steps. The task
is ``walk`` of labs/parity: completions of about 110 tokens, and a teacher 13 times the student. The
number of threads is tuned for each method on a few steps. Repeats are interleaved. Printed are
medians with their range, and the accuracy of each student. Needs the extra ``bench`` for TRL.

``--teacher-layers`` adds layers without effect to the teacher. It then samples and scores as
before, at the cost of a real model of that depth.
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
from demo import models as demo  # noqa: E402
from leyden.engines.base import GenerateRequest  # noqa: E402
from leyden.engines.transformers import TransformersEngine  # noqa: E402
from leyden.evals.statistics import accuracy_interval  # noqa: E402
from leyden.models.load import load_model  # noqa: E402
from leyden.monitor.costs import ArmCost, arm_costs  # noqa: E402
from leyden.pipeline.pipeline import run_jobs  # noqa: E402
from leyden.recipe.sampling import Sampling  # noqa: E402
from leyden.recipe.schema import Execution  # noqa: E402
from leyden.recipe.toml import validate_recipe, write_recipe  # noqa: E402
from leyden.run.graph import resolve  # noqa: E402
from leyden.run.layout import RECIPE  # noqa: E402
from leyden.run.run import REFERENCE, TEACHER, Run  # noqa: E402
from leyden.run.stage import (  # noqa: E402
    PROBLEMS,
    PROMPTS,
    ROLLOUT,
    SCORE,
    SFT,
    TEACH,
    Job,
    distill,
)
from models import make_models  # noqa: E402
from tasks import CHARACTERS, TASKS  # noqa: E402

SEED, STUDENTS, RATE = 902, 10, 1e-3
DENSE = {  # exact reverse KL over tokens, as TRL's
    "objective": "topk_tail", "top_k": 19, "learning_rate": RATE, "reduction": "token_mean",
}  # fmt: skip
Seconds = dict[str, float]


def lightning(run: Run, threads: int, *, steps: int | None = None, students: int = 2) -> Seconds:
    """Roll out, score, and train ``students`` one after the other on the same store. ``wall`` times
    the first student with its store, ``further`` is the median of the others, ``all`` the total.
    """
    rates = {f"s{i}": DENSE | {"learning_rate": RATE * 0.9**i} for i in range(students)}
    run = variant(run, threads, rates, steps)
    forget(run)
    walls = [seconds_of(run, [ROLLOUT, SCORE, distill("s0")])]
    walls += [seconds_of(run, [distill(arm)]) for arm in list(rates)[1:]]
    measured = phases(next(iter(arm_costs(resolve(run)).values())))
    return measured | {
        "wall": walls[0], "further": statistics.median(walls[1:]), "all": sum(walls)
    }  # fmt: skip


def online(run: Run, threads: int, *, steps: int | None = None) -> Seconds:
    """Time standard OPD in leyden: fresh rollouts and a live teacher at every step."""
    run = variant(run, threads, {"s0": DENSE | {"refresh_every": 1}}, steps)
    forget(run)
    run_jobs(run, [ROLLOUT, SCORE])  # held-out prompts alone: not counted
    wall = seconds_of(run, [distill("s0")])
    return phases(next(iter(arm_costs(resolve(run)).values()))) | {"wall": wall}


def forget(run: Run) -> None:
    for job in ("rollout", "score", "distill"):
        shutil.rmtree(run.root / job, ignore_errors=True)


def seconds_of(run: Run, jobs: list[Job]) -> float:
    """Wall time, with loading models, storing, checkpoints and saving."""
    began = time.monotonic()
    run_jobs(run, jobs)
    return time.monotonic() - began


def trl(run: Run, threads: int, *, steps: int | None = None) -> Seconds:
    """Time TRL's trainer on the same reference, teacher and prompts. Its wall time is that of
    ``train``, without loading models."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer

    torch.set_num_threads(threads)
    settings = run.recipe.distill
    prompts = read_prompts(run.recipe.prompts.opd.places[0])
    prompts = prompts[: len(prompts) - run.recipe.prompts.heldout]
    reference = run.place(REFERENCE)
    arguments = DistillationConfig(
        output_dir=str(run.root / "trl"), max_steps=steps or settings.steps, beta=1.0,
        per_device_train_batch_size=settings.batch_size, learning_rate=RATE,
        lr_scheduler_type="constant", warmup_steps=0,
        adam_beta1=settings.beta1, adam_beta2=settings.beta2, weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip, max_completion_length=run.recipe.rollout.max_new_tokens,
        temperature=1.0, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        save_strategy="no", logging_steps=1000, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32),
        teacher_model=AutoModelForCausalLM.from_pretrained(run.place(TEACHER)),
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
    return spent | {"training": whole - sum(spent.values()), "wall": whole}


def timed(call: Callable[..., Any], spent: Seconds, name: str) -> Callable[..., Any]:
    """Wrap ``call`` so that its seconds are added to ``spent[name]``."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*args, **kwargs)
        finally:
            spent[name] += time.monotonic() - began

    return wrapped


def read_prompts(file: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in Path(file).read_text().splitlines()]


def variant(run: Run, threads: int, arms: dict[str, Any], steps: int | None) -> Run:
    """Copy the shared beginning of a run, with other arms, threads and steps."""
    settings = {"arms": arms, "eval_every": 0, "heldout_samples": 0, "warmup_steps": 0}
    settings["steps"] = steps or run.recipe.distill.steps
    return changed(run, distill=settings, execution={"threads": threads})


def changed(run: Run, **sections: dict[str, Any]) -> Run:
    """The same run with other settings."""
    values = json.loads(run.recipe.model_dump_json(exclude_none=True))
    for name, settings in sections.items():
        values[name] |= settings
    recipe = validate_recipe(values, source="speedup")
    write_recipe(recipe, run.root / RECIPE)
    return Run(run.root, recipe)


def phases(cost: ArmCost) -> Seconds:
    return {name: cost.phases[name] for name in ("sampling", "scoring", "training")}


def accuracy(run: Run, folder: Path) -> str:
    """Accuracy on the run's test problems at temperature 1, with its 95% interval."""
    task = TASKS[run.recipe.name]
    prompts = read_prompts(run.recipe.evaluate.benchmarks[0].problems.places[0])
    tokenizer = demo.make_tokenizer(CHARACTERS)
    model = load_model(folder, device="cpu", dtype="float32")
    engine = TransformersEngine.around(model, Execution(device="cpu", generate_batch_size=512))
    requests = [GenerateRequest(tokenizer(p)["input_ids"], i) for i, p in enumerate(prompts)]
    sampling = Sampling(max_new_tokens=task.max_new_tokens)
    right = [
        made.finish_reason == "stop"
        and task.grade(prompts[i], str(tokenizer.decode(made.ids[:-1].tolist())))
        for i, made in engine.generate(requests, sampling, [1])
    ]
    share, (low, high) = accuracy_interval([[verdict] for verdict in right])
    return f"{100 * share:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


ONCE, LIVE = "Lightning OPD", "standard OPD"
FOUR, EIGHT = (f"{ONCE}, each rollout {n} times" for n in (4, 8))
TRL = "TRL DistillationTrainer"
METHODS: dict[str, tuple[Callable[..., Seconds], int, str]] = {  # call, epochs, its student
    ONCE: (lightning, 1, "distill/s0/model"),
    FOUR: (lightning, 4, "distill/s0/model"),
    EIGHT: (lightning, 8, "distill/s0/model"),
    LIVE: (online, 1, "distill/s0/model"),
    TRL: (trl, 1, "trl/model"),
}


def deepen(folder: Path, layers: int) -> None:
    """Add layers whose output is zero, up to ``layers``: the same function at a higher cost."""
    model = load_model(folder, device="cpu", dtype="float32")
    weights, present = model.state_dict(), model.config.num_hidden_layers
    if layers <= present:
        return
    model.config.num_hidden_layers = layers
    model.config.layer_types = None
    deeper = type(model)(model.config)
    deeper.load_state_dict(weights, strict=False)
    for layer in deeper.model.layers[present:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    deeper.generation_config = model.generation_config
    deeper.save_pretrained(folder)


def beginning(out: Path, task: str, epochs: int) -> Run:
    """Do prompts, teach and sft, which all methods share. With ``epochs`` there are fewer prompts
    and rollouts by that factor, and each is trained on ``epochs`` times."""
    home = out / f"speedup-{epochs}"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(out / "models")
    experiment.make_prompts(task, SEED, home / "prompts" / task / str(SEED), epochs=epochs)
    run = experiment.make_run(home, task, SEED, "one", home / "run", {"s0": DENSE}, sharp=False)
    run = changed(run, teach={"answer_opd_prompts": False})  # no control here
    run_jobs(run, [PROMPTS, PROBLEMS, TEACH, SFT])
    return run


def tune_threads(runs: dict[int, Run]) -> dict[str, int]:
    """Method -> the faster number of threads, over five steps."""
    best = {}
    for name, (method, epochs, _) in METHODS.items():
        timings = {n: method(runs[epochs], n, steps=5)["wall"] for n in (1, 2)}
        best[name] = min(timings, key=lambda n, t=timings: t[n])
        print(f"{name}: seconds by threads {timings}", flush=True)
    return best


def measure(runs: dict[int, Run], repeats: int, threads: dict[str, int]) -> dict[str, Any]:
    """Run every method once per repeat, in turn. The first repeat trains all students."""
    measured: dict[str, Any] = {name: {"seconds": []} for name in METHODS}
    for repeat in range(repeats):
        for name, (method, epochs, student) in METHODS.items():
            more = {"students": STUDENTS} if name == ONCE and repeat == 0 else {}
            seconds = method(runs[epochs], threads[name], **more)
            measured[name]["seconds"].append(seconds)
            if repeat == 0:
                measured[name]["accuracy"] = accuracy(runs[epochs], runs[epochs].root / student)
            print(repeat, name, {k: round(v, 2) for k, v in seconds.items()}, flush=True)
    return measured | {"reference": accuracy(runs[1], runs[1].place("reference"))}


def summary(measured: dict[str, Any], steps: int) -> str:
    """Medians over repeats with their range, and ratios to standard OPD."""
    lines = ["| method | sampling | teacher | training | wall time | per step | standard OPD / "
             "this | accuracy |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    walls = {n: [s["wall"] for s in measured[n]["seconds"]] for n in METHODS}
    for name in METHODS:
        runs, wall = measured[name]["seconds"], statistics.median(walls[name])
        parts = [statistics.median(s[p] for s in runs) for p in ("sampling", "scoring", "training")]
        ratios = [o / w for o, w in zip(walls[LIVE], walls[name], strict=True)]
        cells = [f"{p:.2f} s" for p in parts]
        cells += [f"{wall:.2f} [{min(walls[name]):.2f}, {max(walls[name]):.2f}] s"]
        cells += [f"{wall / steps:.3f} s", spread(ratios), measured[name]["accuracy"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    further = [
        o / s["further"] for o, s in zip(walls[LIVE], measured[ONCE]["seconds"], strict=True)
    ]
    ten = STUDENTS * walls[LIVE][0] / measured[ONCE]["seconds"][0]["all"]
    lines += [
        "",
        f"A further student from the same store: {spread(further)} cheaper than standard OPD; "
        f"{STUDENTS} students with their one store: {ten:.1f}x cheaper than as many runs of "
        f"standard OPD (one measurement). The reference reaches {measured['reference']}.",
    ]
    return "\n".join(lines)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f}x [{min(ratios):.1f}, {max(ratios):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="walk", choices=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--teacher-layers", type=int, default=0)
    args = parser.parse_args()
    out = args.out.resolve()
    models = out / "models" / args.task / str(SEED)
    make_models(args.task, SEED, models)
    deepen(models / "teacher", args.teacher_layers)
    runs = {n: beginning(out, args.task, n) for n in (1, 4, 8)}
    threads = tune_threads(runs)
    measured = measure(runs, args.repeats, threads)
    (out / "speedup.json").write_text(json.dumps(measured | {"threads": threads}, indent=1))
    print(f"\nthreads: {threads}\n\n{summary(measured, runs[1].recipe.distill.steps)}")


if __name__ == "__main__":
    main()
