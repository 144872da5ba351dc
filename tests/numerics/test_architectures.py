"""Models of many architectures: log-probs are the model's own in float64, in any company, or the
model is refused by name."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from leyden.data.batches import collate
from leyden.data.sequences import TokenSequence
from leyden.engines.base import GenerateRequest, ScoreRequest
from leyden.engines.batching import batching_of
from leyden.engines.cached import Batching, Decoding
from leyden.engines.transformers import TransformersEngine
from leyden.errors import EngineError
from leyden.models.load import load_model
from leyden.models.vocabulary import load_sizes
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.train.student import StudentLM

SHAPE = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_chunk_size": 8, "mamba_d_ssm": 64,
}  # fmt: skip
GEMMA = {"sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}
CHANGED_LOGITS = {
    "gemma2": GEMMA | {"final_logit_softcapping": 3.0},
    "vaultgemma": GEMMA | {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "nanochat": {"final_logit_softcapping": 3.0},
    "falcon_h1": MAMBA | {"lm_head_multiplier": 0.1},
}
HYBRIDS = {
    "qwen3_5_text": LINEAR,
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "falcon_h1": MAMBA,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
}
PLAIN = {"llama": {}, "qwen3": {}, "gemma3_text": {"sliding_window": 6}, "mixtral": EXPERTS}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}
SINKS = EXPERTS | {"sliding_window": 6}
PHI = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4, "original_max_position_embeddings": 32,
    },
    "original_max_position_embeddings": 32,
}  # fmt: skip


def make(folder, kind, fields):
    torch.manual_seed(0)
    fields = {key: value for key, value in (SHAPE | fields).items() if value is not None}
    config = AutoConfig.for_model(kind, **fields)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    return folder


def load(folder, **kwargs):
    return load_model(folder, **({"device": "cpu", "dtype": "float32"} | kwargs))


def sequences(*lengths):
    draw = np.random.default_rng(1).integers
    return [
        TokenSequence(draw(3, 48, p).astype(np.int32), draw(3, 48, c).astype(np.int32))
        for p, c in lengths
    ]


SEQUENCES = sequences((4, 6), (7, 9), (3, 12), (9, 2))


@torch.no_grad()
def score(student, batch):
    return student(batch, batch.target_N)


def student_of(folder, **kwargs):
    return StudentLM(load(folder, **kwargs), chunk=5)


def logits_of(model, sequence):
    """The model's own logits that predict the completion, with gradients."""
    ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64)
    return model(torch.from_numpy(ids)[None]).logits[0, len(sequence.prompt_ids) - 1 : -1]


@pytest.mark.parametrize("kind", CHANGED_LOGITS)
def test_changed_logits_are_the_models_own_forward_and_backward(tmp_path, kind):
    folder = make(tmp_path, kind, CHANGED_LOGITS[kind])
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    sequence = SEQUENCES[1]
    targets = torch.from_numpy(sequence.completion_ids.astype(np.int64))[:, None]
    expected = logits_of(own, sequence).log_softmax(-1).gather(-1, targets)[:, 0]
    expected.sum().backward()
    student = student_of(folder)
    batch = collate([sequence])
    ours = student(batch, batch.target_N)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
    ours.sum().backward()
    theirs = dict(own.named_parameters())
    for name, parameter in student.model.named_parameters():
        mine, gradient = parameter.grad, theirs[name].grad
        assert (mine is None) == (gradient is None), name
        if mine is not None and gradient is not None:
            gap = (mine.double() - gradient).norm() / gradient.norm().clamp_min(1e-6)
            assert gap < 1e-3, name


@pytest.mark.parametrize(
    ("kind", "fields", "attention"),
    [
        ("llama", {}, "sdpa"),
        ("gemma2", GEMMA, "eager"),  # fused attention leaves its cap out
        ("gpt_oss", SINKS, "eager"),  # has no fused attention
        ("falcon", {"alibi": True, "head_dim": None}, "eager"),  # chooses when it is made
    ],
)
def test_attention_is_fused_only_where_it_computes_the_same(tmp_path, kind, fields, attention):
    folder = make(tmp_path, kind, fields)
    model = load(folder)
    assert model.config._attn_implementation == attention
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            logits_of(model, SEQUENCES[1]), logits_of(own, SEQUENCES[1]), rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("kind", [*PLAIN, *HYBRIDS])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_sequence_scores_alike_in_any_company_or_the_model_is_refused(tmp_path, kind, layout):
    folder = make(tmp_path, kind, (PLAIN | HYBRIDS)[kind])
    if layout == "packed" and kind in HYBRIDS:
        with pytest.raises(EngineError, match="packed into one row change each other"):
            load(folder, layout=layout)
        return
    student = student_of(folder, layout=layout)
    alone = torch.cat([score(student, collate([s])) for s in SEQUENCES])
    together = score(student, collate(SEQUENCES, layout=layout))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_packed_batch_is_refused_also_where_the_model_was_loaded_for_padded_ones(tmp_path):
    student = student_of(make(tmp_path, "opt", OPT))
    with pytest.raises(EngineError, match=r"OPTForCausalLM\): sequences packed into one row"):
        score(student, collate(SEQUENCES, layout="packed"))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("lfm2", "float32"), ("falcon_h1", "float32"), ("opt", "float32"), ("opt", "bfloat16")],
)
def test_a_leak_shows_whatever_the_scale_of_the_weights(tmp_path, kind, dtype):
    """An untrained model has logits near zero; so training loads its weights in float32."""
    fields = (HYBRIDS | {"opt": OPT})[kind] | {"initializer_range": 0.02, "init_std": 0.02}
    folder = make(tmp_path, kind, fields)
    load(folder, dtype=dtype)
    with pytest.raises(EngineError, match="sequences packed into one row change each other"):
        load(folder, dtype=dtype, layout="packed")


