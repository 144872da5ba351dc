"""Refuse to go on where a run is no longer what its recipe asks for. No model is loaded."""

from collections.abc import Collection, Iterator

from leyden.engines.base import require_offer
from leyden.engines.open import open_engine
from leyden.errors import ConfigError, ConsistencyError
from leyden.evals.results import read_results
from leyden.models.folder import check_folder
from leyden.models.weights import check_weights, has_weights
from leyden.pipeline.ray_hands import import_ray
from leyden.run.artifacts import open_artifact, open_prompts
from leyden.run.graph import Graph, resolve
from leyden.run.lineage import check_kept
from leyden.run.run import TEACHER
from leyden.run.stage import ROLLOUT, SCORE, TEACH, Artifact, Job
from leyden.run.teachers import teacher_consistency


def check_run(graph: Graph, jobs: Collection[Job]) -> None:
    """Refuse drift of any job that was begun, missing models of ``jobs``, and a second teacher."""
    check_kept(graph, graph.jobs)
    check_ready(graph, [job for job in jobs if not graph.finished(job)])


def check_ready(graph: Graph, jobs: Collection[Job]) -> list[str]:
    """Refuse where a model that ``jobs`` will use is missing or damaged, or two are not one
    teacher, or ranks cannot open an engine. Returns a sentence for each model's weights.

    In a dry run the weights of a Hub model may not have been fetched. Nothing is said of them then.
    """
    away = weights_away(graph, jobs)
    for job in jobs:
        for role in graph.outside_models(job):
            if role not in away:
                graph.identity(role)
        _check_ranks(graph, job)
        _check_offers(graph, job)
        if not away and not any(p in jobs or not graph.finished(p) for p in graph.parents(job)):
            graph.stage(job).check(graph, graph.intent(job))
    if SCORE in jobs and not away:
        teacher_consistency(graph, keep_completions=TEACH not in jobs)
    return list(look_at_weights(graph, jobs))


def weights_away(graph: Graph, jobs: Collection[Job]) -> list[str]:
    """The models that ``jobs`` use whose weights are on the Hub, and not fetched in a dry run."""
    roles = sorted({role for job in jobs for role in graph.outside_models(job)})
    return [role for role in roles if not graph.run.weights and not _are_here(graph, role)]


def _are_here(graph: Graph, role: str) -> bool:
    return graph.run.is_local(role) or has_weights(graph.run.place(role))


def look_at_weights(graph: Graph, jobs: Collection[Job]) -> Iterator[str]:
    """Check the weights of the models that ``jobs`` will use; a sentence for each."""
    away = weights_away(graph, jobs)
    for role in sorted({role for job in jobs for role in graph.outside_models(job)}):
        place = graph.run.place(role)
        if role in away:
            yield f"{role}: weights of {graph.run.address(role)}, fetched when the run begins"
        else:
            check_folder(place)
            yield f"{role}: {check_weights(place):,} bytes of weights in {place}"


def _check_offers(graph: Graph, job: Job) -> None:
    """Refuse where an engine lacks an ability that the job needs, or is not installed here. A
    server may be started later."""
    run, stage = graph.run, graph.stage(job)
    for role in stage.engines(run.recipe, job.name):
        if role == "reference":  # it is scored by the trainer's own forward
            continue
        engine = run.engine(role, TEACHER)  # its model is not looked at
        if run.spec(role, TEACHER).choice.kind != "server":
            engine.numerics()
        for ability in stage.abilities(run.recipe, job.name):
            require_offer(engine, ability, f"{job}, {role}")


def _check_ranks(graph: Graph, job: Job) -> None:
    """Ranks are processes of their own, which a function of this process does not reach."""
    run, stage = graph.run, graph.stage(job)
    ranks, own_engine = run.recipe.execution.ranks, run.open_engine is not open_engine
    if stage.trains and ranks > 1 and own_engine and stage.engines(run.recipe, job.name):
        raise ConfigError(
            f"{job}: execution.ranks = {ranks}, and its engine is opened by a function of this "
            "process",
            hint="set execution.ranks = 1",
        )
    execution = run.recipe.execution
    if stage.helps and execution.cluster == "ray":
        import_ray()
    if stage.helps and own_engine and (execution.workers > 1 or execution.cluster != "none"):
        raise ConfigError(
            f"{job}: execution.workers = {execution.workers}, and its engine is opened by a "
            "function of this process",
            hint="set execution.workers = 1",
        )


def check_whole(graph: Graph, job: Job) -> None:
    """Raise a StoreError unless the finished artifact of ``job`` is the one that its record names.

    Its bytes are hashed; the values in them are not looked at.
    """
    match graph.stage(job).artifact:
        case Artifact.PROMPTS:
            open_prompts(graph, job)
        case Artifact.COMPLETIONS:
            open_artifact(graph, job)
        case Artifact.SCORES:  # read with the rollouts, row for row
            open_artifact(graph, job)
            open_artifact(graph, ROLLOUT)
        case Artifact.MODEL:
            graph.fingerprint(job)
        case Artifact.RESULTS:
            read_results(graph.folder(job))


def check_unchanged(graph: Graph, job: Job) -> None:
    """Refuse where an outside model of ``job`` changed since its intent was written.

    The run is resolved anew, so that models are identified as they are now.
    """
    now = resolve(graph.run)
    begun = now.begun(job)
    assert begun is not None, "a job writes its intent first"
    for role, identity in begun.models.items():
        differ = identity.differences(now.identity(role))
        if differ:
            raise ConsistencyError(
                f"{graph.run.place(role)}: its {', '.join(differ)} changed while {job} was running",
                hint=f"restore it and `leyden run RECIPE --redo {job}`",
            )
