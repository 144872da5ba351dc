"""Grade completions while others are still being sampled.

What is graded goes into the cache of verdicts, where the evaluation finds it when all samples are
there. So nothing depends on this, and it needs no part in the evaluation's own order.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from leyden.data.prompt_set import RenderedPrompt
from leyden.errors import LeydenError
from leyden.evals.grade_workers import GradeRequest
from leyden.evals.grading import grade_completions
from leyden.evals.problems import problem_of
from leyden.models.vocabulary import continuation_text
from leyden.recipe.benchmarks import Benchmark, Evaluate
from leyden.store.claim import committed_names
from leyden.store.plan import Unit, read_plan
from leyden.store.unit import open_committed
from leyden.store.writer import STORE, read_header

LOOK_SECONDS = 2.0
CACHED = ("math", "code")  # graders whose verdicts are kept


@dataclass(frozen=True)
class Questions:
    """Makes rows of a store of completions into requests to graders."""

    problems: Mapping[str, RenderedPrompt]
    tokenizer: PreTrainedTokenizerBase

    def request(self, row: Mapping[str, Any]) -> GradeRequest:
        """The request for one completion, its text without the stop token."""
        name, ended = row["prompt_id"], row["finish_reason"] == "stop"
        text = completion_text(self.tokenizer, row)
        return GradeRequest(name, problem_of(self.problems[name]), text, ended)


def completion_text(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> str:
    """The completion's text without its stop token."""
    ids = list(row["completion_ids"])
    return continuation_text(tokenizer, ids[:-1] if row["finish_reason"] == "stop" else ids)


@contextmanager
def grading_meanwhile(
    folder: Path, questions: Questions, benchmark: Benchmark, settings: Evaluate
) -> Iterator[None]:
    """Grade units of the store in ``folder`` as they are committed, until the context ends."""
    if benchmark.grader not in CACHED:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(over, folder, questions, benchmark, settings), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()  # what it has begun is not graded a second time


def _watch(
    over: threading.Event,
    folder: Path,
    questions: Questions,
    benchmark: Benchmark,
    settings: Evaluate,
) -> None:
    graded: set[str] = set()
    while not over.wait(LOOK_SECONDS):
        try:
            for unit in _new_units(folder, graded):
                graded.add(unit.name)
                rows = open_committed(folder, unit).to_pylist()
                grade_completions([questions.request(row) for row in rows], benchmark, settings)
                if over.is_set():
                    return
        except LeydenError as error:  # the evaluation meets it again, and says so
            logging.getLogger(__name__).debug("%s: %s", folder, error)
            return


def _new_units(folder: Path, graded: set[str]) -> list[Unit]:
    names = committed_names(folder) - graded
    if not names or not (folder / STORE).exists():
        return []
    return [u for u in read_plan(folder, read_header(folder)["plan"]) if u.name in names]
