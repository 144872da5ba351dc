"""Try an engine on a few fixed sequences before it fills anything.

An engine may add tokens, shift its log-probs by one, apply a temperature to them, or score another
model. Nothing in its answers says so. It is refused by name where it contradicts itself, or where
it contradicts our own forward pass, if that model fits into memory beside it. What remains, the
noise of its arithmetic, is recorded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from leyden.engines.base import (
    Completion,
    Engine,
    EngineSpec,
    GenerateRequest,
    ScoreRequest,
    TokenScores,
    top_k_problem,
)
from leyden.errors import EngineError
from leyden.inference.units import all_results
from leyden.provenance.identity import fingerprint
from leyden.recipe.engines import EngineChoice
from leyden.recipe.sampling import Sampling

# Nats per token, as a mean over the fixed sequences. Real models in bfloat16 move by 0.01 to 0.03
# when they are batched otherwise; a temperature of 0.9, or a shift, moves them by tenths.
LIMITS = {"float32": 1e-3}
LIMIT = 0.06
NUM_PROBES, LONGEST, SAMPLED = 4, 64, 12
NUM_SEEDS, SURPRISED = 4, 3.0  # samples of one prompt; nats of a sample that could be another
CERTAIN, ALIKE = 1e-6, 1e-4  # below these, all scores are zero, or all are one number
OURS_AT_MOST = 2**32  # bytes of weights that are loaded beside the engine


@dataclass(frozen=True)
class Noise:
    """Mean differences in nats: scored twice; alone and in company; the sampler's log-probs and the
    scores of the same tokens; scores and our own forward. None where it was not measured."""

    repeated: float | None = None
    company: float | None = None
    sampled: float | None = None
    ours: float | None = None

    def told(self) -> dict[str, float]:
        """The differences that were measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Proof:
    """The noise of an engine, and its ``scores`` of the fixed sequences by their digest: the same
    model must give them again. Empty where it does not score."""

    noise: Noise
    scores: dict[str, list[float]]


_known: WeakKeyDictionary[Engine, Proof] = WeakKeyDictionary()


def prove(
    engine: Engine,
    spec: EngineSpec,
    prompts: Iterable[Sequence[int]],
    stop_ids: Sequence[int],
    top_k: int = 0,
) -> Proof:
    """The noise of a loaded engine, measured once. Raises EngineError where it cannot be trusted.

    ``prompts`` are those that it is about to work on; the first few are used. ``top_k`` is tried
    too, where it will be asked for.
    """
    if engine not in _known:
        _known[engine] = _measure(engine, spec, _probes(prompts, top_k), stop_ids)
    return _known[engine]


def _measure(
    engine: Engine, spec: EngineSpec, probes: Sequence[ScoreRequest], stop_ids: Sequence[int]
) -> Proof:
    numerics = engine.numerics()  # of a server, each time a question to it
    name, limit = str(numerics.get("engine")), LIMITS.get(str(numerics.get("dtype")), LIMIT)
    noise, made, scores = Noise(), list[Completion](), list[TokenScores]()
    if engine.offers.sample:
        made = _sample(engine, probes, 1.0, stop_ids)
        _check_seeds(engine, probes[0], name, stop_ids)
    if engine.offers.score:
        scores = _score(engine, probes)
        _check_sane(scores, name)
        again = _score(engine, probes)
        alone = [s for probe in probes for s in _score(engine, [probe])]
        noise = replace(noise, repeated=_gap(scores, again), company=_gap(scores, alone))
        _refuse(name, noise.repeated, limit, "the same tokens twice")
        _refuse(name, noise.company, limit, "the same tokens alone and in company")
        if made:
            noise = replace(noise, sampled=_check_sampled(engine, probes, made, name, limit))
    if (ours := _our_forward(spec)) is not None:
        noise = replace(noise, ours=_against(ours, probes, scores, made))
        _refuse(name, noise.ours, limit, "the same tokens, and our own forward pass,")
        _check_greedy(engine, ours, probes, name, limit)
        ours.close()
    digests = [fingerprint([p.prompt_ids.tolist(), p.completion_ids.tolist()]) for p in probes]
    return Proof(noise, {d: s.logp.tolist() for d, s in zip(digests, scores, strict=False)})


def _check_sampled(
    engine: Engine,
    probes: Sequence[ScoreRequest],
    made: Sequence[Completion],
    name: str,
    limit: float,
) -> float:
    """The gap between what it says of tokens as it samples them and as it scores them. Noise has no
    direction, so a mean that has one counts four times."""
    told, scored = [TokenScores(c.logp) for c in made], _score(engine, _continued(probes, made))
    what = "what it sampled, and says of it as a sampler,"
    _refuse(name, gap := _gap(told, scored), limit, what)
    bias = np.concatenate([a.logp - b.logp for a, b in zip(told, scored, strict=True)]).mean()
    _refuse(name, abs(float(bias)), limit / 4, f"{what} in one direction")
    return gap


def _check_seeds(engine: Engine, probe: ScoreRequest, name: str, stop_ids: Sequence[int]) -> None:
    """Different seeds must give different samples, unless the model is all but certain."""
    made = _sample(engine, [probe] * NUM_SEEDS, 1.0, stop_ids)
    surprise = np.mean([-c.logp.sum() for c in made])
    if len({tuple(c.ids) for c in made}) == 1 and surprise > SURPRISED:
        raise _untrusted(name, "gives the same sample whatever the seed")


