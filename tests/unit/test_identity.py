"""A model's identity is its content, part by part, and neither its name nor its place."""

import json
import shutil
import time
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from conftest import MODELS
from leyden.errors import EngineError
from leyden.provenance import identity
from leyden.provenance.identity import canonical_json, derive_seed, fingerprint, identify_model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "base", folder)
    return folder


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.float32(9))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


CHANGES = {
    "weights": change_weight,
    "template": change_template,
    "tokenizer": lambda f: edit_json(
        f / "tokenizer.json", lambda v: v["model"]["vocab"].update(zz=48)
    ),
    "config": lambda f: edit_json(f / "config.json", lambda v: v.update(rms_norm_eps=1e-5)),
    "quantisation": lambda f: edit_json(
        f / "config.json", lambda v: v.update(quantization_config={"bits": 4})
    ),
    "stop tokens": lambda f: edit_json(
        f / "generation_config.json", lambda v: v.update(eos_token_id=2)
    ),
}


@pytest.mark.parametrize("part", CHANGES)
def test_one_change_is_noticed_and_named(model, part):
    before = identify_model(model)
    CHANGES[part](model)
    after = identify_model(model)
    assert after.digest != before.digest
    assert before.differences(after) == [part]


def test_where_a_model_lies_and_how_it_was_saved_do_not_matter(model, tmp_path):
    before = identify_model(model)
    shutil.copytree(model, tmp_path / "elsewhere")
    edit_json(
        tmp_path / "elsewhere/config.json",
        lambda v: v.update(_name_or_path="x", transformers_version="9", use_cache=False),
    )
    assert identify_model(tmp_path / "elsewhere") == before


def test_a_config_may_hold_infinity(model):
    path = model / "config.json"
    path.write_text(path.read_text().replace("{", '{"time_step_limit": [0.0, Infinity],', 1))
    first = identify_model(model)
    path.write_text(path.read_text().replace("Infinity", "NaN"))
    assert first.differences(identify_model(model)) == ["config"]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("config.json", "has no config.json"), ("model.safetensors", r"no \*.safetensors")],
)
def test_an_incomplete_folder_is_refused(model, missing, sentence):
    (model / missing).unlink()
    with pytest.raises(EngineError, match=sentence):
        identify_model(model)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_key_order_does_not_change_a_fingerprint(values):
    assert fingerprint(values) == fingerprint(dict(reversed(values.items())))
    assert json.loads(canonical_json(values)) == values


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        fingerprint(value)


def test_seeds_depend_on_every_part():
    seeds = {derive_seed(*p) for p in [(1, "a", 0), (1, "a", 1), (2, "a", 0), (1, "b", 0)]}
    assert len(seeds) == 4 and all(0 <= s < 2**63 for s in seeds)


def test_a_file_is_hashed_once_in_a_process_unless_it_changed(tmp_path, monkeypatch):
    path, reads = tmp_path / "shard", []
    path.write_bytes(b"one")
    real = identity._hash_bytes_of
    monkeypatch.setattr(identity, "_hash_bytes_of", lambda p: reads.append(p) or real(p))
    assert identity.hash_once(path) == identity.hash_once(path) == sha256(b"one").hexdigest()
    assert len(reads) == 2  # it is new, and another write might leave the same times
    monkeypatch.setattr(identity, "SETTLED_NS", -1)
    assert identity.hash_once(path) == identity.hash_once(path) == sha256(b"one").hexdigest()
    assert len(reads) == 3
    with identity.hashed_afresh():
        identity.hash_once(path)
    assert len(reads) == 4
    time.sleep(0.02)
    path.write_bytes(b"two")
    assert identity.hash_once(path) == sha256(b"two").hexdigest()
