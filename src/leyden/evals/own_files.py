"""Benchmarks that a command line names: known ones, and files of the user's."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from leyden.data.sources import ANSWER_NAMES, PROMPT_NAMES, find_field
from leyden.data.tables import Row, read_rows
from leyden.errors import ConfigError
from leyden.evals.code_tests import READERS, read_tests
from leyden.evals.literals import is_literal
from leyden.recipe.benchmarks import known_benchmarks

LOOKED_AT = 200  # rows, to see what a file holds
QUESTIONS = (*PROMPT_NAMES, "question_content", "description")
IDS = ("id", "task_id", "question_id", "unique_id")
FORMULA = re.compile(r"\d|\\[a-zA-Z]|[=^_<>]|^\W*[A-Za-z]\W*$")
OTHERWISE = re.compile(  # dates, times and versions, formulas of chemistry
    r"\d{4}-\d\d-\d\d.*|\d{1,2}:\d\d.*|v?\d+(\.\d+){2,}|(?=.*\d)([A-Z][a-z]?\d*){2,}"
)
CRUXEVAL: Row = {  # predict the output. Source: Gu et al. 2024 (arXiv 2401.03065)
    "prompt_field": "code",
    "answer_field": "output",
    "instruction": "Here is a Python function.\n\n```python\n{prompt}\n```\n\nWhich value does "
    "`f({row.input})` return? Think first if you like, then write the value as a Python literal "
    "between [ANSWER] and [/ANSWER].",
}
Tell = Callable[[str], None]


def benchmark_values(text: str, tell: Tell = lambda sentence: None) -> Row:
    """The fields of a benchmark that a command line calls ``NAME``, ``NAME=FILE`` or ``FILE``.

    NAME is a known benchmark. FILE alone is read by the fields that its rows have; ``tell`` gets a
    sentence with the grader that fits them, and why.
    """
    name, equals, file = text.rpartition("=")
    if equals and name in known_benchmarks():
        return {"name": name, "problems": {"file": file}}
    if equals and Path(file).is_file():
        return {"name": name, **own_values(Path(file), tell)}
    if text in known_benchmarks():
        return {"name": text}
    path = Path(text)
    if not path.is_file():
        raise ConfigError(
            f"{text}: neither a known benchmark nor a file",
            hint=f"known are {', '.join(known_benchmarks())}; or give FILE, or NAME=FILE",
        )
    stem = re.sub(r"[^a-z0-9_-]+", "-", path.name.partition(".")[0].lower()).strip("-_")
    return {"name": stem or "own", **own_values(path, tell)}


def own_values(path: Path, tell: Tell) -> Row:
    """The fields of a benchmark for a user's own file, by those of its first rows."""
    rows = [row for _, row in islice(read_rows(path), LOOKED_AT)]
    # Fields that any of the rows has: the first may lack an answer.
    row = {
        name: value for one in reversed(rows) for name, value in one.items() if value is not None
    }
    place: Row = {"file": str(path), **_id_field(row)}
    if row.keys() >= {"code", "input", "output"} and "answer" not in row:
        tell(f"{path}: has code, input and output, as CRUXEval: graded as a Python value")
        return {"grader": "literal", "problems": CRUXEVAL | place}
    questions = tuple(name for name in QUESTIONS if find_field(row, name) is not None)
    place["prompt_field"] = questions or "prompt"
    answers = tuple(name for name in ANSWER_NAMES if find_field(row, name) is not None)
    tests = _tests_field(rows, needed=not answers)
    if tests or not answers:  # without either, the reader says what is missing
        if tests:
            tell(f"{path}: graded by running programs, by the tests in {tests!r}")
        if "prompt" not in row:  # a prompt of the user's says itself how to answer
            place["instruction"] = known_benchmarks()["livecodebench-v6"]["problems"]["instruction"]
        return {"grader": "code", "problems": place}
    grader, why = fitting_grader([find_field(one, answers[0]) for one in rows])
    tell(f"{path}: graded by {grader}, as {why}")
    return {"grader": grader, "problems": place | {"answer_field": answers}}


def _tests_field(rows: list[Row], *, needed: bool) -> str | None:
    """The field that holds tests, as a reader can read them or if there are no answers."""
    for row in rows:
        if name := next((name for name in READERS if row.get(name) not in (None, "")), None):
            try:
                read_tests(row, "")
            except ConfigError:
                return name if needed else None
            return name
    return None


def _id_field(row: Row) -> Row:
    return next(({"id_field": name} for name in IDS if name in row), {})


def fitting_grader(answers: list[Any]) -> tuple[str, str]:
    """The grader that fits the answers of a benchmark, and why, for people."""
    texts = [str(answer).strip() for answer in answers if answer is not None]
    words = [text for text in texts if not is_mathematics(text)]
    values = [text for text in texts if is_literal(text) and re.search(r"['\":]|True|None", text)]
    first = f"such as {(words or values or [''])[0][:40]!r}"
    if values and all(map(is_literal, texts)):
        return "literal", f"all {len(texts):,} answers are Python values, {first}"
    if words and 2 * len(words) >= len(texts):
        return "exact", f"{len(words):,} of {len(texts):,} answers are no mathematics, {first}"
    return "math", f"{len(texts) - len(words):,} of {len(texts):,} answers are mathematics"


def is_mathematics(text: str) -> bool:
    """Whether an answer looks like a number, a formula or the letter of an option."""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\[a-z]+\{[^{}]*\}", "", text))
    prose = len(words) > 2 or OTHERWISE.fullmatch(text) is not None
    return FORMULA.search(text) is not None and not prose
