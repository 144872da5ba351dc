"""Write the page: one HTML file with everything inline. Text of models is always escaped."""

import hashlib
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from leyden.data.prompt_set import RenderedPrompt, read_prompt_set
from leyden.errors import StoreError
from leyden.files import write_atomic
from leyden.provenance.records import Record, read_intent, read_record, require_record
from leyden.report.benchmarks import Evaluated, collect_benchmarks
from leyden.report.collect import collect_run, compare
from leyden.run.artifacts import open_prompts
from leyden.run.graph import resolve
from leyden.run.layout import RECIPE, REPORT
from leyden.run.run import Run
from leyden.run.stage import EVALUATE, PROBLEMS, PROMPTS, SFT, Job, distill

CLIP = 5.0  # nats; the advantage at which a token's colour is full
FULL = 50  # percent of the colour, under which text stays readable


def write_report_of(folders: list[Path], out: Path | None) -> Path:
    """Write the report of runs, or of evaluations. Raises StoreError where ``folders`` are neither,
    or some of both."""
    runs = [folder for folder in folders if (folder / RECIPE).is_file()]
    for folder in folders:
        if folder not in runs:
            _check_evaluation(folder)
    if not runs:
        return write_evaluation_report(folders, out)
    if len(runs) < len(folders):
        other = next(folder for folder in folders if folder not in runs)
        raise StoreError(
            f"{runs[0]} is a run and {other} is an evaluation, and a report is about one kind",
            hint="give runs alone, or evaluations alone: those of a run are RUN/evaluate/MODEL",
        )
    return write_report([Run.open(folder) for folder in runs], out)


def _check_evaluation(folder: Path) -> None:
    begun = read_intent(folder)
    if begun is None or Job.parse(begun.stage).stage != EVALUATE:
        raise StoreError(
            f"{folder}: is neither a run nor an evaluation",
            hint="give a folder that `leyden run` or `leyden evaluate MODEL` made",
        )
    if read_record(folder) is None:
        raise StoreError(
            f"{folder}: the evaluation is not finished",
            hint="the command that began it goes on from there",
        )


def write_report(runs: list[Run], out: Path | None) -> Path:
    """Write the report of ``runs`` to ``out``, by default into the first run's folder."""
    graphs = [resolve(run) for run in runs]
    if not any(graph.finished(PROMPTS) for graph in graphs):
        raise StoreError(
            f"{runs[0].root}: nothing is finished yet", hint="run the recipe's first stages"
        )
    shown = [collect_run(graph) for graph in graphs]
    comparison = compare([run.status for run in shown])
    return _write("page.html.j2", out or runs[0].root / REPORT, runs=shown, comparison=comparison)


def write_evaluation_report(folders: list[Path], out: Path | None) -> Path:
    """Write the benchmark section for evaluations side by side: folders that `leyden evaluate
    MODEL` made, or ``RUN/evaluate/MODEL``.

    Differences are to the first folder's model.
    """
    names = _distinct([folder.resolve().name for folder in folders])
    models = [Evaluated(name, folder) for name, folder in zip(names, folders, strict=True)]
    records = [require_record(folder, reader="a report") for folder in folders]
    problems: dict[str, RenderedPrompt] = {}
    for folder, record in zip(folders, records, strict=True):
        problems |= _problems(folder, record)
    return _write(
        "evaluation.html.j2",
        out or folders[0] / REPORT,
        models=[
            vars(model) | {"record": record, "digest": _model_digest(record)}
            for model, record in zip(models, records, strict=True)
        ],
        shown=collect_benchmarks(models, problems, against=names[0]),
        against=names[0],
    )


def _problems(folder: Path, record: Record) -> dict[str, RenderedPrompt]:
    """An evaluation's problems, which it keeps itself, or its run keeps for all its models."""
    if "problems" in record.counts:
        return read_prompt_set(folder / str(PROBLEMS), expected=record.counts["problems"])
    run = Run.open(folder.resolve().parents[1])
    return open_prompts(resolve(run), PROBLEMS)


def _model_digest(record: Record) -> str:
    """The identity of the model that was evaluated: from outside, or made by the run."""
    name, models = Job.parse(record.intent.stage).name, record.intent.models
    outside = models.get(name) or (None if name else models["model"])
    inputs = record.intent.inputs
    return outside.digest if outside else inputs.get(str(distill(name))) or inputs[str(SFT)]


def _distinct(names: list[str]) -> list[str]:
    return [n if names.count(n) == 1 else f"{n} ({i + 1})" for i, n in enumerate(names)]


def _write(template: str, path: Path, **shown: Any) -> Path:
    loader = PackageLoader("leyden", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["colour"] = token_colour
    script = files("leyden.report").joinpath("page.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The page may run this script and no other, whatever a model wrote.
    allowed = {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    page = environment.get_template(template).render(**allowed, **shown)
    write_atomic(path, page.encode("utf-8", "replace"))  # a model may write half a character
    return path


def token_colour(advantage: float) -> str:
    """CSS background of a token: red where the teacher disagrees, green where it goes further."""
    strength = min(1.0, abs(advantage) / CLIP) ** 0.6
    hue = "var(--bad)" if advantage < 0 else "var(--good)"
    return f"color-mix(in srgb, {hue} {FULL * strength:.0f}%, transparent)"
