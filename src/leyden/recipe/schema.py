"""A recipe: all settings of a run, as closed, frozen, strict pydantic models.

The classes state the fields; ``toml.py`` reads files and applies flags. A field that cannot change
a token, a score or a weight is marked ``WHERE`` and stays out of fingerprints. Paths are marked
too: the files that they point to are identified by content.
"""

from typing import Literal

from pydantic import Field, model_validator

from leyden.recipe.benchmarks import Evaluate
from leyden.recipe.engines import EngineChoice, Engines
from leyden.recipe.sampling import PromptFile, Sampling
from leyden.recipe.section import WHERE, Count, Name, NonNegative, Section, Size
from leyden.recipe.training import Distill, Sft


class Models(Section):
    """The models: folders in the Hugging Face format, or Hub ids ``org/name[@revision]``."""

    teacher: str = Field(json_schema_extra=WHERE)
    """Writes the SFT data and scores the rollouts."""
    base: str = Field(json_schema_extra=WHERE)
    """The student before any training."""
    sft_teacher: str | None = Field(default=None, json_schema_extra=WHERE)
    """Another model that writes the SFT data. This is against the method and needs
    ``score.allow_inconsistent_teacher``."""
    reference: str | None = Field(default=None, json_schema_extra=WHERE)
    """A student trained elsewhere, adopted as the reference policy; teach and sft are skipped."""
    reference_teacher: str | None = Field(default=None, json_schema_extra=WHERE)
    """The model that wrote the adopted student's SFT data. You declare it; it is not verified."""

    @model_validator(mode="after")
    def _adoption_is_declared(self):
        if (self.reference is None) != (self.reference_teacher is None):
            raise ValueError("models.reference and models.reference_teacher go together")
        if self.reference and self.sft_teacher:
            raise ValueError("models.sft_teacher has no effect when models.reference is adopted")
        return self


class Prompts(Section):
    """The prompts of SFT and of on-policy distillation."""

    sft: PromptFile
    """The teacher writes completions of these, the SFT data."""
    opd: PromptFile
    """The student writes completions of these, and the teacher scores them."""
    heldout: Size = 64
    """The number of OPD prompts, from the end, that are kept out of training to measure loss and
    KL on."""
    max_prompt_tokens: Count = Field(default=1024, json_schema_extra=WHERE)
    """A rendered prompt of more tokens is an error."""


class Template(Section):
    """The text around a prompt. Prompts are tokenized once per run, by the teacher's tokenizer."""

    kind: Literal["chat", "plain"] = "chat"
    """``chat`` uses the tokenizer's chat template, ``plain`` the ``plain`` string below."""
    plain: str = "{prompt}"
    """For ``kind = "plain"``: the text around ``{prompt}``."""
    system: str | None = None
    """For ``kind = "chat"``: the system message."""
    arguments: dict[str, bool | int | str] = Field(default={})
    """Further arguments of the chat template, such as ``enable_thinking = false``."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a completion; by default the teacher's own end-of-sequence tokens."""


class Teach(Sampling):
    """Stage 1: the teacher writes completions of the SFT prompts."""

    answer_opd_prompts: bool = False
    """Also complete the OPD prompts, as fresh data for control arms (``objective = "sft"``)."""


class Rollout(Sampling):
    """Stage 3: the student after SFT completes the OPD prompts. Temperature 0.8 is the paper's."""

    temperature: NonNegative = 0.8
    """Softmax temperature of the sampler; 0 = greedy."""


class Score(Section):
    """Stage 4: teacher and reference policy score every rollout token, once."""

    top_k: Size = 0
    """Store the teacher's k likeliest ids per token, with both models' log-probs; 0 = none."""
    allow_inconsistent_teacher: bool = False
    """Let a teacher score that did not write the SFT data. The run's records and pages say so."""


class Execution(Section):
    """Device, speed and memory. Nothing here changes a result beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device of the models."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and compute of inference, and compute of training, whose weights stay float32."""
    threads: Size = 0
    """CPU threads of torch; 0 = torch's choice. Tiny models are often fastest with 1."""
    rows_per_unit: Count = 256
    """Rows that are committed to a store together. A killed process loses the rows of unfinished
    units."""
    generate_batch_size: Count = 64
    """Sequences sampled together; fewer where their keys and values would not fit into memory."""
    refill: Literal["unit", "stage"] = "unit"
    """Where the Transformers engine takes the next prompt from when a sequence has ended. Within
    the ``unit``, a resumed run gives the same bytes as one that was never stopped; from the whole
    ``stage``, no place stays empty, and what was interrupted moves log-probs by rounding."""
    batch_tokens: Count = 16384
    """Tokens in a scoring batch or a training micro-batch at most, padding included."""
    logprob_chunk_tokens: Count = 1024
    """Tokens whose logits are in memory at once."""
    layout: Literal["padded", "packed"] = "padded"
    """Layout of training micro-batches, and of batches in which the reference is scored: one
    sequence per row, or all sequences in one row. Models whose sequences would change each other in
    one row are refused."""
    ranks: Count = 1
    """Data-parallel training processes on this machine."""
    workers: Count = 1
    """Processes that sample and score together: on this machine, or on the cluster."""
    devices_per_worker: Count = 1
    """GPUs of each of these processes; its engine's ``tensor_parallel`` is no more than that."""
    cluster: Literal["none", "ray"] = "none"
    """``ray`` puts the workers on a Ray cluster, whose nodes must all see the run's folder."""


