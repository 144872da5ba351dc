"""The choice of an engine for each role."""

from typing import Any, Literal

from pydantic import Field, model_validator

from leyden.recipe.section import Count, Fraction, Section, Size

Kind = Literal["transformers", "vllm", "server"]
_VLLM = ("python", "tensor_parallel", "memory", "batched_tokens", "sequences", "context", "options")
_SERVER = ("urls", "api", "served_model", "in_flight", "api_key_variable")
RESERVED = frozenset(
    {
        "model", "dtype", "seed", "skip_tokenizer_init", "generation_config", "logprobs_mode",
        "max_logprobs", "max_num_seqs", "tensor_parallel_size", "max_model_len",
        "max_num_batched_tokens", "gpu_memory_utilization", "tokenizer",
        "override_generation_config",
    }
)  # fmt: skip
"""Engine arguments that other fields decide, or that log-probs rest on."""
_OTHER = ("row_seconds", "stall_seconds")  # of every engine that is not this process
FIELDS: dict[str, tuple[str, ...]] = {
    "transformers": (), "vllm": (*_VLLM, *_OTHER), "server": (*_SERVER, *_OTHER)
}  # fmt: skip
"""Kind -> the fields that it has."""


class EngineChoice(Section):
    """The engine of one role. Fields of another kind than the chosen one are refused."""

    kind: Kind = "transformers"
    """``transformers`` works everywhere and is what the others are compared with; ``vllm`` is
    fast, in a process of its own; ``server`` is a vLLM or SGLang that runs already."""
    python: str | None = None
    """vllm: the Python interpreter that has vLLM; by default the one that runs leyden."""
    tensor_parallel: Count = 1
    """vllm: devices that hold one copy of the model together."""
    memory: Fraction = 0.9
    """vllm: share of each device's memory that it may use."""
    batched_tokens: Size = 0
    """vllm: tokens in one forward pass at most; 0 = vLLM's choice."""
    sequences: Count = 256
    """vllm: sequences sampled together at most."""
    context: Size = 0
    """vllm: the longest prompt and completion, in tokens; 0 = what the model allows."""
    options: dict[str, bool | int | float | str] = Field(default={})
    """vllm: further engine arguments, such as ``quantization = "fp8"``; recorded as numerics."""
    urls: tuple[str, ...] = ()
    """server: addresses such as ``http://host:8000``; requests go to each in turn."""
    api: Literal["vllm", "sglang"] = "vllm"
    """server: vLLM's completions by token ids, or SGLang's ``/generate``."""
    served_model: str | None = None
    """server: the name under which the server knows the model; by default the only one it has.
    That it is the model of the recipe is your word: a server does not show its weights."""
    in_flight: Count = 64
    """server: requests that each address works on at once."""
    api_key_variable: str | None = None
    """server: the environment variable that holds its API key."""
    row_seconds: Count = 14400
    """vllm and server: a row that takes longer is tried again, and given up in the end."""
    stall_seconds: Count = 600
    """vllm: a process that shows no sign of life for so long is ended and started anew."""

    @model_validator(mode="after")
    def _fields_fit_the_kind(self):
        for name in sorted(self.model_fields_set - {"kind", *FIELDS[self.kind]}):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is no setting of kind = {self.kind!r}")
        if taken := sorted(RESERVED & self.options.keys()):
            raise ValueError(f"options: {taken[0]} is decided by other fields, or must not change")
        if self.kind == "server" and not self.urls:
            raise ValueError('kind = "server" needs urls')
        if bad := [url for url in self.urls if not url.startswith(("http://", "https://"))]:
            raise ValueError(f"urls: {bad[0]!r} does not begin with http:// or https://")
        return self

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        fields = type(self).model_fields
        return {n: getattr(self, n) for n, f in fields.items() if getattr(self, n) != f.default}


class Engines(Section):
    """The engines that sample and score. The reference policy is always scored by the trainer's own
    forward pass, so that the ratio before the first step is 1."""

    teacher: EngineChoice = EngineChoice()
    """Writes the SFT data, scores the rollouts, answers benchmarks."""
    student: EngineChoice = EngineChoice()
    """Samples every model but the teacher. A student in training is sampled where it trains."""
