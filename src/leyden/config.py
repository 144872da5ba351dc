"""A recipe: everything that decides a run, as closed, frozen, strict pydantic models.

The classes state the fields; reading TOML and applying flags is ``recipe.py``. A field whose value
cannot change a token, a score or a weight is marked ``Where`` (it says where or how fast, not
what) and stays out of fingerprints. Paths are ``Where`` too: what they point to is identified by
content.
"""

import difflib
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from leyden.section import (
    WHERE,
    Beta,
    Count,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Section,
    Size,
)


class Models(Section):
    """Which models: a folder in the Hugging Face format, or a Hub id ``org/name[@revision]``."""

    teacher: str = Field(json_schema_extra=WHERE)
    """Writes the SFT answers and scores the rollouts."""
    base: str = Field(json_schema_extra=WHERE)
    """The student before any training."""
    sft_teacher: str | None = Field(default=None, json_schema_extra=WHERE)
    """Another model that writes the SFT answers: against the method; needs
    ``score.allow_inconsistent_teacher``."""
    reference: str | None = Field(default=None, json_schema_extra=WHERE)
    """Adopt this student, trained elsewhere, as the reference policy; teach and sft are skipped."""
    reference_teacher: str | None = Field(default=None, json_schema_extra=WHERE)
    """The model that wrote the adopted student's SFT data: declared by you, not verified."""

    @model_validator(mode="after")
    def _adoption_is_declared(self):
        if (self.reference is None) != (self.reference_teacher is None):
            raise ValueError("models.reference and models.reference_teacher go together")
        if self.reference and self.sft_teacher:
            raise ValueError("models.sft_teacher has no effect when models.reference is adopted")
        return self


class PromptFile(Section):
    """A JSON-lines file of prompts."""

    file: str = Field(json_schema_extra=WHERE)
    """Path, relative to the recipe; as a flag, to the working directory."""
    prompt_field: str = "prompt"
    """The field that holds the prompt's text."""
    answer_field: str | None = None
    """The field that holds the reference answer, for graders that need one."""
    id_field: str | None = None
    """The field that holds a unique id; without it, the sha256 of the prompt is the id."""
    skip: Size = 0
    """Leave out this many rows from the start."""
    limit: Count | None = None
    """Use this many rows at most."""


class Prompts(Section):
    """The prompts of SFT and of on-policy distillation."""

    sft: PromptFile
    """The teacher answers these."""
    opd: PromptFile
    """The student answers these and the teacher scores the answers."""
    heldout: Size = 64
    """The last so many OPD prompts are never trained on: held-out loss and KL."""
    max_prompt_tokens: Count = Field(default=1024, json_schema_extra=WHERE)
    """A longer rendered prompt is an error."""


class Template(Section):
    """How a prompt becomes token ids; done once per run, with the teacher's tokenizer."""

    kind: Literal["chat", "plain"] = "chat"
    """``chat`` uses the tokenizer's chat template, ``plain`` the ``plain`` string below."""
    plain: str = "{prompt}"
    """For ``kind = "plain"``: the text, with ``{prompt}`` where the prompt goes."""
    system: str | None = None
    """System message, for ``kind = "chat"``."""
    arguments: dict[str, bool | int | str] = Field(default={})
    """More arguments of the chat template, such as ``enable_thinking = false``."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a completion; empty means the teacher's own end-of-sequence tokens."""


class Sampling(Section):
    """How completions are drawn."""

    temperature: Positive = 1.0
    """Softmax temperature of the sampler."""
    top_p: Fraction = 1.0
    """Nucleus: sample from the smallest set of tokens whose mass reaches this."""
    max_new_tokens: Count = 4096
    """Length cap, stop token included."""
    samples_per_prompt: Count = 1
    """Completions of each prompt."""


class Teach(Sampling):
    """Stage 1: the teacher answers the SFT prompts."""

    answer_opd_prompts: bool = False
    """Also answer the OPD prompts, as fresh data for ``objective = "sft"`` arms (the control)."""


class Rollout(Sampling):
    """Stage 3: the SFT student answers the OPD prompts. Defaults: paper, section 4 (T 0.8)."""

    temperature: Positive = 0.8
    """Softmax temperature of the sampler."""


class Score(Section):
    """Stage 4: teacher and reference score every rollout token, once."""

    top_k: Size = 0
    """Store the teacher's k most likely ids per token with both models' log-probs; 0 = none."""
    allow_inconsistent_teacher: bool = False
    """Score with a teacher that did not write the SFT data; recorded and shown ever after."""


