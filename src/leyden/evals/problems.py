"""Read a benchmark's problems, with their answers or tests, from a file or the Hub."""

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from leyden.data.prompt_set import RenderedPrompt
from leyden.data.sources import Prompt, find_field, scalar, take, text_id, written
from leyden.data.tables import Row, files_of, read_rows
from leyden.errors import ConfigError
from leyden.evals.boxes import last_boxed
from leyden.evals.code_tests import read_tests
from leyden.models.hub import data_files
from leyden.recipe.benchmarks import Benchmark, Fields, Problems

OF_ROW = re.compile(r"\{row\.([\w.]+)\}")
LABELS = "labels"  # of a problem whose row is not kept
KINDS = ("subject", "level", "difficulty", "category", "type", "topic", "domain", "platform")
NUM_EXAMPLES = 3  # asserts that a prompt shows; MBPP's own prompt shows as many


@dataclass(frozen=True)
class Problem(Prompt):
    """A problem of a benchmark.

    ``text`` is the model's prompt, ``question`` the same without instructions. ``row`` is the
    file's row for a grader of the user's, else it holds ``tests`` for code and nothing for
    mathematics.
    """

    question: str = ""


def problem_files(problems: Problems) -> list[Path]:
    """The files to read, in order. Those of the Hub are fetched."""
    if problems.places:
        return [path for place in problems.places for path in files_of(place)]
    assert problems.hub is not None
    return data_files(problems.hub)


def read_problems(benchmark: Benchmark) -> list[Problem]:
    """All problems in order. Raises ConfigError with the file and line of the first bad row."""
    source = benchmark.problems
    rows = [
        (f"{path}:{number}", row)
        for path in problem_files(source)
        for number, row in read_rows(path)
        if _in_window(row, source, f"{path}:{number}")
    ]
    problems = take(rows, lambda row, where: _problem(row, benchmark, where), source)
    if not problems:
        files = ", ".join(map(str, problem_files(source)))
        reason = (
            f"none of its {len(rows)} rows are left after skip = {source.skip}"
            if rows
            else ("it holds no rows" + (" in the window of dates" if source.date_field else ""))
        )
        raise ConfigError(
            f"benchmark {benchmark.name}: {files}: {reason}",
            hint="check problems.skip, first_date and last_date"
            if rows or source.date_field
            else "give a file with a problem per row",
        )
    return problems


def _problem(row: Row, benchmark: Benchmark, where: str) -> Problem:
    source = benchmark.problems
    question = written(row, _field(row, source.prompt_field, where), where)
    answer = _answer(row, source, where) if source.answer_field else None
    name = text_id(question)
    if source.id_field:
        name = scalar(row, _field(row, source.id_field, where), where)
    content: Row = {} if benchmark.grader in ("math", "exact", "literal") else row
    if benchmark.grader == "code":
        content = {"tests": read_tests(row, where)}
    if content is not row and (labels := labels_of(row)):
        content[LABELS] = labels
    text = _asked(question, row, source.instruction, where)
    return Problem(name, text, answer, content, question=question)


def labels_of(row: Row) -> dict[str, str]:
    """The fields of a row that say of which kind a problem is, as texts."""
    kept = row.get(LABELS)
    fields = kept if isinstance(kept, dict) else {name: row.get(name) for name in KINDS}
    scalars = {k: v for k, v in fields.items() if isinstance(v, str | int | float) and v != ""}
    return {name: str(value) for name, value in scalars.items()}


def problem_of(prompt: RenderedPrompt) -> Row:
    """A rendered problem as a grader gets it: the file's row, with ``prompt`` and perhaps
    ``answer``."""
    answer = {} if prompt.answer is None else {"answer": prompt.answer}
    row = {name: value for name, value in prompt.row.items() if name != LABELS}
    return {**row, "prompt": prompt.text, **answer}


def _field(row: Row, names: Fields, where: str) -> str:
    """The first of ``names`` that the row has."""
    candidates = (names,) if isinstance(names, str) else names
    for name in candidates:
        if find_field(row, name) is not None:
            return name
    empty = next((f"its {name} is null" for name in candidates if name in row), "")
    raise ConfigError(
        f"{where}: {empty or 'has no field ' + ' or '.join(map(repr, candidates))}; it has "
        f"{', '.join(map(repr, sorted(row)))}",
        hint="name the right field in the recipe (prompt_field, answer_field, id_field); all "
        "rows of a file have answers, or all have tests",
    )


def _answer(row: Row, source: Problems, where: str) -> str:
    assert source.answer_field is not None
    name = _field(row, source.answer_field, where)
    value = find_field(row, name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, int) else scalar(row, name, where)
    if source.answer_after is not None and source.answer_after in text:
        text = text.rpartition(source.answer_after)[2]
    inside = last_boxed(text)
    text = (text if inside is None else inside).strip()
    if not text:
        raise ConfigError(f"{where}: {name} holds no answer", hint="correct that line")
    return text


def _asked(question: str, row: Row, instruction: str, where: str) -> str:
    """The instruction around the question, unless the question already holds it."""
    for name in dict.fromkeys(OF_ROW.findall(instruction)):
        instruction = instruction.replace(f"{{row.{name}}}", scalar(row, name, where))
    before, _, after = instruction.partition("{prompt}")
    if after.strip() and "{" not in after.replace("{}", "") and after.strip() in question:
        return question
    filled = {"{examples}": _examples(row, question), "{starter}": _starter(row)}
    for mark, text in filled.items():
        before, after = before.replace(mark, text), after.replace(mark, text)
    return before + question + after


def _examples(row: Row, question: str) -> str:
    shown = [test for test in row.get("test_list") or [] if isinstance(test, str)][:NUM_EXAMPLES]
    if not shown or "assert" in question:
        return ""
    return "\n\nIt must pass these tests:\n\n" + "\n".join(shown)


def _starter(row: Row) -> str:
    if row.get("starter_code"):
        return f"Complete this code:\n\n```python\n{row['starter_code']}\n```"
    return "Read from standard input and write to standard output."


def _in_window(row: Row, source: Problems, where: str) -> bool:
    if not source.first_date and not source.last_date:
        return True
    assert source.date_field is not None
    value = find_field(row, _field(row, source.date_field, where))
    try:
        day = datetime.datetime.fromisoformat(str(value)).date()
    except ValueError as error:
        raise ConfigError(
            f"{where}: {source.date_field} = {value!r} is not a date",
            hint="dates are written 2025-02-01",
        ) from error
    first, last = source.first_date or "0001-01-01", source.last_date or "9999-12-31"
    return datetime.date.fromisoformat(first) <= day <= datetime.date.fromisoformat(last)
