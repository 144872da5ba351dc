"""Stage 2: the base model learns the teacher's completions and becomes the reference policy."""

from leyden.data.completions import select_completions
from leyden.data.prompt_set import HELDOUT, SFT_SPLIT
from leyden.distributed.ranks import join
from leyden.provenance.records import Intent, Record
from leyden.run.artifacts import open_artifact, prompt_facts
from leyden.run.fits import check_vocabulary
from leyden.run.graph import Graph
from leyden.run.layout import METRICS
from leyden.run.run import BASE, SFT_TEACHER
from leyden.run.stage import SFT, TEACH
from leyden.telemetry.clock import Clock
from leyden.telemetry.metrics import trained_tokens
from leyden.train.loop import Training
from leyden.train.save import train_model, trained_record


def run_sft(graph: Graph, intent: Intent) -> Record:
    """Make ``sft/model``, with metrics and checkpoints beside it."""
    check_vocabulary(graph, BASE)
    run, recipe, facts = graph.run, graph.run.recipe, prompt_facts(graph)
    store, keep, size = open_artifact(graph, TEACH), recipe.sft.keep_truncated, facts.vocab_size
    data = select_completions(store, SFT_SPLIT, vocab_size=size, keep_truncated=keep)
    heldout = select_completions(store, HELDOUT, vocab_size=size, keep_truncated=keep)
    folder, clock = run.folder(SFT), Clock()
    with run.progress(intent.stage, recipe.sft.steps, "steps") as advance:
        training = Training(
            data=data,
            heldout=heldout,
            settings=recipe.sft,
            seed=recipe.seed,
            folder=folder,
            execution=recipe.execution,
            clock=clock,
            ranks=join(recipe.execution.device),
            progress=advance,
        )
        start, tokenizer = run.place(BASE), run.place(SFT_TEACHER)
        point = train_model(training, start=start, tokenizer=tokenizer, facts=facts)
    counts = {
        "rows": len(data),
        "tokens": trained_tokens(folder / METRICS),
        "dropped_truncated": data.num_dropped,
        "steps": point.step,
        "kept_step": point.kept_step,
    }
    return trained_record(intent, folder, counts, clock)
