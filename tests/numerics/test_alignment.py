"""Alignment of tokens and log-probs, and the stop token, on Transformers models in float64."""

import operator

import numpy as np
import pytest
import torch

from conftest import (
    columns_of,
    gradients,
    random_model,
    random_sequences,
    sampled_by_engine,
    scored_by_engine,
)
from leyden.data.batches import collate
from leyden.data.sequences import ModelScores, TeacherColumns, TokenSequence
from leyden.engines.base import GenerateRequest
from leyden.engines.transformers import TransformersEngine
from leyden.errors import EngineError
from leyden.models.load import hidden_states
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.recipe.training import Objective, Optimisation
from leyden.train.loop import Training
from leyden.train.objective import Totals, compute_loss
from leyden.train.student import StudentLM


def oracle_logprobs(model, sequence: TokenSequence) -> np.ndarray:
    """For each token feed its prefix alone, and take the token's log-prob."""
    ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids]).tolist()
    computed = []
    for t in range(len(sequence.prompt_ids), len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:t]])).logits[0, -1].double()
        computed.append((logits - logits.logsumexp(-1))[ids[t]].item())
    return np.array(computed)


def scored(model, sequences, *, teacher: int | None = None, shift: float = 0.0):
    """The sequences with ``model``'s own scores as both teacher and reference.

    ``teacher`` seeds a top k; ``shift`` (nats) is taken from the teacher's log-probs.
    """
    result = []
    for s in sequences:
        logp = oracle_logprobs(model, s)
        own = ModelScores(logp - shift), ModelScores(logp), None
        if teacher is not None:
            rng, count = np.random.default_rng([teacher, len(s)]), len(s.completion_ids)
            mass = np.log(rng.dirichlet(np.ones(5), count))
            top = ModelScores(logp - shift, mass[:, :4], mass[:, 4])
            own = top, own[1], np.tile(np.arange(4, 8), (count, 1))
        result.append(TokenSequence(s.prompt_ids, s.completion_ids, TeacherColumns(*own)))
    return result


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_student_that_scored_itself_has_no_advantage(layout):
    """Ragged, one-token, padded or packed, every advantage is 0, and so are loss and gradient."""
    model = random_model()
    sequences = scored(model, random_sequences(7))
    batch = collate(sequences, layout=layout)
    student = StudentLM(model, chunk=5)
    totals = Totals(7, len(batch.target_N))
    loss, sums = compute_loss(student, batch, Objective(), totals)
    loss.backward()
    assert sums["advantage_squared"].sqrt().item() < 1e-10
    assert gradients(model).abs().max() < 1e-9


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_log_probs_are_those_of_the_prefix_alone(layout):
    model = random_model(1)
    sequences = random_sequences(6, seed=1)
    batch = collate(sequences, layout=layout)
    computed = StudentLM(model, chunk=4)(batch, batch.target_N).detach().numpy()
    expected = np.concatenate([oracle_logprobs(model, s) for s in sequences])
    np.testing.assert_allclose(computed, expected, atol=1e-10)


def test_an_engine_around_a_student_never_goes_back_to_the_weights_on_disk():
    model = random_model(2)
    engine = TransformersEngine.around(model, Execution())
    (before,) = scored_by_engine(engine, random_sequences(1))
    engine.close()
    (after,) = scored_by_engine(engine, random_sequences(1))
    assert engine.loaded.model is model
    np.testing.assert_array_equal(before.logp, after.logp)


