"""JSON files that somebody else may have made are read as what they should hold, or refused."""

import json
from dataclasses import asdict

import pytest

from leyden.data.prompt_set import RENDERED, RenderedPrompt, read_prompt_set, write_prompt_set
from leyden.errors import StoreError
from leyden.evals.results import BenchmarkResult, Estimate, Results, read_results, write_results
from leyden.evals.verdict import RIGHT, Grade, Verdict
from leyden.provenance.identity import fingerprint, hash_file
from leyden.provenance.records import Intent, Record, write_record
from leyden.telemetry.metrics import append_metrics, read_metrics
from leyden.typed_json import read_lines

PROMPT = RenderedPrompt("sft/1", "sft", (1, 2), "2+2=", "4", {"x": 1.5})
LINE = json.dumps(asdict(PROMPT))
DEEP, LONG = "[" * 10_000 + "]" * 10_000, "9" * 10_000
DAMAGED = {
    "no JSON": (LINE[:-3], "Invalid JSON"),
    "another type": ("[1]", "should be an object"),
    "a missing field": (LINE.replace('"split"', '"spilt"'), "split: Field required"),
    "a text for a number": (LINE.replace("[1, 2]", '["1", 2]'), "ids.0: Input should be"),
    "half a character": (LINE.replace("2+2=", "\\ud800"), "Invalid JSON"),
    "too deep": (LINE.replace("1.5", DEEP), "recursion limit"),
    "too many digits": (LINE.replace("1.5", LONG), "number out of range"),
    "an empty line": ("", "Invalid JSON"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_prompts_with_a_fitting_hash_are_refused_by_line_and_field(tmp_path, damage):
    line, problem = DAMAGED[damage]
    write_prompt_set(tmp_path, [PROMPT, PROMPT])
    path = tmp_path / RENDERED
    path.write_text(f"{LINE}\n{line}\n")
    with pytest.raises(StoreError, match=f"{path}:2: damaged: .*{problem}"):
        read_prompt_set(tmp_path, expected=hash_file(path))


def test_the_last_line_of_metrics_may_be_half_written_and_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = {"step": 1, "split": "train", "tokens": 3, "loss": float("nan")}
    append_metrics(path, first)
    path.write_bytes(path.read_bytes() + b'{"step": 2, "spl')
    (read,) = read_metrics(path)
    assert read.keys() == first.keys() and read["loss"] != read["loss"]
    assert type(read["step"]) is int
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(StoreError, match=f"{path}:2: damaged"):
        read_metrics(path)


def test_a_grade_with_half_a_character_is_written_and_read_back(tmp_path):
    grade = Grade.of("p", 0, Verdict(RIGHT, why="'\udcff'"), "a\ud800")
    assert (grade.why, grade.text) == ("'?'", "a?")
    path = tmp_path / "grades.jsonl"
    path.write_text(json.dumps(asdict(grade)) + "\n")
    assert list(read_lines(path, Grade)) == [grade]


RESULT = BenchmarkResult(
    accuracy=0.5, interval=(0.1, 0.9), problems=2, samples=2, samples_per_problem=1, right=1,
    wrong=1, unparsed=0, truncated=0, pass_at={"1": Estimate(0.5, 0.1, 0.9)}, majority=None,
    outcomes={"1": "r", "2": "w"}, questions={"1": "a", "2": "b"}, mean_tokens=3.5, store="s",
    grades="g",
)  # fmt: skip


def record_of(content: str) -> Record:
    return Record(Intent("evaluate/base", {}), content, {}, 0.0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda one: one.pop("interval"), "benchmarks.sums.interval"),
        (lambda one: one.update(another=1), "benchmarks.sums.another"),
        (lambda one: one.update(accuracy="high"), "benchmarks.sums.accuracy"),
    ],
)
def test_results_with_other_fields_are_refused_by_name(tmp_path, change, field):
    results = Results({"sums": RESULT})
    write_results(tmp_path, results)
    write_record(tmp_path, record_of(results.fingerprint))
    assert read_results(tmp_path).benchmarks["sums"].interval == (0.1, 0.9)
    values = results.as_json()
    change(values["benchmarks"]["sums"])
    (tmp_path / "results.json").write_text(json.dumps(values))
    write_record(tmp_path, record_of(fingerprint(values)))
    with pytest.raises(StoreError, match=f"{field}: another version of leyden"):
        read_results(tmp_path)
