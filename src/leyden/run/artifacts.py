"""A finished job's artifact, opened only if it still is what its record says."""

from pathlib import Path
from typing import Any

from leyden.data.prompt_set import RenderedPrompt, read_prompt_set
from leyden.provenance.records import require_record
from leyden.run.run import PROMPTS, Run
from leyden.store.reader import Store, open_store


def open_artifact(run: Run, job: str, *, wanted_by: str = "this command") -> Store:
    """The sealed store of ``job``; its content must have the recorded fingerprint."""
    record = require_record(run.folder(job), wanted_by=wanted_by)
    origin = record.intent.digest
    return open_store(run.folder(job), expected=record.fingerprint, origin=origin)


def open_prompts(run: Run, job: str = PROMPTS) -> dict[str, RenderedPrompt]:
    """The prompts (or problems) rendered for the run, by id, checked against their record."""
    record = require_record(run.folder(job), wanted_by="this command")
    return read_prompt_set(run.folder(job), expected=record.fingerprint)


def stop_ids(run: Run) -> list[int]:
    """The tokens that end a completion, as fixed when the prompts were rendered."""
    return prompt_counts(run)["stop_ids"]


def vocab_size(run: Run) -> int:
    """Ids below this exist in every model of the run; log-probs are over these ids alone."""
    return prompt_counts(run)["vocab_size"]


def prompt_counts(run: Run) -> dict[str, Any]:
    """What the prompts stage recorded: stop ids, vocabulary, numbers of prompts."""
    return require_record(run.folder(PROMPTS), wanted_by="this command").counts


def tokenizer_folder(run: Run) -> Path:
    """Where the run's tokenizer lies: beside the reference policy, else with the SFT teacher."""
    reference = run.place("reference")
    return reference if reference.is_dir() else run.place("sft_teacher")