class Evaluation(Section):
    """The settings of `leyden evaluate MODEL`: the last stage without a run."""

    model: str = Field(json_schema_extra=WHERE)
    """The model to evaluate: a folder or a Hub id."""
    seed: Size = 0
    """The seed of all samples."""
    template: Template = Template()
    """The text around a problem. Problems are tokenized by the model's own tokenizer."""
    evaluate: Evaluate
    """Benchmarks and limits."""
    engine: EngineChoice = Field(default=EngineChoice(), json_schema_extra=WHERE)
    """The engine that samples the model."""
    execution: Execution = Field(default=Execution(), json_schema_extra=WHERE)
    """Device, speed and memory."""


class Recipe(Section):
    """All settings of one run, as one file."""

    name: Name = Field(json_schema_extra=WHERE)
    """The name of the run, and of its default folder ``runs/NAME``."""
    seed: Size = 0
    """The seed of every random choice."""
    models: Models
    prompts: Prompts
    template: Template = Template()
    teach: Teach = Teach()
    sft: Sft = Sft()
    rollout: Rollout = Rollout()
    score: Score = Score()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    engines: Engines = Field(default=Engines(), json_schema_extra=WHERE)
    execution: Execution = Field(default=Execution(), json_schema_extra=WHERE)

    @model_validator(mode="after")
    def _fits_together(self):
        for name, arm in self.distill.resolved_arms().items():
            if self.execution.ranks > arm.batch_size:
                raise ValueError(f"execution.ranks exceeds distill.arms.{name}.batch_size")
            if arm.top_k > self.score.top_k:
                raise ValueError(
                    f"distill.arms.{name}: top_k = {arm.top_k} exceeds the stored "
                    f"score.top_k = {self.score.top_k}"
                )
            if arm.objective == "topk" and 1 in (arm.top_k, self.score.top_k):
                raise ValueError(f"distill.arms.{name}: 'topk' over one id is always zero")
            if arm.objective.startswith("topk") and not self.score.top_k:
                raise ValueError(
                    f"distill.arms.{name}: objective = {arm.objective!r} needs stored top-k "
                    "scores, and score.top_k is 0"
                )
        for role, choice in (("teacher", self.engines.teacher), ("student", self.engines.student)):
            each = self.execution.devices_per_worker
            if self.execution.workers > 1 and choice.tensor_parallel > each:
                raise ValueError(
                    f"engines.{role}.tensor_parallel = {choice.tensor_parallel} exceeds "
                    f"execution.devices_per_worker = {each}"
                )
        if self.execution.ranks > self.sft.batch_size:
            raise ValueError("execution.ranks exceeds sft.batch_size")
        if self.models.sft_teacher and not self.score.allow_inconsistent_teacher:
            raise ValueError(
                "models.sft_teacher is set, so the scoring teacher did not write the SFT data; "
                "that needs score.allow_inconsistent_teacher = true"
            )
        if self.models.reference and any(
            arm.objective == "sft" for arm in self.distill.resolved_arms().values()
        ):
            raise ValueError(
                "objective = 'sft' needs the teacher's completions; models.reference skips teach"
            )
        others = {"teacher", "sft_teacher", "base", "reference"}
        taken = others & self.distill.resolved_arms().keys()
        if taken:
            raise ValueError(f"distill.arms: {taken.pop()!r} is the name of another model")
        trained = {"sft": self.sft, **self.distill.resolved_arms()}
        for name, settings in trained.items():
            if settings.patience and self.prompts.heldout < self.execution.ranks:
                raise ValueError(f"{name}: patience needs prompts.heldout of at least one per rank")
        if self.evaluate.kl_prompts > self.prompts.heldout:
            raise ValueError(
                f"evaluate.kl_prompts = {self.evaluate.kl_prompts} exceeds "
                f"prompts.heldout = {self.prompts.heldout}"
            )
        return self
