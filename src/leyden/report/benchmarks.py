"""The benchmark section: every model's results, by problem and by completion."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from leyden.data.prompt_set import RenderedPrompt
from leyden.evals.results import BenchmarkResult, Estimate, difference, read_results
from leyden.evals.verdict import LETTERS, OUTCOMES, RIGHT, Grade
from leyden.report.charts import Band, heat_map
from leyden.run.layout import GRADES, grades_file
from leyden.typed_json import read_lines

BUDGET = 6_000_000  # characters of completions on one page; beyond it each is cut in the middle
SHORTEST = 300  # characters of a completion are always shown
BY_LETTER = {letter: outcome for outcome, letter in LETTERS.items()}


@dataclass(frozen=True)
class Evaluated:
    """One model's evaluation: its name on the page, and its folder."""

    name: str
    folder: Path


@dataclass(frozen=True)
class GradedCompletion:
    """A sample with its grade. ``line`` of the grades file holds the ``whole`` text."""

    sample: int
    outcome: str
    why: str
    text: str
    whole: bool
    line: int


@dataclass(frozen=True)
class GradedProblem:
    """A problem with every completion of it. ``gold`` is the reference answer."""

    id: str
    asked: str
    gold: str
    completions: list[GradedCompletion]

    @property
    def right(self) -> int:
        return sum(completion.outcome == RIGHT for completion in self.completions)


@dataclass(frozen=True)
class Row:
    """A model in the table of a benchmark. ``difference`` is to the section's base model."""

    model: str
    result: BenchmarkResult
    difference: Estimate | None

    @property
    def pass_at(self) -> Estimate:
        return self.result.pass_at[str(self.result.samples_per_problem)]


@dataclass(frozen=True)
class Section:
    """One benchmark on the page. ``problems``: model -> its graded problems."""

    name: str
    k: int
    rows: list[Row]
    heat: Markup
    not_graded: int
    problems: dict[str, list[GradedProblem]]


def collect_benchmarks(
    models: Sequence[Evaluated], problems: Mapping[str, RenderedPrompt], *, against: str
) -> list[Section]:
    """A section per benchmark. ``problems``: id -> rendered prompt. Differences are to the model
    named ``against``, where it was evaluated."""
    results = {model.name: read_results(model.folder).benchmarks for model in models}
    length = _length(sum(r.samples for own in results.values() for r in own.values()), models)
    sections = []
    for name in dict.fromkeys(name for own in results.values() for name in own):
        having = [model for model in models if name in results[model.name]]
        own = {model.name: results[model.name][name] for model in having}
        sections.append(
            Section(
                name,
                max(result.samples_per_problem for result in own.values()),
                [_row(model, own, against) for model in own],
                _heat(name, {model: result.outcomes for model, result in own.items()}),
                sum(result.not_graded for result in own.values()),
                {m.name: list(_problems(m, name, problems, length)) for m in having},
            )
        )
    return sections


def _row(model: str, results: Mapping[str, BenchmarkResult], against: str) -> Row:
    base = results.get(against) if model != against else None
    return Row(model, results[model], difference(results[model], base) if base else None)


def _heat(name: str, outcomes: Mapping[str, Mapping[str, str]]) -> Markup:
    """Problems from the one solved most, over all models, to the one solved least.

    ``outcomes``: model -> problem -> a letter per sample.
    """
    solved: dict[str, list[bool]] = {}
    for of_model in outcomes.values():
        for problem, letters in of_model.items():
            solved.setdefault(problem, []).extend(letter == LETTERS[RIGHT] for letter in letters)
    order = sorted(solved, key=lambda p: (-sum(solved[p]) / len(solved[p]), p))
    bands = [
        Band(model, [(p, _sorted(of_model.get(p, ""))) for p in order])
        for model, of_model in outcomes.items()
    ]
    return heat_map(bands, label=f"outcomes of every sample on {name}")


def _sorted(letters: str) -> list[str]:
    """Outcomes of a problem's samples, right ones first: the height of the green is avg@k."""
    return sorted((BY_LETTER[letter] for letter in letters), key=OUTCOMES.index)


def _length(completions: int, models: Sequence[Evaluated]) -> int:
    """The characters of each completion that fit; all of them where the page stays small."""
    files = [path for m in models for path in (m.folder / GRADES).glob("*.jsonl")]
    if sum(path.stat().st_size for path in files) <= BUDGET:
        return BUDGET
    return max(SHORTEST, BUDGET // max(1, completions))


def _problems(
    model: Evaluated, name: str, problems: Mapping[str, RenderedPrompt], length: int
) -> Iterator[GradedProblem]:
    grouped: dict[str, list[GradedCompletion]] = {}
    for number, grade in enumerate(read_lines(grades_file(model.folder, name), Grade), start=1):
        text = _cut(grade.text, length)
        grouped.setdefault(grade.prompt_id, []).append(
            GradedCompletion(
                grade.sample, grade.outcome, grade.why, text, text == grade.text, number
            )
        )
    for problem, completions in grouped.items():
        asked = problems.get(problem)
        yield GradedProblem(
            problem.partition("/")[2],
            _cut(asked.text, 3000) if asked else "",
            (asked.answer or "") if asked else "",
            completions,
        )


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
