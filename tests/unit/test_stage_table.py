"""The stage table: a stage is one entry and one function, and records are read once."""

import ast
import collections
from dataclasses import replace
from pathlib import Path

import pytest

import leyden
from leyden.cli.main import run
from leyden.data.prompt_set import write_prompt_set
from leyden.errors import ConfigError
from leyden.monitor.status import run_status
from leyden.pipeline.pipeline import planned, run_jobs, run_recipe
from leyden.pipeline.verify import verify_run
from leyden.provenance import records
from leyden.provenance.records import Record
from leyden.run import table
from leyden.run.artifacts import open_prompts
from leyden.run.graph import merge_numerics, resolve
from leyden.run.run import Run
from leyden.run.stage import Artifact, Job, Stage
from leyden.run.table import PROMPTS, STAGES

LONGEST = Job("longest")


def run_longest(graph, intent):
    """The function of the new stage: the longest prompts, as prompts."""
    count = intent.settings["count"]
    prompts = sorted(open_prompts(graph).values(), key=lambda p: -len(p.ids))[:count]
    digest = write_prompt_set(graph.folder(LONGEST), prompts)
    return Record(intent, digest, {"rows": count, "tokens": 0}, 0.0)


ENTRY = Stage(
    "longest",
    title="The longest prompts.",
    artifact=Artifact.PROMPTS,
    runs="test_stage_table:run_longest",
    parents=lambda recipe, name: [PROMPTS],
    settings=lambda recipe, name, record: {"count": 3},
)


@pytest.fixture
def opened(copied) -> Run:
    return Run.open(copied / "run")


def test_a_stage_is_one_entry_and_one_function(opened, monkeypatch):
    """The new stage runs, is skipped when done, follows its parents, and is shown and verified."""
    monkeypatch.setitem(STAGES, "longest", ENTRY)
    run_recipe(opened)
    graph = resolve(opened)
    assert len(open_prompts(graph, LONGEST)) == 3
    assert (LONGEST, "skip: done") in planned(opened)
    assert (LONGEST, "do") in planned(opened, redo=["prompts"])
    assert (LONGEST, "skip: done") in planned(opened, redo=["sft"])
    assert {stage.name: stage.rows for stage in run_status(graph).stages}["longest"] == 3
    assert "longest: 3 prompts as recorded" in list(verify_run(opened))
    edited = replace(ENTRY, settings=lambda recipe, name, record: {"count": 2})
    monkeypatch.setitem(STAGES, "longest", edited)
    with pytest.raises(ConfigError, match="made with count = 3, and the recipe now says 2"):
        planned(opened)


def test_a_dry_run_of_a_finished_run_reads_each_record_once(opened, monkeypatch):
    reads = collections.Counter()
    real = records.read_checked
    monkeypatch.setattr(
        records, "read_checked", lambda path: reads.update([str(path)]) or real(path)
    )
    plan = planned(opened)
    assert {state for _, state in plan} == {"skip: done"}
    assert set(reads.values()) == {1}
    assert sum(path.endswith("record.json") for path in reads) == len(plan)


def test_a_job_is_its_text_and_its_folder(opened):
    for job in resolve(opened).jobs:
        assert Job.parse(str(job)) == job
        assert opened.folder(job) == opened.root / str(job)


def test_every_job_comes_after_what_it_reads(opened):
    graph = resolve(opened)
    for place, job in enumerate(graph.jobs):
        assert set(graph.parents(job)) <= set(graph.jobs[:place])


@pytest.mark.parametrize("name", STAGES)
def test_an_entry_names_functions_that_exist(name):
    stage = STAGES[name]
    assert callable(stage.function())
    assert stage.title.endswith(".")
    if stage.checks:
        module, _, function = stage.checks.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_a_job_that_the_recipe_lacks_is_refused(opened):
    with pytest.raises(ConfigError, match="distill/nobody: no such stage or job"):
        run_jobs(opened, [table.distill("nobody")])


def test_a_name_that_is_no_job_makes_no_folder(copied, tmp_path, capsys):
    out = tmp_path / "new"
    assert run(["run", str(copied / "small.toml"), "--out", str(out), "--until", "scor"]) == 1
    assert "scor: no such stage or job" in capsys.readouterr().err
    assert not out.exists()


def test_numerics_of_two_engines_stand_side_by_side_only_where_they_differ():
    first = {"engine": "transformers", "torch": "2"}
    assert merge_numerics(first, "teacher", first) == first
    both = merge_numerics(first, "teacher", {"engine": "vllm", "torch": "2", "vllm": "1"})
    assert both == first | {"teacher.engine": "vllm", "vllm": "1"}


SOURCE = Path(leyden.__file__).parent


def strings_compared_with_a_stage(path: Path):
    """Comparisons of a variable named like a stage or job with a string literal."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(getattr(s, "id", getattr(s, "attr", "")) in ("stage", "job") for s in sides)
            if named and any(isinstance(s, ast.Constant) and s.value in STAGES for s in sides):
                yield node.lineno


def test_no_ladder_of_stages_and_no_cut_job_string_anywhere_else():
    """``job.partition("/")`` and ``stage == "score"`` belong to run/stage.py and run/table.py."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if path.name not in ("stage.py", "table.py"):
            assert not list(strings_compared_with_a_stage(path)), path
            assert "job.partition" not in text and "stage.partition" not in text, path
            assert '.startswith("distill' not in text and '.startswith("evaluate' not in text, path
