"""From a starting model and aligned sequences to a trained model folder."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel

from leyden.distributed.ranks import Ranks
from leyden.files import TEMPORARY, disk_errors, sync_folder, sync_tree
from leyden.models.load import DTYPES, load_model
from leyden.provenance.identity import TOKENIZER_FILES
from leyden.recipe.schema import Execution
from leyden.recipe.training import Optimisation
from leyden.telemetry.clock import Clock
from leyden.telemetry.progress import Progress
from leyden.train.checkpoint import ResumePoint
from leyden.train.loop import Sequences, Source, Training
from leyden.train.student import StudentLM

MODEL = "model"


def train_model(
    name: str,
    *,
    start: Path,
    tokenizer: Path,
    stop_ids: Sequence[int],
    vocab_size: int,
    data: Sequences,
    heldout: Sequences,
    settings: Optimisation,
    seed: int,
    folder: Path,
    execution: Execution,
    progress: Progress,
    clock: Clock,
    fresh: Callable[[PreTrainedModel], Source] | None = None,
    probe: Callable[[PreTrainedModel], dict[str, float]] = lambda student: {},
    measured: Callable[[], None] = lambda: None,
) -> ResumePoint:
    """Train a copy of ``start`` and leave it in ``folder/model`` with ``tokenizer``'s files.

    ``fresh`` makes the source of an arm whose data follow the student; ``probe`` measures it.
    """
    ranks = Ranks.join(execution.device)
    model = load_model(start, device=execution.device, dtype="float32")
    student = StudentLM(
        model,
        vocab_size=vocab_size,
        chunk=execution.logprob_chunk_tokens,
        compute_dtype=DTYPES[execution.dtype],
    )
    with progress(name, settings.steps, "steps") as advance:
        training = Training(
            student=student,
            data=data,
            heldout=heldout,
            settings=settings,
            seed=seed,
            folder=folder,
            execution=execution,
            fresh=fresh(model) if fresh else None,
            probe=lambda: probe(model),
            measured=measured,
            clock=clock,
            ranks=ranks,
            progress=lambda tokens: advance(1),
        )
        point = training.run()
    if ranks.leads:
        student.to(DTYPES[execution.dtype])
        save_model(student.model, folder / MODEL, tokenizer, stop_ids)
    ranks.barrier()
    return point


def save_model(model, folder: Path, tokenizer: Path, stop_ids: Sequence[int]) -> None:
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


def use_threads(execution: Execution) -> None:
    if execution.threads:
        torch.set_num_threads(execution.threads)
