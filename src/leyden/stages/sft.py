"""Stage 2: the base model learns the teacher's answers and becomes the reference policy."""

from leyden.data.completions import select_answers
from leyden.provenance.identity import identify_model
from leyden.provenance.records import Intent, Record
from leyden.run.artifacts import open_artifact, stop_ids, vocab_size
from leyden.run.fits import check_vocabulary
from leyden.run.run import TEACH, Run
from leyden.telemetry.clock import Clock
from leyden.telemetry.metrics import METRICS, trained_tokens
from leyden.train.save import MODEL, train_model


def run_sft(run: Run, intent: Intent) -> Record:
    """Make ``sft/model``, with metrics and checkpoints beside it."""
    check_vocabulary(run, "base")
    answers = open_artifact(run, TEACH)
    choose = {"vocab_size": vocab_size(run), "keep_truncated": run.recipe.sft.keep_truncated}
    data = select_answers(answers, "sft", **choose)
    folder, clock = run.folder(intent.stage), Clock()
    point = train_model(
        intent.stage,
        start=run.place("base"),
        tokenizer=run.place("sft_teacher"),
        stop_ids=stop_ids(run),
        vocab_size=vocab_size(run),
        data=data,
        heldout=select_answers(answers, "heldout", **choose),
        settings=run.recipe.sft,
        seed=run.recipe.seed,
        folder=folder,
        execution=run.recipe.execution,
        progress=run.progress,
        clock=clock,
    )
    counts = {
        "rows": len(data),
        "tokens": trained_tokens(folder / METRICS),
        "dropped_truncated": data.num_dropped,
        "steps": point.step,
        "kept_step": point.best.step if point.best else point.step,
    }
    digest = identify_model(folder / MODEL).digest
    return Record(intent, digest, counts, clock.total, dict(clock.seconds))