class Optimisation(Section):
    """What SFT and distillation share: AdamW on batches of whole sequences."""

    steps: Count = 150
    """Optimizer steps."""
    batch_size: Count = 256
    """Sequences per optimizer step, over all ranks."""
    learning_rate: Positive = 2e-6
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up: constant, or cosine to a tenth of the peak."""
    warmup_steps: Size = 0
    """Linear warm-up."""
    weight_decay: NonNegative = 0.1
    """AdamW weight decay of matrices; vectors are not decayed."""
    beta1: Beta = 0.9
    """AdamW."""
    beta2: Beta = 0.98
    """AdamW; 0.98 is the paper's."""
    grad_clip: Positive = 1.0
    """Clip the gradient's global norm here."""
    reduction: Literal["sequence_mean", "token_mean", "sequence_sum"] = "token_mean"
    """How token losses become one number; always global sums over global denominators."""
    eval_every: Size = Field(default=10, json_schema_extra=WHERE)
    """Measure held-out loss every so many steps; 0 = only at the end."""
    patience: Size = 0
    """Stop when so many held-out measurements in a row brought no lower loss, and keep the model of
    the lowest; 0 = train all steps and keep the last."""
    checkpoint_every: Count = Field(default=50, json_schema_extra=WHERE)
    """Steps between resume points."""

    @model_validator(mode="after")
    def _patience_has_measurements(self):
        if self.patience and not self.eval_every:
            raise ValueError("patience counts held-out measurements, and eval_every is 0")
        return self

    def identity(self) -> dict[str, Any]:
        """How often held-out loss is measured decides the model once patience may stop."""
        found = super().identity()
        return found | {"eval_every": self.eval_every} if self.patience else found


class Sft(Optimisation):
    """Stage 2: the base model learns the teacher's answers; the result is the reference policy."""

    learning_rate: Positive = 8e-5
    """Peak learning rate; the paper's for 4B and 8B."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or cosine to a tenth of the peak."""
    keep_truncated: bool = False
    """Also learn answers that were cut at the length cap; they hold no stop token to learn."""


class Objective(Optimisation):
    """Stage 5: the student trains on the stored scores alone. Defaults: paper, section 4."""

    objective: Literal["sampled", "topk", "topk_tail", "sft"] = "sampled"
    """``sampled`` is the paper's; ``topk_tail`` and ``topk`` match the stored top-k distribution
    with a bucket for the rest, or renormalised; ``sft`` continues on teacher answers (a
    control)."""
    top_k: Size = 0
    """For dense objectives: use the likeliest so many of the stored ids, the others joining the
    tail; 0 = all of them."""
    advantage_clip: Positive = 10.0
    """tau: the advantage, in nats, beyond which the loss grows linearly (``sampled``)."""
    importance: Literal["none", "token", "prefix", "sequence"] = "none"
    """Detached ratio student/reference: of the token, of the prefix up to it, of the sequence."""
    importance_cap: Positive | None = None
    """Truncate the ratio here; default 2 for ``token``, 3 for ``prefix`` and ``sequence``."""
    kl_to_reference: NonNegative = 0.0
    """Weight of an explicit penalty against leaving the reference policy."""
    refresh_every: Size = 0
    """0: train on the stored rollouts alone (Lightning OPD). k: every k steps the student answers
    anew and the teacher, live, scores the answers; 1 is standard OPD."""
    heldout_samples: Size = Field(default=32, json_schema_extra=WHERE)
    """At each held-out measurement the student answers so many held-out prompts: their mean length
    and stop rate; 0 = not."""
    reduction: Literal["sequence_mean", "token_mean", "sequence_sum"] = "sequence_mean"
    """How token losses become one number; ``sequence_mean`` is the released code's."""

    @model_validator(mode="after")
    def _possible(self):
        dense, control = self.objective.startswith("topk"), self.objective == "sft"
        if dense and self.importance in ("token", "sequence"):
            raise ValueError(
                f"importance = {self.importance!r} has no meaning for objective = "
                f"{self.objective!r}, which sums over actions; use 'none' or 'prefix'"
            )
        if control and (self.importance != "none" or self.kl_to_reference > 0):
            raise ValueError("objective = 'sft' takes neither importance nor kl_to_reference")
        if self.importance_cap is not None and self.importance == "none":
            raise ValueError("importance_cap is set but importance = 'none'")
        if self.top_k and not dense:
            raise ValueError(f"top_k has no effect for objective = {self.objective!r}")
        if self.refresh_every and control:
            raise ValueError("objective = 'sft' learns teacher answers; refresh_every must be 0")
        if self.refresh_every and self.importance != "none":
            raise ValueError(
                f"importance = {self.importance!r} corrects stored rollouts towards the student; "
                "with refresh_every > 0 they are the student's own"
            )
        return self

    @property
    def reads_scores(self) -> bool:
        """Whether the arm trains on the sealed store of scored rollouts."""
        return self.objective != "sft" and not self.refresh_every


