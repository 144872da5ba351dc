"""Stage 1: the teacher answers the SFT prompts."""

from leyden.inference.sample import sample_counts, sample_store
from leyden.provenance.records import Intent, Record
from leyden.run.run import Run


def run_teach(run: Run, intent: Intent) -> Record:
    """Make ``teach/``, a sealed store of the teacher's answers.

    Held-out prompts are answered too, so that SFT has a held-out loss; OPD prompts only on request.
    """
    settings = run.recipe.teach
    splits = ["sft", "heldout"] + (["opd"] if settings.answer_opd_prompts else [])
    store, seconds = sample_store(run, intent, run.place("sft_teacher"), settings, splits)
    return Record(intent, store.fingerprint, sample_counts(store), seconds)
