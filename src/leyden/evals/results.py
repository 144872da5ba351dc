"""The results of evaluations: read only as their record vouches for them, and compared in pairs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from leyden.errors import ConfigError, StoreError
from leyden.evals.statistics import paired_difference
from leyden.evals.verdict import LETTERS, RIGHT
from leyden.files import read_object, write_json
from leyden.provenance.identity import fingerprint
from leyden.provenance.records import require_record, require_same
from leyden.recipe.section import Name
from leyden.run.layout import RESULTS, results_file
from leyden.run.stage import EVALUATE, Job
from leyden.typed_json import first_field

LETTER = f"^[{''.join(LETTERS.values())}]+$"


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class Group(NamedTuple):
    """The accuracy on some of a benchmark's problems, with its 95% interval."""

    problems: int
    accuracy: Estimate


@dataclass(frozen=True)
class Tally:
    """A benchmark's verdicts summed up. Shares are in [0, 1]."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # used where results are read

    accuracy: float
    """avg@k: the mean over problems of the share of their k samples that are right."""
    interval: tuple[float, float]
    problems: int
    samples: int
    samples_per_problem: int
    right: int
    wrong: int
    unparsed: int
    truncated: int
    pass_at: dict[str, Estimate]
    """k as text -> pass@k."""
    majority: Estimate | None
    """maj@k; None where answers cannot be compared, or k is 1."""
    outcomes: Annotated[dict[str, Annotated[str, Field(pattern=LETTER)]], Field(min_length=1)]
    """Problem -> a letter per sample (``verdict.LETTERS``)."""
    not_graded: int = field(default=0, kw_only=True)
    """Samples that the machine kept from being judged; none of the accuracies counts them as
    right."""

    forgeable: int = field(default=0, kw_only=True)
    """Right programs whose tests ran in their own process, where they could have been forged."""
    sampling_error: float | None = field(default=None, kw_only=True)
    """The standard error of the accuracy from sampling alone; None with one sample each."""
    groups: dict[str, dict[str, Group]] = field(default_factory=dict, kw_only=True)
    """Field, such as subject or level -> value -> the accuracy on its problems."""


@dataclass(frozen=True)
class BenchmarkResult(Tally):
    """One model on one benchmark, and the files that show it."""

    questions: dict[str, str]
    """Problem -> a hash of what was asked: only equal questions are compared."""
    mean_tokens: float
    store: str
    """Fingerprint of the store of samples."""
    grades: str
    """sha256 of the file of grades."""


@dataclass(frozen=True)
class Divergence:
    """Reverse KL to the teacher, in nats per token; ``interval`` is a 95% bootstrap over sequences
    of the ratio of sums. ``store`` is the fingerprint of the store of sequences."""

    reverse_kl: float
    interval: tuple[float, float]
    sequences: int
    tokens: int
    store: str = ""


@dataclass(frozen=True)
class Results:
    """Everything that an evaluation of one model measured."""

    benchmarks: dict[Name, BenchmarkResult]
    divergence: Divergence | None = None

    def as_json(self) -> dict[str, Any]:
        """The values as they are written to results.json."""
        values = asdict(self)
        if self.divergence is None:
            del values["divergence"]
        return values

    @property
    def fingerprint(self) -> str:
        """A hash of all values."""
        return fingerprint(self.as_json())


def write_results(folder: Path, results: Results) -> None:
    """Write results.json. The caller's record then vouches for it."""
    write_json(folder / RESULTS, results.as_json())


def read_results(folder: Path) -> Results:
    """Results of a finished evaluation. Raises StoreError unless its record vouches for them."""
    record, path = require_record(folder, reader="this command"), results_file(folder)
    job = Job.parse(record.intent.stage)
    if job.stage != EVALUATE and not path.exists():
        raise StoreError(
            f"{folder}: holds what {job.stage} made, not an evaluation",
            hint=f"give the evaluation of that model, {EVALUATE}/{job.name or 'MODEL'} of its run",
        )
    values = read_object(path, "benchmarks")
    require_same(path, fingerprint(values), record.fingerprint)
    try:
        results = TypeAdapter(Results).validate_python(values)
    except ValidationError as error:
        raise StoreError(
            f"{path}: {first_field(error)}: another version of leyden, which kept other fields, "
            "wrote it",
            hint="use the version that wrote it, or `leyden run RECIPE --redo evaluate`",
        ) from error
    for name, one in results.benchmarks.items():
        if one.outcomes.keys() != one.questions.keys():
            raise StoreError(
                f"{path}: {name}: its outcomes are not of its questions",
                hint="restore the file from a copy, or `leyden run RECIPE --redo evaluate`",
            )
    return results


def difference(
    first: BenchmarkResult, second: BenchmarkResult, *, comparisons: int = 1
) -> Estimate | None:
    """Accuracy of ``first`` minus ``second``, paired over the problems that both answered, the same
    question under the same name; None where they share none. Of several ``comparisons``, all
    intervals hold together."""
    shared = [p for p, asked in first.questions.items() if second.questions.get(p) == asked]
    try:
        value, (low, high) = paired_difference(
            _right(first, shared), _right(second, shared), comparisons=comparisons
        )
    except ValueError:
        return None
    return Estimate(value, low, high)


def _right(result: BenchmarkResult, problems: list[str]) -> Mapping[str, list[bool]]:
    return {p: [letter == LETTERS[RIGHT] for letter in result.outcomes[p]] for p in problems}


@dataclass(frozen=True)
class Comparison:
    """Two models on one benchmark: both accuracies, the shared problems, the paired difference."""

    first: float
    second: float
    problems: int
    difference: Estimate


def compare_folders(first: Path, second: Path) -> dict[str, Comparison]:
    """Benchmark -> comparison, of every benchmark that both folders evaluated."""
    ours, theirs = (read_results(folder).benchmarks for folder in (first, second))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise ConfigError(
            f"{first} and {second}: no benchmark in common; they have "
            f"{', '.join(ours) or 'none'} and {', '.join(theirs) or 'none'}",
            hint="give folders such as RUN/evaluate/MODEL, or what `leyden evaluate MODEL` made",
        )
    comparisons = {}
    for name in shared:
        paired = difference(ours[name], theirs[name])
        if paired is None:
            raise ConfigError(
                f"{first} and {second}: {name} is not the same problems in both",
                hint="evaluate both models on one file",
            )
        problems = len(ours[name].questions.items() & theirs[name].questions.items())
        comparisons[name] = Comparison(ours[name].accuracy, theirs[name].accuracy, problems, paired)
    return comparisons