def test_the_engine_scores_what_it_sampled():
    """Left-padded cached sampling and right-padded scoring give the same log-probs."""
    model = random_model(2)
    engine = TransformersEngine.around(model, Execution(generate_batch_size=3, batch_tokens=40))
    prompts = [s.prompt_ids.tolist() for s in random_sequences(8, seed=2)]
    requests = [GenerateRequest(p, seed) for seed, p in enumerate(prompts)]
    done = sampled_by_engine(engine, requests, Sampling(max_new_tokens=20), [5])
    sequences = [
        TokenSequence(np.array(p, np.int32), c.ids) for p, c in zip(prompts, done, strict=True)
    ]
    for completion, scores in zip(done, scored_by_engine(engine, sequences), strict=True):
        np.testing.assert_allclose(completion.logp, scores.logp, atol=1e-5)
        ended = completion.ids[-1] == 5
        assert completion.finish_reason == ("stop" if ended else "length")
        assert (completion.ids[:-1] != 5).all()


STOP = 1


@pytest.mark.parametrize("objective", ["sampled", "topk_tail", "sft"])
def test_the_stop_token_is_trained(objective):
    """The gradients with and without the stop token differ by the stop token's own gradient."""
    model = random_model(3)
    computed = []
    for ends in (True, False):
        whole = [
            TokenSequence(s.prompt_ids, np.append(s.completion_ids, STOP).astype(np.int32))
            for s in random_sequences(4, seed=3)
        ]
        sequences = scored(model, whole, teacher=0, shift=1.0)
        cut = slice(None, None if ends else -1)
        kept = [
            TokenSequence(
                s.prompt_ids, s.completion_ids[cut], columns_of(s).map(operator.itemgetter(cut))
            )
            for s in sequences
        ]
        batch = collate(kept)
        settings = Objective(objective=objective, reduction="sequence_sum")
        computed.append(gradient(model, batch, settings))
    assert (computed[0] - computed[1]).abs().max() > 1e-3


def gradient(model, batch, settings) -> torch.Tensor:
    model.zero_grad()
    totals = Totals(4, len(batch.target_N))
    compute_loss(StudentLM(model, chunk=4), batch, settings, totals)[0].backward()
    return gradients(model)


@pytest.mark.parametrize("objective", ["sampled", "topk", "topk_tail"])
def test_changing_the_teachers_scores_changes_the_gradient(objective):
    model = random_model(4)
    settings = Objective(objective=objective)
    computed = []
    for teacher in (0, 1):
        sequences = scored(model, random_sequences(4, seed=4), teacher=teacher, shift=teacher)
        computed.append(gradient(model, collate(sequences), settings))
    assert (computed[0] - computed[1]).abs().max() > 1e-3


def test_every_step_is_one_forward(monkeypatch, tmp_path):
    """The loop calls the backbone once per micro-batch: no old-policy or reference forward."""
    model = random_model(5)
    sequences = scored(model, random_sequences(4, seed=5), teacher=0)
    calls = []
    real = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **k: calls.append(1) or real(**k))
    Training(
        data=sequences,
        heldout=[],
        settings=Objective(objective="topk_tail", steps=3, batch_size=4, importance="prefix"),
        seed=0,
        folder=tmp_path,
        execution=Execution(batch_tokens=1),
    ).run(StudentLM(model, chunk=4))
    assert len(calls) == 3 * 4


def test_a_gradient_that_is_not_finite_stops_training(tmp_path):
    model = random_model(6)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(EngineError, match="gradient of step 1 is nan"):
        Training(
            data=random_sequences(4),
            heldout=[],
            settings=Optimisation(steps=1, batch_size=4),
            seed=0,
            folder=tmp_path,
            execution=Execution(),
        ).run(StudentLM(model, chunk=4))


def test_log_probs_over_a_smaller_vocabulary_are_renormalised():
    """Models of one tokenizer may pad their embeddings differently. Only the common ids count."""
    model = random_model(8)
    batch = collate(random_sequences(3, seed=8))
    batch.target_N.clamp_(max=39)
    computed = StudentLM(model, chunk=4, vocab_size=40)(batch, batch.target_N)
    logits = model.lm_head(hidden_states(model, batch))[:, :40]
    expected = logits.log_softmax(-1).gather(-1, batch.target_N[:, None])[:, 0]
    torch.testing.assert_close(computed, expected)
