"""The pages agree with the code and with the measurements."""

import ast
import json
import math
import re
import sys
import tomllib

import pytest
from pydantic import BaseModel
from safetensors import safe_open

from conftest import ROOT, module_at
from leyden.monitor.diagnosis import RULES
from leyden.recipe.benchmarks import Evaluate
from leyden.recipe.schema import Recipe
from leyden.recipe.toml import load_recipe
from leyden.report.curves import CURVES, LOSS
from leyden.run.table import STAGES
from leyden.store.schema import COMPLETIONS, scores_schema

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(
    p
    for p in [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *ROOT.glob("*/*.md"),
        *ROOT.glob("labs/*/*.md"),
    ]
)
WRITTEN = [p for p in PAGES if "reference" not in p.parts and "labs" not in p.parts]
TABLE = re.compile(r"<!-- table:begin -->\n(.*)<!-- table:end -->", re.DOTALL)


def named(path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def seeds():
    """The module that measures README's table, and the accuracies that were measured."""
    folder = ROOT / "examples/tiny"
    sys.path.insert(0, str(folder))
    module = module_at(folder / "seeds.py")
    sys.path.remove(str(folder))
    return module, json.loads((folder / "seeds.json").read_text())


def prose(path) -> str:
    """A page in one line, so that a sentence is found however it is wrapped."""
    return " ".join(path.read_text().split())


def table_after(path, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    lines = path.read_text().split(heading)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("page", ["recipe", "cli", "python"])
def test_the_reference_is_current(page):
    generate = module_at(DOCS / "generate.py")
    text = getattr(generate, f"{page}_page")()
    assert (DOCS / f"reference/{page}.md").read_text() == text, "run `make docs`"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_every_recipe_is_valid(path):
    load_recipe(path)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), target
        assert not heading or heading in anchors(place), target


def anchors(path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_lines_of_prose_are_short(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) >= 120] == []


def test_readme_is_one_screen_with_a_command_early():
    lines = README.read_text().splitlines()
    assert len(lines) < 120
    assert any("make demo" in line for line in lines[:20])


def test_readme_explains_terms_before_it_uses_them():
    text = README.read_text()
    for term in ("teacher", "student", "SFT", "rollouts", "reference policy", "arms"):
        explained = text.index(f"**{term}**")
        assert term not in text[:explained], term


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_toml_in_the_documentation_names_real_fields(path):
    """Every key of a TOML block is a field of the recipe's schema, in its place."""
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        check_fields(tomllib.loads(block), Recipe)


def check_fields(values: dict, section: type[BaseModel]) -> None:
    for name, value in values.items():
        assert name in section.model_fields, f"{section.__name__} has no field {name}"
        inner = section.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            check_fields(value, inner)
        elif name == "arms":
            for arm in value.values():
                assert set(arm) <= set(section.model_fields), arm


def test_readme_table_is_what_was_measured(seeds):
    module, accuracies = seeds
    shown = TABLE.search(README.read_text())
    assert shown is not None
    assert shown[1] == module.table(accuracies)
    dated = (ROOT / "benchmarks/README.md").read_text()
    assert module.table(accuracies).strip() in dated


def test_readme_describes_the_demo_that_runs(seeds):
    recipe, text = load_recipe(ROOT / "recipes/tiny.toml"), prose(README)
    arms = recipe.distill.resolved_arms()
    assert set(arms) == set(seeds[0].ROWS) - {"reference"}
    assert recipe.score.top_k == 8 and "the teacher's eight likeliest tokens" in text
    assert arms["sampled_tau1"].advantage_clip == 1.0 and "clipped at 1 nat" in text
    sizes = {}
    for model in ("teacher", "base"):
        with safe_open(ROOT / f"examples/tiny/models/{model}/model.safetensors", "np") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        sizes[model] = round(sum(math.prod(shape) for shape in shapes), -3)
    assert f"teacher has {sizes['teacher']:,} parameters, the student {sizes['base']:,}" in text
    problem, answer = re.findall(r"The problem `(.*?)` .* and `(.*?)` is an answer", text)[0]
    assert sys.modules["task"].grade({"prompt": problem}, answer)
    assert not sys.modules["task"].grade({"prompt": problem}, answer.replace("4>3", "4>2"))


def test_readme_claims_about_the_demo_are_what_was_measured(seeds):
    module, accuracies = seeds
    text = prose(README)
    one, two, _ = module.gains(accuracies, "sampled")
    assert f"gains {two} points instead of {one}" in text
    dense = [module.of(accuracies[teachers], "topk_tail") for teachers in accuracies]
    assert f"Dense targets end {module.mean_and_error(dense[0] - dense[1])} points lower" in text
    missing = module.of(accuracies["one teacher"], "teacher").mean() - dense[0].mean()
    assert ("within half a point of its teacher" in text) == (0 <= missing <= 0.005)


def test_readme_claims_about_the_lab_are_what_was_measured():
    lab = ROOT / "labs/parity"
    sys.path.insert(0, str(lab))
    tables = module_at(lab / "page_tables.py")
    sys.path.remove(str(lab))
    computed = {task: tables.load(lab / "results", task) for task in ("walk", "climb")}

    def minus(arm: str, other: str, teachers: str) -> list[str]:
        pairs = [tables.difference(computed, task, arm, other, teachers) for task in computed]
        return [pair.split()[0].removeprefix("-") for pair in pairs]

    text = prose(README)
    first, second = minus("exact", "exact", "two-one")
    assert f"{first} and {second} points lower on the" in text
    first, second = minus("sampled", "standard_opd", "one")
    assert f"ends {first} and {second} points below standard OPD" in text


def test_support_table_says_what_is_implemented():
    rows = {row[0]: row[1:] for row in table_after(README, "## What is supported")}
    source = ROOT / "src/leyden"

    def implemented(text: str) -> bool:
        (cells,) = [cells for name, cells in rows.items() if text in name]
        return cells[0] != "no"

    assert implemented("vLLM") == (source / "engines/vllm.py").exists()
    assert implemented("FSDP") == (source / "distributed/fsdp.py").exists()
    assert implemented("LoRA") == (source / "train/lora.py").exists()
    assert implemented("Transformers") == (source / "engines/transformers.py").exists()
    assert len(tomllib.loads((source / "recipe/benchmarks.toml").read_text())) - 1 == 16


def test_contributing_draws_the_house_that_the_test_enforces():
    architecture = ROOT / "tests/architecture/test_imports.py"
    (lines,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(architecture.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LINES"
    ]
    assert " ".join(lines.split()) in prose(ROOT / "CONTRIBUTING.md")
    folders = {p.name for p in (ROOT / "src/leyden").iterdir() if p.is_dir() and p.name[0] != "_"}
    described = {
        re.sub(r"[`]", "", row[0]) for row in table_after(ROOT / "CONTRIBUTING.md", "## The house")
    }
    assert folders == {name for name in described if ".py" not in name}


def test_contributing_has_five_steps_for_each_extension_and_names_real_files():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for what in ("benchmark", "loss", "engine", "stage"):
        (steps,) = re.findall(rf"## How to add an? {what}\n(.*?)\n## ", text, re.DOTALL)
        assert len(re.findall(r"^\d\. ", steps, re.MULTILINE)) == 5
    for name in re.findall(r"`([\w/]+\.(?:py|md|toml|txt))`", text):
        assert (ROOT / name).exists() or (ROOT / "src/leyden" / name).exists(), name


def test_pages_name_every_warning_column_curve_and_benchmark():
    method = DOCS / "concepts/method.md"
    warnings = {row[0].strip("`") for row in table_after(method, "`monitor/diagnosis.py`:")}
    assert warnings == set(RULES)
    curves = [row[0] for row in table_after(DOCS / "guides/reading-the-report.md", "Dashed curves")]
    assert sorted(curves) == sorted([LOSS[1], *(title for _, title, _ in CURVES)])


@pytest.mark.parametrize(
    ("schema", "heading"),
    [(COMPLETIONS, "Stores of completions"), (scores_schema(2), "The store of scores")],
    ids=["completions", "scores"],
)
def test_the_store_page_lists_every_column(schema, heading):
    rows = table_after(DOCS / "concepts/store.md", heading)
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert described == set(schema.names) - {"crc32"}


def test_the_evaluation_page_lists_every_benchmark_with_its_samples():
    rows = table_after(DOCS / "guides/evaluating.md", "## Benchmarks")
    described = {
        name: (row[2], int(row[3])) for row in rows for name in re.findall(r"`([\w-]+)`", row[0])
    }
    known = tomllib.loads((ROOT / "src/leyden/recipe/benchmarks.toml").read_text())
    known.pop("common")
    listed = Evaluate.model_validate_json(json.dumps({"benchmarks": [{"name": n} for n in known]}))
    assert described == {b.name: (b.grader, b.samples_per_prompt) for b in listed.benchmarks}


def test_the_complete_recipe_of_the_guide_validates():
    text = (DOCS / "guides/your-own-teacher.md").read_text()
    recipe = re.search(r"```toml\n(name = .*?)```", text, re.DOTALL)
    assert recipe is not None
    values = Recipe.model_validate_json(json.dumps(tomllib.loads(recipe[1])))
    assert values.evaluate.benchmarks[0].problems.answer_field == "answer"


def test_the_report_page_names_every_heading_of_a_report():
    templates = (ROOT / "src/leyden/report").glob("*.html.j2")
    headings = re.findall(r"<h2[^>]*>([A-Z][^<{]*)", "".join(p.read_text() for p in templates))
    text = (DOCS / "guides/reading-the-report.md").read_text()
    assert headings and [h for h in headings if f"**{h.strip()}" not in text] == []


def test_the_first_run_page_draws_the_folders_of_a_run():
    text = (DOCS / "guides/first-run.md").read_text()
    drawn = set(re.findall(r"── (\w+)/", text))
    assert drawn == set(STAGES)
