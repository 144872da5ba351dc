"""Write the page: one HTML file with everything inline; what a model wrote is always escaped."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from leyden.errors import StoreError
from leyden.files import write_atomic
from leyden.report.collect import collect_run, compare
from leyden.run import Run

PAGE = "report.html"
CLIP = 5.0  # nats; the advantage at which a token's colour is full


def write_report(runs: list[Run], out: Path | None) -> Path:
    """Write the report of ``runs`` to ``out``, by default into the first run's folder."""
    if all(run.record("prompts") is None for run in runs):
        raise StoreError(
            f"{runs[0].root}: nothing is finished yet", hint="run the recipe's first stages"
        )
    loader = PackageLoader("leyden", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["colour"] = token_colour
    shown = [collect_run(run) for run in runs]
    page = environment.get_template("page.html.j2")
    html = page.render(runs=shown, comparison=compare([run["status"] for run in shown]))
    path = out or runs[0].root / PAGE
    write_atomic(path, html.encode())
    return path


def token_colour(advantage: float) -> str:
    """CSS background of a token: red where the teacher disagrees, green where it goes further."""
    strength = min(1.0, abs(advantage) / CLIP) ** 0.6
    hue = "var(--bad)" if advantage < 0 else "var(--good)"
    return f"color-mix(in srgb, {hue} {100 * strength:.0f}%, transparent)"
