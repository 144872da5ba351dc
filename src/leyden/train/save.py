"""Train a student from a starting model, and leave it as a model folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from leyden.data.prompt_set import PromptFacts
from leyden.files import TEMPORARY, disk_errors, sync_folder, sync_tree
from leyden.models.load import DTYPES, load_model
from leyden.provenance.identity import TOKENIZER_FILES, hash_file, identify_model
from leyden.provenance.records import Intent, Record
from leyden.run.layout import METRICS, MODEL
from leyden.telemetry.clock import Clock
from leyden.train.checkpoint import ResumePoint
from leyden.train.loop import Training
from leyden.train.outcome import check_outcome, warn_of_repeats
from leyden.train.student import StudentLM


def train_model(
    training: Training, *, start: Path, tokenizer: Path, facts: PromptFacts
) -> ResumePoint:
    """Train a copy of the model ``start`` and leave it in ``model/`` of the training's folder.

    The tokenizer's files are copied from the folder ``tokenizer``. Returns where training ended.
    """
    execution, ranks = training.execution, training.ranks
    # Master weights are float32 whatever the student computes in.
    layout = execution.layout
    model = load_model(start, device=execution.device, dtype="float32", layout=layout)
    student = StudentLM(
        model,
        vocab_size=facts.vocab_size,
        chunk=execution.logprob_chunk_tokens,
        compute_dtype=DTYPES[execution.dtype],
    )
    ranks.wrap(student)
    if ranks.leads and not training.hooks.refreshes:
        warn_of_repeats(training.folder, training.settings.batch_size, len(training.data))
    point = training.run(student)
    check_outcome(training.folder / METRICS, training.settings, point.kept_step)
    if ranks.leads:
        student.to(DTYPES[execution.dtype])
        save_model(student.model, training.folder / MODEL, tokenizer, facts.stop_ids)
    ranks.barrier()
    return point


def trained_record(intent: Intent, folder: Path, counts: dict[str, Any], clock: Clock) -> Record:
    """The record of a training job: also the parts of its model, and a hash of its metrics."""
    made = identify_model(folder / MODEL)
    facts = {"parts": made.parts, "metrics": hash_file(folder / METRICS)}
    seconds = dict(clock.seconds)
    return Record(intent, made.digest, counts, clock.total, seconds, facts=facts)


def save_model(
    model: PreTrainedModel, folder: Path, tokenizer: Path, stop_ids: Sequence[int]
) -> None:
    """Write a model folder aside and rename it; tokenizer files are copied byte for byte."""
    aside = folder.with_name(TEMPORARY + folder.name)
    with disk_errors(folder):
        for stale in (aside, folder):
            shutil.rmtree(stale, ignore_errors=True)
        # A fresh one: the base model's own may hold sampling settings that cannot be saved alone.
        model.generation_config = GenerationConfig(eos_token_id=list(stop_ids))
        model.save_pretrained(aside)
        copied = [*TOKENIZER_FILES, "tokenizer_config.json", "chat_template.jinja"]
        for name in copied:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, aside / name)
        sync_tree(aside)
        os.replace(aside, folder)
        sync_folder(folder.parent)
