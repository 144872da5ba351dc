"""The parts of a run's page, as its template reads them. Charts are SVG text."""

from dataclasses import dataclass

from leyden.monitor.diagnosis import Finding
from leyden.monitor.show import ShownRow
from leyden.monitor.status import JobStatus, ModelResult, RunStatus
from leyden.provenance.records import Record
from leyden.report.benchmarks import Section


@dataclass(frozen=True)
class Curve:
    """A chart with its title and what it means."""

    title: str
    meaning: str
    svg: str


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of costs: when it was best on held-out completions, and what it cost."""

    name: str
    refresh_every: int
    best: int | None
    lowest: float
    steps: int
    last: float
    cost: dict[str, float]
    warnings: list[Finding]

    @property
    def total(self) -> float:
        return sum(self.cost.values())


@dataclass(frozen=True)
class Lengths:
    """Completion lengths of a store: their histogram, their mean in tokens, and the share that
    stopped by themselves."""

    title: str
    svg: str
    mean: float
    stopped: float


@dataclass(frozen=True)
class ShownCompletion:
    """A scored rollout to be shown: its ``row``, the mean advantage of its tokens, and how many
    tokens in its middle are ``left_out``."""

    row: int
    mean: float
    shown: ShownRow
    left_out: int = 0


@dataclass(frozen=True)
class UsedModel:
    """A model of the run: its role, the place that the recipe names, and its identity."""

    role: str
    place: str
    digest: str


@dataclass(frozen=True)
class TrainedArm:
    """What an arm was trained with. Where a stage has begun, the settings are the record's."""

    name: str
    objective: str
    learning_rate: float
    steps: int
    batch_size: int
    refresh_every: int
    kept_step: int | None


@dataclass(frozen=True)
class UsedEngine:
    """An engine of a job: ``title`` names it with version and dtype. ``noise`` is by what was
    compared in its self-test, the mean difference in nats per token."""

    job: str
    title: str
    processes: int
    noise: dict[str, float]


@dataclass(frozen=True)
class WhatRan:
    """What a run is of: models, training, recipe and dates."""

    models: list[UsedModel]
    arms: list[TrainedArm]
    seed: int
    recipe: str
    engines: list["UsedEngine"]
    finished: list[str]
    """The times at which its first and last job finished, as ISO texts; empty for old runs."""


@dataclass(frozen=True)
class Tail:
    """The share of ``tokens`` with advantages below -10 nats, and their share of the sampled
    ``loss``; the mean advantage, and by how much the teacher's engine disagrees with itself."""

    tokens: float
    loss: float
    mean: float
    noise: float | None


@dataclass(frozen=True)
class Finished:
    """A finished job and its record."""

    job: str
    record: Record


@dataclass(frozen=True)
class RunPage:
    """Everything that the page shows of one run."""

    name: str
    root: str
    what: WhatRan
    status: RunStatus
    stages: list[JobStatus]
    total_seconds: float
    colours: dict[str, int]
    """Model -> number of its colour."""
    accuracy: dict[str, str]
    """Benchmark -> chart."""
    benchmarks: list[Section]
    divergence: str
    sft: list[Curve]
    curves: list[Curve]
    arms: list[ArmRow]
    lengths: list[Lengths]
    completions: list[ShownCompletion]
    tail: Tail | None
    lineage: list[Finished]


@dataclass(frozen=True)
class ComparedModel:
    """A model's result on one benchmark in every run; None where a run lacks it."""

    model: str
    results: list[ModelResult | None]


@dataclass(frozen=True)
class ComparedRuns:
    """A benchmark's table of several runs."""

    name: str
    rows: list[ComparedModel]