def _continued(
    probes: Sequence[ScoreRequest], made: Sequence[Completion], top_k: int = 0
) -> list[ScoreRequest]:
    """Requests to score what was sampled after the probes' prompts."""
    return [ScoreRequest(p.prompt_ids, c.ids, top_k) for p, c in zip(probes, made, strict=True)]


def _against(
    ours: Engine,
    probes: Sequence[ScoreRequest],
    scores: Sequence[TokenScores],
    made: Sequence[Completion],
) -> float:
    """The gap to our own forward: of scores, or of samples where the engine does not score."""
    if scores:
        return _gap(scores, _score(ours, probes))
    return _gap([TokenScores(c.logp) for c in made], _score(ours, _continued(probes, made)))


def _check_greedy(
    engine: Engine, ours: Engine, probes: Sequence[ScoreRequest], name: str, limit: float
) -> None:
    """The likeliest tokens, one after the other, must be ours, or as likely."""
    if not engine.offers.sample:
        return
    made = _sample(engine, probes, 0.0, ())
    for score in _score(ours, _continued(probes, made, top_k=1)):
        assert score.top_k is not None
        short = float((score.top_k.logp[:, 0] - score.logp).max())
        _refuse(name, short, 10 * limit, "the likeliest tokens, and our own forward pass,")


def _probes(prompts: Iterable[Sequence[int]], top_k: int) -> list[ScoreRequest]:
    """The first prompts cut in two, as prompt and completion."""
    different = {tuple(ids[:LONGEST]): None for ids in islice(prompts, 8 * NUM_PROBES)}
    lengths: dict[int, tuple[int, ...]] = {}
    for ids in different:
        lengths.setdefault(len(ids), ids)
    chosen = [*lengths.values(), *different][:NUM_PROBES]
    return [replace(_probe(ids), top_k=top_k) for ids in dict.fromkeys(chosen)]


def _probe(ids: tuple[int, ...]) -> ScoreRequest:
    whole = np.array(ids if len(ids) > 1 else ids * 2, np.int32)
    middle = max(1, len(whole) // 3)
    return ScoreRequest(whole[:middle], whole[middle:])


def _sample(
    engine: Engine, probes: Sequence[ScoreRequest], temperature: float, stop_ids: Sequence[int]
) -> list[Completion]:
    sampling = Sampling(temperature=temperature, max_new_tokens=SAMPLED)
    requests = [
        GenerateRequest(p.prompt_ids.tolist(), seed) for seed, p in enumerate(probes, start=1)
    ]
    return all_results(engine.generate(requests, sampling, stop_ids), len(probes))


def _score(engine: Engine, probes: Sequence[ScoreRequest]) -> list[TokenScores]:
    scores = all_results(engine.score(probes), len(probes))
    for probe, score in zip(probes, scores, strict=True):
        if len(score.logp) != len(probe.completion_ids) or not np.isfinite(score.logp).all():
            raise _untrusted(
                str(engine.numerics().get("engine")),
                f"gives {len(score.logp)} scores for {len(probe.completion_ids)} tokens, or scores "
                "that are no numbers",
            )
        if problem := top_k_problem(probe.completion_ids, score):
            raise _untrusted(str(engine.numerics().get("engine")), f"of its top k, {problem}")
    return scores


def _check_sane(scores: Sequence[TokenScores], name: str) -> None:
    logp = np.concatenate([s.logp for s in scores]).astype(np.float64)
    if np.abs(logp).max() < CERTAIN:
        raise _untrusted(name, "is certain of every token: its scores are all zero")
    if len(logp) > 2 and logp.std() < ALIKE:
        raise _untrusted(name, f"gives every token the same score, {logp[0]:.4g}")
    if (logp > CERTAIN).any():
        raise _untrusted(name, "gives scores above zero, which are no log-probs")


def _gap(ours: Sequence[TokenScores], theirs: Sequence[TokenScores]) -> float:
    gaps = [np.abs(a.logp - b.logp) for a, b in zip(ours, theirs, strict=True)]
    return float(np.concatenate(gaps).astype(np.float64).mean())


def _refuse(name: str, gap: float | None, limit: float, what: str) -> None:
    if gap is not None and not gap <= limit:
        raise _untrusted(name, f"scores {what} {gap:.3g} nats apart, over {limit:g}")


def _untrusted(name: str, problem: str) -> EngineError:
    return EngineError(
        f"the engine {name} was tried on a few sequences and {problem}",
        hint="it would fill a store with wrong numbers; see the guide on engines",
    )


def _our_forward(spec: EngineSpec) -> Engine | None:
    """The same model in Transformers on the CPU in float32, where the engine is another and the
    weights are here and small."""
    from leyden.engines.open import open_engine

    folder = Path(spec.model)
    if spec.choice.kind == "transformers" or not folder.is_dir():
        return None
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if not 0 < weights <= OURS_AT_MOST:
        return None
    execution = spec.execution.model_copy(update={"device": "cpu", "dtype": "float32"})
    return open_engine(replace(spec, execution=execution, choice=EngineChoice()))
