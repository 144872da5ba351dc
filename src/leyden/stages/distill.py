"""Stage 5: a student per arm trains on the stored scores alone, with no teacher loaded; or, with
``refresh_every``, on its own fresh answers and a live teacher."""

import logging

from leyden.data.completions import select_answers
from leyden.data.scored import open_pair
from leyden.distributed.ranks import Ranks
from leyden.inference.probe import heldout_requests, measure_answers
from leyden.inference.refresh import Refresher
from leyden.monitor.diagnosis import diagnose_arm
from leyden.provenance.identity import derive_seed, identify_model
from leyden.provenance.records import Intent, Record
from leyden.recipe.training import Objective
from leyden.run.artifacts import open_artifact, stop_ids, vocab_size
from leyden.run.fits import check_vocabulary
from leyden.run.run import ROLLOUT, SCORE, TEACH, Run
from leyden.telemetry.clock import Clock
from leyden.telemetry.metrics import METRICS, trained_tokens
from leyden.train.checkpoint import CHECKPOINTS, kept_steps
from leyden.train.loop import Sequences
from leyden.train.save import MODEL, train_model


def run_distill(run: Run, intent: Intent) -> Record:
    """Make ``distill/ARM/model`` from the reference policy, with metrics and checkpoints."""
    settings = run.arms()[intent.stage.partition("/")[2]]
    data, heldout = _data(run, settings)
    asked = heldout_requests(run, settings.heldout_samples)
    folder, clock = run.folder(intent.stage), Clock()
    seed = derive_seed(run.recipe.seed, "distill") % 2**32

    def fresh(student) -> Refresher:
        return Refresher(
            run=run,
            student=student,
            settings=settings,
            seed=seed,
            folder=folder,
            origin=intent.digest,
            clock=clock,
            ranks=Ranks.join(run.recipe.execution.device),
            kept_steps=lambda: kept_steps(folder / CHECKPOINTS),
        )

    if settings.refresh_every:
        check_vocabulary(run, "teacher")
    point = train_model(
        intent.stage,
        start=run.place("reference"),
        tokenizer=run.place("reference"),
        stop_ids=stop_ids(run),
        vocab_size=vocab_size(run),
        data=data,
        heldout=heldout,
        settings=settings,
        seed=seed,
        folder=folder,
        execution=run.recipe.execution,
        progress=run.progress,
        clock=clock,
        fresh=fresh if settings.refresh_every else None,
        probe=lambda student: measure_answers(run, student, asked),
        measured=_Watch(run, intent.stage),
    )
    counts = {
        "rows": settings.batch_size * point.step if settings.refresh_every else len(data),
        "tokens": trained_tokens(folder / METRICS),
        "steps": point.step,
        "kept_step": point.best.step if point.best else point.step,
        "objective": settings.objective,
    }
    digest = identify_model(folder / MODEL).digest
    return Record(intent, digest, counts, clock.total, dict(clock.seconds))


class _Watch:
    """Says what diagnosis finds at a held-out measurement, each rule once."""

    def __init__(self, run: Run, job: str) -> None:
        self.run, self.job, self.said = run, job, set()

    def __call__(self) -> None:
        for finding in diagnose_arm(self.run, self.job.partition("/")[2]):
            if finding.name not in self.said:
                self.said.add(finding.name)
                where = f"{self.job}, step {finding.step}"
                logging.getLogger(__name__).warning(
                    "%s: %s; %s", where, finding.sentence, finding.advice
                )


def _data(run: Run, settings: Objective) -> tuple[Sequences, Sequences]:
    """Training and held-out sequences: scored rollouts, or teacher answers for the control."""
    size = vocab_size(run)
    if settings.objective == "sft":
        answers = open_artifact(run, TEACH)
        choose = {"vocab_size": size, "keep_truncated": run.recipe.sft.keep_truncated}
        split = "opd" if run.recipe.teach.answer_opd_prompts else "sft"
        return (
            select_answers(answers, split, **choose),
            select_answers(answers, "heldout", **choose),
        )
    rollouts, scores = open_artifact(run, ROLLOUT), open_artifact(run, SCORE)
    read = {"vocab_size": size, "top_k": settings.top_k}
    return (
        open_pair(rollouts, scores, split="opd", **read),
        open_pair(rollouts, scores, split="heldout", **read),
    )
