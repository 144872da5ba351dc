"""The engine that works everywhere and is the oracle of the others: Transformers, own sampling.

Unless ``execution.refill`` says otherwise, it batches within the groups of requests alone, so that
the units of a store come out the same to the bit however often the work was interrupted.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.engines.base import (
    Completion,
    EngineSpec,
    GenerateRequest,
    Offers,
    ScoreRequest,
    TokenScores,
)
from leyden.models.hub import model_folder
from leyden.provenance.records import package_versions
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution

if TYPE_CHECKING:  # torch is loaded with the first model, not with this module
    from transformers import PreTrainedModel

    from leyden.engines.decoding import LoadedModel

R = TypeVar("R", GenerateRequest, ScoreRequest)


class TransformersEngine:
    """One model that samples and scores, in this process."""

    offers = Offers()

    def __init__(self, spec: EngineSpec) -> None:
        self.spec, self._given = spec, False

    @classmethod
    def around(
        cls, model: "PreTrainedModel", execution: Execution, vocab_size: int | None = None
    ) -> "TransformersEngine":
        """An engine of a model that is loaded already, such as a student in training."""
        from leyden.engines.decoding import LoadedModel

        engine = cls(EngineSpec("student", str(model.name_or_path), execution, vocab_size))
        engine.loaded, engine._given = LoadedModel(model, execution, vocab_size), True
        return engine

    @cached_property
    def loaded(self) -> "LoadedModel":
        from leyden.engines.decoding import LoadedModel
        from leyden.models.load import load_model

        execution = self.spec.execution
        # The trainer keeps float32 weights whatever it computes in, so its own forward does too.
        dtype = "float32" if self.spec.role == "reference" else execution.dtype
        folder, device, layout = model_folder(self.spec.model), execution.device, self._layout
        model = load_model(folder, device=device, dtype=dtype, layout=layout)
        return LoadedModel(model, execution, self.spec.vocab_size, layout)

    @property
    def _layout(self) -> str:
        """The layout of scoring batches. The reference is scored as it is trained."""
        return self.spec.execution.layout if self.spec.role == "reference" else "padded"

    def load(self) -> None:
        """Load the model now, unless that was done. Raises EngineError."""
        _ = self.loaded

    def close(self) -> None:
        """Give the model's memory back. A later use loads it again. A model that was given stays,
        since its folder may hold other weights by now."""
        if not self._given:
            self.__dict__.pop("loaded", None)

    def numerics(self) -> dict[str, Any]:
        """Everything beside model and request that decides how numbers round."""
        versions = package_versions("torch", "transformers")
        dtype = self.spec.execution.dtype
        return {"engine": "transformers", "dtype": dtype, "layout": self._layout, **versions}

    def generate(
        self, requests: Iterable[GenerateRequest], sampling: Sampling, stop_ids: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Sample a completion for every request; each comes as soon as it has ended."""
        if self.spec.execution.refill == "stage":
            yield from self.loaded.generate(requests, sampling, stop_ids)
            return
        for start, group in _groups(requests):
            for index, completion in self.loaded.generate(group, sampling, stop_ids):
                yield start + index, completion

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[tuple[int, TokenScores]]:
        """Score the completion of every request, batch by batch."""
        for start, group in _groups(requests):
            for index, scores in self.loaded.score(group):
                yield start + index, scores


def _groups(requests: Iterable[R]) -> Iterator[tuple[int, list[R]]]:
    """(index of its first request, requests) of each group, in order. A group whose last request
    says so is given out before the next one is asked for."""
    start, group = 0, list[R]()
    for request in requests:
        if group and request.group != group[0].group:
            yield start, group
            start, group = start + len(group), []
        group.append(request)
        if request.last:
            yield start, group
            start, group = start + len(group), []
    if group:
        yield start, group
