"""The benchmark section: every model's results, by problem and by completion."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from leyden.data.prompt_set import RenderedPrompt
from leyden.evals.results import BenchmarkResult, Estimate, Group, difference, read_results
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
class Question:
    """A problem with every model's completions of it. ``gold`` is the reference answer."""

    id: str
    asked: str
    gold: str
    answers: dict[str, list[GradedCompletion]]

    @property
    def differ(self) -> bool:
        """Whether models solve it to different shares."""
        shares = {
            sum(one.outcome == RIGHT for one in made) / len(made) for made in self.answers.values()
        }
        return len(shares) > 1


@dataclass(frozen=True)
class Row:
    """A model in the table of a benchmark. ``difference`` is to the section's base model, and
    ``corrected`` where several arms are compared with it."""

    model: str
    result: BenchmarkResult
    difference: Estimate | None
    corrected: Estimate | None

    @property
    def pass_at(self) -> Estimate:
        return self.result.pass_at[str(self.result.samples_per_problem)]


@dataclass(frozen=True)
class Section:
    """One benchmark on the page. ``compared`` arms are compared with its base model."""

    name: str
    k: int
    rows: list[Row]
    heat: Markup
    compared: int
    questions: list[Question]

    @property
    def not_graded(self) -> int:
        return sum(row.result.not_graded for row in self.rows)

    @property
    def outcomes(self) -> list[str]:
        """The outcomes that any completion has."""
        letters = {
            one for row in self.rows for made in row.result.outcomes.values() for one in made
        }
        return [outcome for outcome in OUTCOMES if LETTERS[outcome] in letters]

    @property
    def groups(self) -> dict[str, dict[str, dict[str, Group]]]:
        """Field -> value -> model -> the accuracy on its problems."""
        table: dict[str, dict[str, dict[str, Group]]] = {}
        for row in self.rows:
            for field, values in row.result.groups.items():
                for value, group in values.items():
                    table.setdefault(field, {}).setdefault(value, {})[row.model] = group
        return table


def collect_benchmarks(
    models: Sequence[Evaluated],
    problems: Mapping[str, RenderedPrompt],
    *,
    against: str,
    arms: Collection[str] | None = None,
) -> list[Section]:
    """A section per benchmark. ``problems``: id -> rendered prompt.

    Differences are to the model named ``against``, where it was evaluated; those of ``arms``, by
    default of all models, are also corrected for their number.
    """
    results = {model.name: read_results(model.folder).benchmarks for model in models}
    length = _length(sum(r.samples for own in results.values() for r in own.values()), models)
    sections = []
    for name in dict.fromkeys(name for own in results.values() for name in own):
        having = [model for model in models if name in results[model.name]]
        own = {model.name: results[model.name][name] for model in having}
        compared = [m for m in own if m != against and (arms is None or m in arms)]
        sections.append(
            Section(
                name,
                max(result.samples_per_problem for result in own.values()),
                [_row(model, own, against, compared) for model in own],
                _heat(name, {model: result.outcomes for model, result in own.items()}),
                len(compared) if against in own else 0,
                _questions(having, name, problems, length),
            )
        )
    return sections


def _row(
    model: str, results: Mapping[str, BenchmarkResult], against: str, compared: Sequence[str]
) -> Row:
    result, base = results[model], results.get(against) if model != against else None
    if base is None:
        return Row(model, result, None, None)
    many = len(compared) if model in compared else 1
    corrected = difference(result, base, comparisons=many) if many > 1 else None
    return Row(model, result, difference(result, base), corrected)


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


def _questions(
    models: Sequence[Evaluated], name: str, problems: Mapping[str, RenderedPrompt], length: int
) -> list[Question]:
    answers: dict[str, dict[str, list[GradedCompletion]]] = {}
    for model in models:
        lines = read_lines(grades_file(model.folder, name), Grade)
        for number, grade in enumerate(lines, start=1):
            text = _cut(grade.text, length)
            whole = text == grade.text
            made = GradedCompletion(grade.sample, grade.outcome, grade.why, text, whole, number)
            answers.setdefault(grade.prompt_id, {}).setdefault(model.name, []).append(made)
    return [_question(name, problems.get(name), made) for name, made in answers.items()]


def _question(
    name: str, asked: RenderedPrompt | None, answers: dict[str, list[GradedCompletion]]
) -> Question:
    text, gold = (_cut(asked.text, 3000), asked.answer or "") if asked else ("", "")
    return Question(name.partition("/")[2], text, gold, answers)


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
