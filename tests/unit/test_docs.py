"""What the documentation shows is what the code does."""

import re
import tomllib

import pytest

from conftest import ROOT, module_at
from leyden.recipe.toml import load_recipe

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate():
    return module_at(DOCS / "generate.py")


def test_recipe_fields_are_current(generate):
    assert (DOCS / "reference/recipe.md").read_text() == generate.recipe_page(), "run `make docs`"


def test_command_line_is_current(generate):
    assert (DOCS / "reference/cli.md").read_text() == generate.cli_page(), "run `make docs`"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_every_recipe_is_valid(path):
    load_recipe(path)


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_readme_is_one_screen_with_a_command_early():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 120
    assert any("make demo" in line for line in lines[:20])


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=str)
def test_toml_in_the_documentation_names_real_fields(path):
    """Every key of a TOML block is a field of the recipe's schema."""
    import json

    from leyden.recipe.schema import Recipe

    known = set(re.findall(r'"([a-z_0-9]+)"', json.dumps(Recipe.model_json_schema())))
    known |= {"sampled", "topk_tail"}  # names of arms
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        assert keys(tomllib.loads(block)) <= known


def keys(value) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {k for item in value.values() for k in keys(item)}
    return set()


def test_every_term_of_the_example_table_comes_from_a_run():
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- table:begin -->")[1].split("<!-- table:end -->")[0]
    assert "minus SFT continued" in table and "±" in table