def test_large_logits_are_no_reason_against_fused_attention(tmp_path):
    """In bfloat16 a deep model with logits to 30 rounds by more than a small one leaks."""
    folder = make(tmp_path, "llama", {"num_hidden_layers": 28, "initializer_range": 0.125})
    model = load(folder)
    logits = model(torch.arange(20, 44)[None]).logits
    with torch.no_grad():
        model.lm_head.weight.mul_(8 / logits.std(-1).mean())
    model.save_pretrained(folder)
    for dtype in ("float32", "bfloat16"):
        assert load(folder, dtype=dtype).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", [*PLAIN, *HYBRIDS, "gpt_oss"])
def test_samples_have_the_log_probs_that_they_score(tmp_path, kind):
    """Prompts differ in length, and rows stop at different times."""
    model = load(make(tmp_path, kind, (PLAIN | HYBRIDS | {"gpt_oss": SINKS})[kind]))
    assert batching_of(model).drops == (kind not in HYBRIDS)
    engine = TransformersEngine.around(model, Execution(generate_batch_size=3))
    requests = [
        GenerateRequest(s.prompt_ids.tolist(), seed) for seed, s in enumerate(SEQUENCES * 2)
    ]
    made = dict(engine.generate(requests, Sampling(max_new_tokens=12), list(range(1, 13))))
    assert len({len(completion.ids) for completion in made.values()}) > 3
    asked = [ScoreRequest(np.asarray(r.prompt_ids), made[i].ids) for i, r in enumerate(requests)]
    for index, scores in engine.score(asked):
        np.testing.assert_allclose(made[index].logp, scores.logp, atol=2e-3)


def test_a_model_that_reads_padding_is_sampled_in_batches_of_one_length(tmp_path, monkeypatch):
    """The cache of this one is as good as any, so the gap is made: it shows who is batched."""
    from leyden.engines import batching

    model = load(make(tmp_path, "llama", {}))
    monkeypatch.setattr(batching, "_gap", lambda model, way: (1.0 if way.pads else 0.0, 1))
    assert batching_of(model) == Batching(pads=False, joins=False)
    begun, real = [], Decoding.begin
    monkeypatch.setattr(
        Decoding, "begin", lambda *a: begun.append([len(p) for p in a[2]]) or real(*a)
    )
    requests = [GenerateRequest(s.prompt_ids.tolist(), 0) for s in (*SEQUENCES, *SEQUENCES)]
    engine = TransformersEngine.around(model, Execution())
    assert len(dict(engine.generate(requests, Sampling(max_new_tokens=2), []))) == 8
    assert begun == [[3, 3], [4, 4], [7, 7], [9, 9]]


def test_a_rotary_embedding_that_follows_the_batch_limits_the_context(tmp_path):
    folder = make(tmp_path, "phi3", PHI)
    assert load_sizes(folder) == (48, 32)
    student = student_of(folder)
    short = sequences((4, 6), (5, 7))
    alone = torch.cat([score(student, collate([s])) for s in short])
    torch.testing.assert_close(score(student, collate(short)), alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(EngineError, match="sequences over 32 tokens"):
        score(student, collate(sequences((4, 6), (7, 29))))
    engine = TransformersEngine.around(student.model, Execution())
    with pytest.raises(EngineError, match="sequences over 32 tokens"):
        list(engine.generate([GenerateRequest([5] * 30, 0)], Sampling(max_new_tokens=9), []))


def test_attention_to_a_chosen_number_of_keys_limits_the_context(tmp_path):
    folder = make(tmp_path, "doge", {"keep_window_size": 16})
    assert load_sizes(folder) == (48, 16)
    student = student_of(folder)
    short = sequences((4, 6), (5, 9))
    alone = torch.cat([score(student, collate([s])) for s in short])
    torch.testing.assert_close(score(student, collate(short)), alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(EngineError, match="sequences over 16 tokens"):
        score(student, collate(sequences((4, 6), (7, 29))))


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("bert", {}, "lets a token see later ones"),
        ("modernbert-decoder", {}, "its head reads other states"),
        ("recurrent_gemma", {"logits_soft_cap": 1.0}, "not those of its head"),
    ],
)
def test_what_is_no_causal_model_with_a_known_head_is_refused(tmp_path, kind, fields, sentence):
    with pytest.raises(EngineError, match=sentence):
        load(make(tmp_path, kind, fields))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_near_a_hundred_are_no_reason_to_refuse(tmp_path, dtype, tied):
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **(SHAPE | {"tie_word_embeddings": tied}))
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    model.save_pretrained(tmp_path)
    assert load(tmp_path, dtype=dtype) is not None


def test_a_model_with_nan_is_refused_with_the_cause(tmp_path):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="log-probs are not finite") as caught:
        load(tmp_path)
    assert "NaN" in caught.value.hint


def test_want_of_memory_is_no_verdict_on_a_model(tmp_path, monkeypatch):
    from leyden.models import checks

    folder = make(tmp_path, "llama", {})

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checks, "states_alone", full)
    with pytest.raises(EngineError, match="there is not enough memory to run it"):
        load(folder)
