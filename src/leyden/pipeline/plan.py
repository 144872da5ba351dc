"""What a run would do, and what each job would make, before anything is sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from leyden.pipeline.drift import check_ready
from leyden.pipeline.forecast import Forecast
from leyden.pipeline.foresight import foresee
from leyden.pipeline.pipeline import jobs_until, settled
from leyden.pipeline.redo import MOVED, check_redo, to_redo
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import Job


class Plan(NamedTuple):
    """What a run would do: (job, what becomes of it), sentences about its models and prompts, and
    what each job will make."""

    jobs: list[tuple[Job, str]]
    sentences: list[str]
    forecasts: Mapping[Job, Forecast]


def planned(run: Run, *, redo: Sequence[str] = (), until: str | None = None) -> Plan:
    """The plan of all jobs that a run would touch now.

    A job is to "do", to "skip: done" or only "moved to superseded/". All prompts are read and
    rendered, all weights looked at. Of a Hub model that nothing was made from yet, only the small
    files are fetched. Raises what a run would raise before it samples.
    """
    graph = resolve(run)
    if not any(graph.begun(job) for job in graph.jobs):
        graph = resolve(replace(run, weights=False))
    again = to_redo(graph, redo)
    check_redo(graph, again)
    jobs = jobs_until(graph, until)
    todo = [job for job in jobs if job in again or not settled(graph.record(job))]
    weights, inputs = check_ready(graph, todo), foresee(graph, todo)
    states = {job: "do" if job in todo else "skip: done" for job in jobs}
    moved = {job: MOVED for job in again if job not in states and graph.folder(job).exists()}
    touched = [(job, (states | moved)[job]) for job in graph.jobs if job in states or job in moved]
    return Plan(touched, [*weights, *inputs.sentences], inputs.forecasts)
