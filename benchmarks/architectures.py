"""Does every causal architecture that Transformers knows score and sample right, or is it refused?

    python benchmarks/architectures.py [NAME ...]

A tiny random model of each is saved, loaded as leyden loads any model, and compared with its own
plain forward by eager attention, one sequence at a time: alone, in a padded batch, packed into one
row, and as sampled. A row of the table says, for each, ``right`` (within 0.002 nats), ``refused``,
or by how many nats it is WRONG.
"""

import logging
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from leyden.data.batches import collate
from leyden.data.sequences import TokenSequence
from leyden.engines.base import GenerateRequest, ScoreRequest
from leyden.engines.transformers import TransformersEngine
from leyden.errors import LeydenError
from leyden.models.load import load_model
from leyden.recipe.sampling import Sampling
from leyden.recipe.schema import Execution
from leyden.train.student import StudentLM

SHAPE = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 256, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_head_dim": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "head_dim": 8,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 16,
    "mamba_chunk_size": 8, "chunk_size": 8, "state_size": 16, "num_heads": 4, "mamba_d_ssm": 64,
    "use_mamba_kernels": False,
}  # fmt: skip
GEMMA = {"sliding_window": 6, "query_pre_attn_scalar": 8}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
FIELDS: dict[str, dict] = {
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "bloom": {"n_head": 4, "n_layer": 4},
    "codegen": GPT | {"rotary_dim": 8},
    "cohere": {"logit_scale": 0.25},
    "deepseek_v2": EXPERTS | LATENT,
    "deepseek_v3": EXPERTS | LATENT,
    "deepseek_v32": EXPERTS | LATENT,
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None},
    "falcon_h1": MAMBA | {"lm_head_multiplier": 0.1},
    "gemma2": GEMMA | {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 6},
    "glm4_moe": EXPERTS,
    "glm4_moe_lite": EXPERTS | LATENT,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "num_layers": 4, "num_heads": 4, "window_size": 6,
        "attention_types": [[["global", "local"], 2]],
    },
    "gpt_oss": EXPERTS | {"sliding_window": 6},
    "gptj": GPT | {"rotary_dim": 8},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "granitemoe": EXPERTS | {"logits_scaling": 8.0},
    "granitemoehybrid": MAMBA | EXPERTS | {"layer_types": ["mamba", "attention"] * 2},
    "jamba": MAMBA | EXPERTS | {
        "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "kimi_linear": LINEAR | EXPERTS | LATENT,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
    "lfm2_moe": EXPERTS | {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
    "llama4_text": EXPERTS | {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 64},
    "mamba": MAMBA,
    "mamba2": MAMBA | {"num_heads": 4, "head_dim": 16},
    "minimax": EXPERTS | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4},
    "nanochat": {"final_logit_softcapping": 15.0},
    "nemotron_h": MAMBA | {"hybrid_override_pattern": "M*M-"},
    "olmo_hybrid": LINEAR,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    "phi3": {"pad_token_id": 0},
    "qwen3_5_moe_text": LINEAR | EXPERTS,
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | EXPERTS,
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"]},
    "vaultgemma": GEMMA | {"final_logit_softcapping": 5.0},
    "zamba2": MAMBA | {
        "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3],
        "adapter_rank": 4,
    },
}  # fmt: skip
WITHIN = 2e-3  # nats
SECONDS = 60  # for one architecture; defaults of some make models too large for this
COLUMNS = ("alone", "padded", "packed", "sampled")
RNG = np.random.default_rng(1)
SEQUENCES = [
    TokenSequence(RNG.integers(3, 48, p).astype(np.int32), RNG.integers(3, 48, c).astype(np.int32))
    for p, c in [(4, 6), (7, 9), (3, 12), (9, 2)]
]


def make(name: str, folder: Path) -> None:
    """Save a tiny random model, with weights large enough for varied log-probs."""
    torch.manual_seed(0)
    fields = {k: v for k, v in (SHAPE | FIELDS.get(name, {})).items() if v is not None}
    config = AutoConfig.for_model(name, **fields)
    if config.get_text_config() is not config:
        raise ValueError("several models in one, whose text model is judged under its own name")
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.std() < 0.1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)


@torch.no_grad()
def expected(folder: Path) -> torch.Tensor:
    """Log-probs of every completion token by the model's own forward."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    parts = []
    for sequence in SEQUENCES:
        ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64)
        ids_1T, start = torch.from_numpy(ids)[None], len(sequence.prompt_ids)
        logp = model(input_ids=ids_1T, use_cache=False).logits[0].double().log_softmax(-1)
        parts.append(logp[start - 1 : -1].gather(-1, ids_1T[0, start:, None])[:, 0])
    return torch.cat(parts)


def sampled_gap(student: StudentLM) -> float:
    """The distance of log-probs as sampled from those that the same tokens score."""
    engine = TransformersEngine.around(student.model, Execution(device="cpu"))
    requests = [GenerateRequest(s.prompt_ids.tolist(), i) for i, s in enumerate(SEQUENCES * 2)]
    made = dict(engine.generate(requests, Sampling(max_new_tokens=14), list(range(1, 13))))
    asked = [ScoreRequest(np.asarray(r.prompt_ids), made[i].ids) for i, r in enumerate(requests)]
    return max(float(np.abs(s.logp - made[i].logp).max()) for i, s in engine.score(asked))


def judge(folder: Path) -> dict[str, str]:
    """Column -> outcome."""
    try:
        student = StudentLM(load_model(folder, device="cpu", dtype="float32"), chunk=64)
    except LeydenError:
        return dict.fromkeys(COLUMNS, "refused")
    right = expected(folder)

    @torch.no_grad()
    def gap(layout: str, *groups: list[TokenSequence]) -> float:
        batches = [collate(group, layout=layout) for group in groups]
        ours = torch.cat([student(batch, batch.target_N) for batch in batches])
        return float((ours - right).abs().max())

    ways: dict[str, Callable[[], float]] = {
        "alone": lambda: gap("padded", *([s] for s in SEQUENCES)),
        "padded": lambda: gap("padded", SEQUENCES),
        "packed": lambda: gap("packed", SEQUENCES),
        "sampled": lambda: sampled_gap(student),
    }
    return {name: outcome(way) for name, way in ways.items()}


def outcome(way: Callable[[], float]) -> str:
    try:
        nats = way()
    except LeydenError:
        return "refused"
    except Exception as error:
        return f"CRASH {type(error).__name__}"
    return "right" if nats < WITHIN else f"WRONG {nats:.2g}"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(*_) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    for name in sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        folder = Path(tempfile.mkdtemp())
        try:
            with at_most(SECONDS):
                make(name, folder)
        except Exception as error:  # these fields make no small model of it, which judges nothing
            print(f"{name:24} not made: {type(error).__name__}", flush=True)
            counts["made", "no"] += 1
            continue
        try:
            with at_most(SECONDS):
                found = judge(folder)
        except Exception as error:
            found = dict.fromkeys(COLUMNS, f"CRASH {type(error).__name__}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name:24}", *(f"{found[column]:12}" for column in COLUMNS), flush=True)
        counts.update((column, found[column].split()[0]) for column in COLUMNS)
    for column in COLUMNS:
        print(column, {how: n for (c, how), n in sorted(counts.items()) if c == column})
    print("not made:", counts["made", "no"])


if __name__ == "__main__":
    main()
