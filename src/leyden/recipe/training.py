"""Settings of training: optimisation, objectives, and the arms that share a store."""

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from leyden.recipe.section import WHERE, Beta, Count, Name, NonNegative, Positive, Section, Size


class Optimisation(Section):
    """Settings that SFT and distillation share: AdamW on batches of whole sequences."""

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
    """The rule by which token losses become one number: global sums over global counts."""
    eval_every: Size = Field(default=10, json_schema_extra=WHERE)
    """Steps between measurements of the held-out loss; 0 = only at the end."""
    patience: Size = 0
    """Stop after this many held-out measurements in a row without a lower reverse KL by the stored
    top k (without a lower loss, where no top k is stored), and keep the best model; 0 = train all
    steps and keep the last."""
    checkpoint_every: Count = Field(default=50, json_schema_extra=WHERE)
    """Steps between resume points."""

    @model_validator(mode="after")
    def _patience_has_measurements(self):
        if self.patience and not self.eval_every:
            raise ValueError("patience counts held-out measurements, and eval_every is 0")
        return self

    def identity(self) -> dict[str, Any]:
        """With ``eval_every`` where patience may stop training: it then decides when."""
        fields = super().identity()
        return fields | {"eval_every": self.eval_every} if self.patience else fields


class Sft(Optimisation):
    """Stage 2: the base model learns the teacher's completions; it becomes the reference policy."""

    learning_rate: Positive = 8e-5
    """Peak learning rate; the paper's for 4B and 8B."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or cosine to a tenth of the peak."""
    keep_truncated: bool = False
    """Also learn completions that were cut at the length cap, which hold no stop token."""


class Objective(Optimisation):
    """Stage 5: the student trains on the stored scores alone. The defaults are the paper's."""

    objective: Literal["sampled", "topk", "topk_tail", "sft"] = "sampled"
    """``sampled`` is the paper's loss. ``topk_tail`` and ``topk`` match the stored top-k
    distribution: with one bucket for all other tokens, or renormalised. ``sft`` continues on the
    teacher's completions, as a control."""
    top_k: Size = 0
    """For dense objectives: use only the k likeliest of the stored ids, and count the others to the
    tail; 0 = use all."""
    advantage_clip: Positive = 10.0
    """For ``sampled``: tau, the advantage in nats beyond which the loss grows linearly."""
    importance: Literal["none", "token", "prefix", "sequence"] = "none"
    """Weight each token by the detached ratio student / reference: of the token itself, of the
    prefix up to it, or of the whole sequence."""
    importance_cap: Positive | None = None
    """Truncate the ratio at this value; by default 2 for ``token``, 3 for ``prefix`` and
    ``sequence``."""
    kl_to_reference: NonNegative = 0.0
    """Weight of a penalty against leaving the reference policy."""
    refresh_every: Size = 0
    """0: train on the stored rollouts alone (Lightning OPD). k: every k steps the student writes
    new rollouts and a live teacher scores them; 1 is standard OPD."""
    heldout_samples: Size = Field(default=32, json_schema_extra=WHERE)
    """Held-out prompts that the student completes at each measurement, for the mean length and the
    stop rate; 0 = none."""
    reduction: Literal["sequence_mean", "token_mean", "sequence_sum"] = "sequence_mean"
    """The rule that makes token losses one number; ``sequence_mean`` is the released code's."""

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
            raise ValueError(
                "objective = 'sft' learns the teacher's completions; refresh_every must be 0"
            )
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
    """``[distill]`` holds the settings of all arms; ``[distill.arms.NAME]`` overrides some."""

    arms: dict[Name, dict[str, Any]] = Field(default={})
    """Arm -> its overrides. Without any there is one arm, named after the objective."""

    def resolved_arms(self) -> dict[str, Objective]:
        """Arm name -> its complete settings."""
        shared = self.model_dump(exclude={"arms"})
        arms = self.arms or {self.objective: {}}
        return {name: _resolve_arm(name, shared | override) for name, override in arms.items()}

    @model_validator(mode="after")
    def _arms_are_valid(self):
        self.resolved_arms()
        return self


class ArmMistake(ValueError):
    """An arm whose settings are not valid. ``error`` says where within the arm."""

    def __init__(self, arm: str, error: ValidationError) -> None:
        super().__init__(f"arms.{arm}: {error}")
        self.arm, self.error = arm, error


def _resolve_arm(name: str, settings: dict[str, Any]) -> Objective:
    try:
        return Objective.model_validate(settings)
    except ValidationError as error:
        raise ArmMistake(name, error) from error
