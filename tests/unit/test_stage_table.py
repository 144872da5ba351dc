"""The stage table: a stage is one entry and one function, and records are read once."""

import ast
import collections
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import leyden
from leyden.cli.main import run
from leyden.data.prompt_set import write_prompt_set
from leyden.errors import ConfigError, ConsistencyError
from leyden.monitor.status import run_status
from leyden.pipeline.pipeline import run_jobs, run_recipe
from leyden.pipeline.plan import planned
from leyden.pipeline.verify import verify_run
from leyden.provenance import records
from leyden.provenance.changes import check_dtype, warn_of_numerics
from leyden.provenance.records import Intent, Record, read_intent, write_intent
from leyden.run.artifacts import open_prompts
from leyden.run.graph import resolve
from leyden.run.run import Run
from leyden.run.stage import PROMPTS, Artifact, Job, Stage, distill
from leyden.run.table import STAGES

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
    assert (LONGEST, "skip: done") in planned(opened).jobs
    assert (LONGEST, "do") in planned(opened, redo=["prompts"]).jobs
    assert (LONGEST, "skip: done") in planned(opened, redo=["sft"]).jobs
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
    plan = planned(opened).jobs
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
        run_jobs(opened, [distill("nobody")])


def test_a_name_that_is_no_job_makes_no_folder(copied, tmp_path, capsys):
    out = tmp_path / "new"
    assert run(["run", str(copied / "small.toml"), "--out", str(out), "--until", "scor"]) == 1
    assert "scor: no such stage or job" in capsys.readouterr().err
    assert not out.exists()


def test_a_plan_refuses_what_the_run_would_refuse(copied, monkeypatch):
    """Also a stage's own checks, before anything is made: here a teacher that reads otherwise."""
    shutil.rmtree(copied / "run/teach")
    for stage in ("sft", "rollout", "score", "distill", "evaluate"):
        shutil.rmtree(copied / "run" / stage)
    tokens = copied / "models/teacher/tokenizer_config.json"
    tokens.write_text(tokens.read_text().replace("{", '{"clean_up_tokenization_spaces": true, ', 1))
    opened = Run.open(copied / "run")
    for attempt in (planned, run_recipe):
        with pytest.raises(
            ConsistencyError, match="rendered with a teacher whose tokenizer changed"
        ):
            attempt(opened)
    assert not (copied / "run/teach").exists()


def test_a_plan_names_everything_that_a_redo_moves(copied):
    opened = Run.open(copied / "run")
    plan = planned(opened, redo=["score"], until="score").jobs
    moved = {str(job) for job, state in plan if state == "moved to superseded/"}
    run_recipe(opened, redo=["score"], until="score")
    folders = (copied / "run/superseded/001").rglob("intent.json")
    real = {path.parent.relative_to(copied / "run/superseded/001").as_posix() for path in folders}
    assert real == moved | {"score"} and "distill/tail" in moved
    shutil.rmtree(copied / "run/superseded/001")
    (copied / "run/superseded/004").mkdir()
    run_recipe(opened, redo=["score"], until="score")
    assert (copied / "run/superseded/005/score/record.json").exists()


def of(role: str, **numerics) -> Intent:
    return Intent("distill/live", {}, numerics={"trainer": {"dtype": "float32"}, role: numerics})


def test_an_engine_that_changed_in_one_role_is_noticed(tmp_path, caplog):
    """Also where the trainer's own numerics stayed as they were."""
    begun = of("teacher", engine="transformers", dtype="float32", torch="2")
    check_dtype(tmp_path, begun, of("teacher", engine="vllm", dtype="float32", vllm="1"))
    with pytest.raises(ConfigError, match="'float32' for the teacher, and now it is 'bfloat16'"):
        check_dtype(tmp_path, begun, of("teacher", engine="vllm", dtype="bfloat16"))
    warn_of_numerics(tmp_path, begun, of("teacher", engine="vllm", dtype="float32", torch="2"))
    assert "begun with engine transformers for the teacher, going on with vllm" in caplog.text


def test_numerics_of_the_first_versions_stand_for_every_role(tmp_path):
    flat: dict = {"engine": "transformers", "dtype": "float32"}
    old = Intent("score", {}, numerics=flat)
    write_intent(tmp_path, old)
    begun = read_intent(tmp_path)
    assert begun is not None and begun.digest == old.digest
    check_dtype(tmp_path, begun, of("teacher", dtype="float32"))
    with pytest.raises(ConfigError, match="for the teacher"):
        check_dtype(tmp_path, begun, of("teacher", dtype="bfloat16"))


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
