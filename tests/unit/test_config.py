"""Recipes refuse unknown keys and wrong values, and explain why."""

import traceback

import pytest

from conftest import SMALL
from leyden.errors import ConfigError
from leyden.recipe.toml import load_recipe, parse_overrides, write_recipe


def recipe_file(tmp_path, *, change=("", "")):
    text = SMALL.format(models="m", prompts="p", root=tmp_path).replace(*change)
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def load(tmp_path, *flags, change=("", "")):
    return load_recipe(recipe_file(tmp_path, change=change), parse_overrides(list(flags)))


def test_a_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = load(tmp_path)
    write_recipe(recipe, tmp_path / "again.toml")
    assert load_recipe(tmp_path / "again.toml") == recipe


def test_paths_are_relative_to_the_recipe_and_in_flags_to_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = load(
        tmp_path, "--prompts.opd.file", "b.jsonl", "--models.base", "./base",
        change=('teacher = "m/teacher"', 'teacher = "./m/teacher"'),
    )  # fmt: skip
    assert recipe.models.teacher == str(tmp_path / "m/teacher")
    assert recipe.prompts.sft.file == str(tmp_path / "p/sft.jsonl")
    assert recipe.prompts.opd.file == str(tmp_path / "here/b.jsonl")
    assert recipe.models.base == str(tmp_path / "here/base")


def test_flags_set_fields_with_dashes_or_underscores(tmp_path):
    recipe = load(tmp_path, "--sft.learning-rate", "2e-6", "--distill.arms.tail.advantage_clip=3.0")
    assert recipe.sft.learning_rate == 2e-6
    assert recipe.distill.resolved_arms()["tail"].advantage_clip == 3.0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sft.learning_rat", "1"], "unknown key sft.learning_rat = 1"),
        (["--sft.steps", "ten"], "sft.steps = 'ten' is not valid"),
        (["--sft.steps", "0"], "sft.steps = 0 is not valid"),
        (["--sft.steps", "1.5"], "sft.steps = 1.5 is not valid"),
        (["--sft.learning_rate", "nan"], "sft.learning_rate"),
        (["--teach.top_p", "1.5"], "teach.top_p = 1.5 is not valid"),
        (["--score.top_k", "0"], "needs stored top-k"),
        (
            ["--distill.arms.sampled.importance", "tokens"],
            "--distill.arms.sampled.importance = 'tokens' is not valid",
        ),
        (["--distill.arms.tail.importance", "token"], "no meaning for objective"),
        (["--distill.arms.sampled.importance_cap", "2.0"], "importance_cap is set"),
        (["--models.sft_teacher", "x"], "did not write the SFT data"),
        (["--models.reference", "x"], "go together"),
        (["--distill.arms.tail.top_k", "5"], "top_k = 5 exceeds the stored score.top_k = 4"),
        (["--distill.arms.sampled.top_k", "2"], "top_k has no effect for objective"),
        (["--distill.arms.sft_teacher", "{}"], "'sft_teacher' is the name of another model"),
        (["--distill.arms.tail.stepz", "3"], "unknown key distill.arms.tail.stepz = 3"),
        (["--evaluate.kl_prompts", "99"], "exceeds prompts.heldout = 8"),
        (["--distill.arms.base", "{}"], "name of another model"),
        (["--seed.x", "1"], "not a section"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found(tmp_path, flags, sentence):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *flags)
    assert sentence in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("flag", "value", "hint"),
    [
        ("--teach.temprature", "1.0", "did you mean 'temperature'?"),  # codespell:ignore
        ("--distill.arms.tail.stepz", "3", "did you mean 'steps'?"),
        ("--distill.arms.tail.objective", "topk-tail", "did you mean 'topk_tail'?"),
        ("--sft.steps", "0", "steps is: Optimizer steps."),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(tmp_path, flag, value, hint):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, flag, value)
    assert caught.value.hint == hint


def test_a_mistake_is_placed_in_the_file_or_in_the_flag(tmp_path):
    with pytest.raises(ConfigError, match=r"^--sft\.steps = 0 is not valid"):
        load(tmp_path, "--sft.steps", "0")
    with pytest.raises(ConfigError, match=r"r\.toml: distill.arms.tail.top_k = -1 is not valid"):
        load(tmp_path, change=("[distill.arms.tail]", "[distill.arms.tail]\ntop_k = -1"))


def test_a_traceback_shows_the_hint_too():
    error = ConfigError("a sentence", hint="what to do")
    assert traceback.format_exception(error)[-1] == "hint: what to do\n"


def test_a_missing_section_and_bad_toml_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match=r"models\.base is required"):
        load(tmp_path, change=('base = "m/base"', ""))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path, change=("[teach]", "[teach"))
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path / "absent.toml")


def test_identity_ignores_where_and_notices_what(tmp_path):
    base = load(tmp_path).identity()
    for flag in ("--models.teacher", "--prompts.sft.file"):
        assert load(tmp_path, flag, "elsewhere").identity() == base
    assert load(tmp_path, "--execution.threads", "2").identity() == base
    assert load(tmp_path, "--sft.checkpoint_every", "9").identity() == base
    assert load(tmp_path, "--sft.steps", "7").identity() != base
    assert load(tmp_path, "--template.plain", "{prompt}!").identity() != base