class Distill(Objective):
    """``[distill]`` holds what arms share; each ``[distill.arms.NAME]`` overrides some of it."""

    arms: dict[Name, dict[str, Any]] = Field(default={})
    """Named overrides; without any there is one arm, named after the objective."""

    def resolved_arms(self) -> dict[str, Objective]:
        """Arm name -> its complete settings."""
        shared = self.model_dump(exclude={"arms"})
        arms = self.arms or {self.objective: {}}
        return {name: _resolve_arm(name, shared | override) for name, override in arms.items()}

    @model_validator(mode="after")
    def _arms_are_valid(self):
        self.resolved_arms()
        return self


def _resolve_arm(name: str, settings: dict[str, Any]) -> Objective:
    try:
        return Objective.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["arms", name, *map(str, first["loc"])])
        if first["type"] == "value_error":
            raise ValueError(f"{key}: {first['ctx']['error']}") from error
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(first["loc"][-1]), Objective.model_fields, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{key} = {first['input']!r}: unknown key{meant}") from error
        raise ValueError(f"{key} = {first['input']!r}: {first['msg']}") from error


class Benchmark(Sampling):
    """Problems with a grader."""

    name: Name
    """Shown in tables."""
    problems: PromptFile
    """JSON lines with a prompt and, where the grader needs it, an answer."""
    grader: str = Field(default="math", json_schema_extra=WHERE)
    """``exact``, ``math`` (math-verify), or ``path/file.py:function`` taking (row, completion)."""

    def identity(self) -> dict[str, Any]:
        """With the grader's name, not where it lies: its file counts by content."""
        return super().identity() | {"grader": self.grader.rpartition("/")[2]}

    @model_validator(mode="after")
    def _grader_has_an_answer(self):
        if self.grader in ("exact", "math") and self.problems.answer_field is None:
            raise ValueError(
                f"benchmark {self.name!r}: grader = {self.grader!r} compares with an answer; "
                "set problems.answer_field"
            )
        return self


class Evaluate(Section):
    """Stage 6: every model made answers the same questions."""

    benchmarks: tuple[Benchmark, ...] = ()
    """Each ``[[evaluate.benchmarks]]``."""
    kl_prompts: Size = 0
    """Measure reverse KL to the teacher on fresh rollouts of so many held-out prompts; 0 = not."""
    kl_max_new_tokens: Count = 256
    """Length cap of those rollouts."""

    @model_validator(mode="after")
    def _names_differ(self):
        names = [b.name for b in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"benchmark names must differ; got {names}")
        return self


class Execution(Section):
    """Where and how fast: nothing here changes what is made, beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and compute of inference; compute of training (master weights stay float32)."""
    threads: Size = 0
    """CPU threads of torch; 0 = torch's choice. Tiny models are often faster with 1."""
    rows_per_unit: Count = 256
    """Rows per store unit: what a killed worker loses at most."""
    generate_batch_size: Count = 64
    """Sequences sampled together."""
    batch_tokens: Count = 16384
    """Token budget of a scoring batch or a training micro-batch, padding included."""
    logprob_chunk_tokens: Count = 1024
    """Tokens whose logits are held at once."""
    layout: Literal["padded", "packed"] = "padded"
    """Training micro-batches: one sequence per row, or all sequences in one row."""
    ranks: Count = 1
    """Data-parallel training processes on this machine."""


class Recipe(Section):
    """One file, one run."""

    name: Name = Field(json_schema_extra=WHERE)
    """Names the run and its default folder, ``runs/NAME``."""
    seed: Size = 0
    """Every random choice of the run follows from it."""
    models: Models
    prompts: Prompts
    template: Template = Template()
    teach: Teach = Teach()
    sft: Sft = Sft()
    rollout: Rollout = Rollout()
    score: Score = Score()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
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
                "objective = 'sft' needs teacher answers; models.reference skips teach"
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
