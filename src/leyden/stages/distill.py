"""Stage 5: a student per arm trains on the stored scores alone, with no teacher loaded; or, with
``refresh_every``, on its own fresh completions and a live teacher."""

import logging
from contextlib import closing

from leyden.data.completions import select_completions
from leyden.data.prompt_set import HELDOUT, OPD_SPLIT, SFT_SPLIT
from leyden.data.scored import open_pair
from leyden.distributed.ranks import Ranks, join
from leyden.engines.base import Engine
from leyden.engines.open import open_student
from leyden.inference.probe import measure_completions, probe_requests
from leyden.inference.refresh import Refresher
from leyden.monitor.diagnosis import diagnose_arm
from leyden.provenance.identity import derive_seed
from leyden.provenance.records import Intent, Record
from leyden.recipe.training import Objective
from leyden.run.artifacts import open_artifact, open_prompts, prompt_facts
from leyden.run.fits import check_vocabulary
from leyden.run.graph import Graph
from leyden.run.layout import CHECKPOINTS, METRICS
from leyden.run.run import REFERENCE, TEACHER
from leyden.run.stage import ROLLOUT, SCORE, TEACH, Job
from leyden.telemetry.clock import Clock
from leyden.telemetry.metrics import trained_tokens
from leyden.train.checkpoint import kept_steps
from leyden.train.loop import Hooks, Sequences, Training
from leyden.train.save import train_model, trained_record
from leyden.train.student import StudentLM


def run_distill(graph: Graph, intent: Intent) -> Record:
    """Make ``distill/ARM/model`` from the reference policy, with metrics and checkpoints."""
    run, job = graph.run, Job.parse(intent.stage)
    settings, execution = run.arms()[job.name], run.recipe.execution
    if settings.refresh_every:
        check_vocabulary(graph, TEACHER)
    data, heldout = _data(graph, settings)
    ranks = join(execution.device)
    hooks = ArmHooks(graph, job, settings, intent.digest, ranks)
    progress = run.progress(intent.stage, settings.steps, "steps")
    with closing(hooks), progress as advance:
        training = Training(
            data=data,
            heldout=heldout,
            settings=settings,
            seed=hooks.seed,
            folder=hooks.folder,
            execution=execution,
            hooks=hooks,
            clock=hooks.clock,
            ranks=ranks,
            progress=advance,
        )
        place = run.place(REFERENCE)
        facts = prompt_facts(graph)
        point = train_model(training, start=place, tokenizer=place, facts=facts)
    counts = {
        "rows": settings.batch_size * point.step if settings.refresh_every else len(data),
        "tokens": trained_tokens(hooks.folder / METRICS),
        "steps": point.step,
        "kept_step": point.kept_step,
        "objective": settings.objective,
    }
    return trained_record(intent, hooks.folder, counts, hooks.clock)


class ArmHooks(Hooks):
    """An arm's additions to the loop: fresh rollouts, held-out completions and warnings."""

    def __init__(
        self, graph: Graph, job: Job, settings: Objective, origin: str, ranks: Ranks
    ) -> None:
        self.graph, self.job, self.settings = graph, job, settings
        self.refreshes = settings.refresh_every > 0
        self.origin, self.ranks = origin, ranks
        self.folder, self.clock = graph.folder(job), Clock()
        self.recipe, self.facts = graph.run.recipe, prompt_facts(graph)
        self.seed = derive_seed(self.recipe.seed, "distill") % 2**32  # one order for all arms
        prompts = [p for p in open_prompts(graph).values() if p.split == HELDOUT]
        self.probed = probe_requests(prompts, settings.heldout_samples, seed=self.recipe.seed)
        self.warned: set[str] = set()
        self.engine: Engine | None = None
        self.refresher: Refresher | None = None

    def begin(self, student: StudentLM) -> None:
        engine = open_student(student.model, self.recipe.execution, self.facts.vocab_size)
        self.engine = engine
        if self.settings.refresh_every:
            self.refresher = Refresher(
                graph=self.graph,
                student=engine,
                settings=self.settings,
                seed=self.seed,
                folder=self.folder,
                origin=self.origin,
                clock=self.clock,
                ranks=self.ranks,
            )

    def close(self) -> None:
        """Give back the memory of a live teacher."""
        if self.refresher is not None:
            self.refresher.close()

    def fresh(self, step: int) -> tuple[Sequences, range] | None:
        if self.refresher is None:
            return None
        return self.refresher.source(step, kept_steps(self.folder / CHECKPOINTS))

    def probe(self) -> dict[str, float]:
        assert self.engine is not None, "begin() comes first"
        return measure_completions(
            self.engine, self.probed, self.recipe.rollout, self.facts.stop_ids
        )

    def measured(self) -> None:
        """Warn of what diagnosis says of the newest measurement, of each rule once."""
        for finding in diagnose_arm(self.graph, self.job.name):
            if finding.name not in self.warned:
                self.warned.add(finding.name)
                where = f"{self.job}, step {finding.step}"
                logging.getLogger(__name__).warning(
                    "%s: %s; %s", where, finding.sentence, finding.advice
                )


def _data(graph: Graph, settings: Objective) -> tuple[Sequences, Sequences]:
    """Training and held-out sequences: scored rollouts, or for the control the teacher's
    completions."""
    recipe, size = graph.run.recipe, prompt_facts(graph).vocab_size
    if settings.objective == "sft":
        store, keep = open_artifact(graph, TEACH), recipe.sft.keep_truncated
        split = OPD_SPLIT if recipe.teach.answer_opd_prompts else SFT_SPLIT
        return (
            select_completions(store, split, vocab_size=size, keep_truncated=keep),
            select_completions(store, HELDOUT, vocab_size=size, keep_truncated=keep),
        )
    rollouts, scores = open_artifact(graph, ROLLOUT), open_artifact(graph, SCORE)
    top_k = settings.top_k
    return (
        open_pair(rollouts, scores, split=OPD_SPLIT, vocab_size=size, top_k=top_k),
        open_pair(rollouts, scores, split=HELDOUT, vocab_size=size, top_k=top_k),
    )
