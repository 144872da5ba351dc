"""Published benchmark files are read correctly. A row that cannot be read is named."""

import base64
import gzip
import json
import pickle
import time
import zlib

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from huggingface_hub import constants

from leyden.cli.main import run
from leyden.errors import ConfigError, EngineError
from leyden.evals.boxes import last_boxed, last_boxes
from leyden.evals.code_tests import PRELUDE, read_tests
from leyden.evals.own_files import benchmark_values
from leyden.evals.problems import labels_of, read_problems
from leyden.recipe.benchmarks import Benchmark, known_benchmarks
from leyden.recipe.toml import validate
from leyden.sandbox.inside.values import decode


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def known(name, path, **problems):
    values = {"name": name, "problems": {"file": str(path), **problems}}
    return validate(Benchmark, values, source="test")


@pytest.mark.parametrize("name", known_benchmarks())
def test_a_known_benchmark_needs_nothing_but_its_name(name):
    benchmark = validate(Benchmark, {"name": name}, source="test")
    assert benchmark.problems.hub is not None
    assert len(benchmark.problems.hub.revision) == 40
    assert (benchmark.temperature, benchmark.top_p) == (0.6, 0.95)
    again = json.loads(benchmark.model_dump_json(exclude_none=True))
    assert validate(Benchmark, again, source="test") == benchmark


def test_what_a_recipe_states_goes_before_what_is_known(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": 2}])
    values = {"name": "aime24", "samples_per_prompt": 2, "problems": {"file": str(path)}}
    benchmark = validate(Benchmark, values, source="test")
    assert (benchmark.samples_per_prompt, benchmark.max_new_tokens) == (2, 32768)
    assert benchmark.problems.hub is None
    (problem,) = read_problems(benchmark)
    assert problem.question == "1+1?"
    assert problem.text.endswith("within \\boxed{}.")
    assert problem.answer == "2"


def test_another_window_of_a_known_benchmark(tmp_path):
    rows = [
        {"question_content": f"Q{month}", "question_id": str(month), "starter_code": "",
         "contest_date": f"2025-{month:02}-01T00:00:00", "private_test_cases": "",
         "public_test_cases": json.dumps([{"input": "", "output": "", "testtype": "stdin"}])}
        for month in range(1, 7)
    ]  # fmt: skip
    path = write(tmp_path / "l.jsonl", rows)
    window = {"file": str(path), "first_date": "2025-02-01", "last_date": "2025-04-15"}
    values = {"name": "lcb-spring", "known": "livecodebench-v6", "problems": window}
    result = read_problems(validate(Benchmark, values, source="test"))
    assert [problem.id for problem in result] == ["2", "3", "4"]
    assert "Read from standard input" in result[0].text


PUBLISHED = {
    "gsm8k": ({"question": "Q", "answer": "so 5*2 = <<5*2=10>>10\n#### 1,010"}, "1,010"),
    "math-500": ({"problem": "Q", "answer": r"\frac12", "solution": "..."}, r"\frac12"),
    "aime24": ({"problem": "Q", "answer": "033", "solution": "..."}, "033"),
    "aime25": ({"problem": "Q", "answer": 70, "id": 0}, "70"),
    "aime26": ({"problem": "Q", "answer": 277, "id": 1}, "277"),
    "hmmt25": ({"problem": "Q", "answer": r"\frac{9}{2}", "problem_idx": 1}, r"\frac{9}{2}"),
    "amc23": ({"question": "Q", "answer": 27.0, "id": 0}, "27"),
    "olymmath-en-hard": ({"problem": "Q", "answer": "$4$", "unique_id": "X"}, "$4$"),
    "hmmt25 with solution": ({"problem": "Q", "solution": r"so \boxed{3}"}, "3"),
    "minerva": ({"problem": "Q", "solution": r"is \boxed{1.6 \times 10^{3}} \mathrm{~m}"},
                r"1.6 \times 10^{3}"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_of_mathematics(name, tmp_path):
    row, answer = PUBLISHED[name]
    path = write(tmp_path / "p.jsonl", [row])
    (problem,) = read_problems(known(name.partition(" ")[0], path))
    assert (problem.question, problem.answer) == ("Q", answer)
    assert problem.text.startswith("Q\nPlease reason step by step")


def test_parquet_json_and_gzip_are_the_same_rows(tmp_path):
    rows = [{"question": f"Q{i}", "answer": f"#### {i}"} for i in range(5)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    plain = read_problems(known("gsm8k", write(tmp_path / "a.jsonl", rows)))
    for name in ("a.parquet", "a.json", "a.jsonl.gz"):
        assert read_problems(known("gsm8k", tmp_path / name)) == plain


def test_humaneval_rows(tmp_path):
    row = {
        "task_id": "HumanEval/0",
        "prompt": 'def one():\n    """Gives 1."""\n',
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
    }
    (problem,) = read_problems(known("humaneval", write(tmp_path / "h.jsonl", [row])))
    tests = problem.row["tests"]
    assert tests["tests"].endswith("check(one)\n")
    assert (tests["prefix"], tests["function"]) == (row["prompt"], "one")
    assert row["prompt"] in problem.text


def test_mbpp_rows_show_their_tests_unless_the_prompt_does(tmp_path):
    row = {"task_id": 11, "text": "Remove it.", "code": "...", "test_setup_code": "import re",
           "test_list": ["assert f(1) == 2", "assert f(2) == 3"]}  # fmt: skip
    (problem,) = read_problems(known("mbpp", write(tmp_path / "m.jsonl", [row])))
    assert "It must pass these tests:\n\nassert f(1) == 2\nassert f(2) == 3" in problem.text
    assert problem.row["tests"]["tests"].startswith("import re\n")
    row["text"] += " assert f(1) == 2"
    (problem,) = read_problems(known("mbpp", write(tmp_path / "m.jsonl", [row])))
    assert "It must pass" not in problem.text


def test_evalplus_rows_get_back_their_tuples_sets_and_complex_numbers():
    row = {
        "task_id": "Mbpp/0", "entry_point": "f", "prompt": "", "canonical_solution": "def f(): ...",
        "assertion": "assert f((1, [2], 'a'), {3}, 1j, {1: (2,)}) == 0", "atol": 0,
        "base_input": [[[5, [6, [7]], "b"], [4, 4], "2j", {"5": [6]}]],
        "plus_input": [[[], [], "3", {}], [[[1, 2], [3]], [1], "(1-1j)", {"1": [[2]]}]],
    }  # fmt: skip
    calls = [decode(call) for call in read_tests(row, "here")["calls"]]
    assert calls == [
        [(5, [6, [7]], "b"), {4}, 2j, {5: (6,)}],
        [(), set(), 3 + 0j, {}],
        [([1, 2], [3]), {1}, 1 - 1j, {1: ((2,),)}],
    ]


def private(cases) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def livecodebench(**fields):
    case = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
    return {
        "question_content": "Add.",
        "question_id": "a",
        "starter_code": "",
        "public_test_cases": json.dumps([case]),
        "private_test_cases": private([case | {"input": "5 5\n", "output": "10\n"}]),
        "metadata": "{}",
    } | fields


def test_livecodebench_contests():
    tests = read_tests(livecodebench(), "here")
    cases = [["1 2\n", "3\n"], ["5 5\n", "10\n"]]
    assert tests == {"kind": "stdio", "cases": cases, "prelude": PRELUDE}


def test_livecodebench_functions():
    case = {"input": '[1,2]\n"x"', "output": "[3]", "testtype": "functional"}
    row = livecodebench(
        public_test_cases=json.dumps([case]),
        private_test_cases=json.dumps([case]),
        metadata=json.dumps({"func_name": "f"}),
    )
    tests = read_tests(row, "here")
    cases = [[[[1, 2], "x"], [3]]] * 2
    assert tests == {"kind": "calls", "function": "f", "cases": cases, "prelude": PRELUDE}


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("run",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Runs()))).decode()
    path = write(tmp_path / "l.jsonl", [livecodebench(private_test_cases=packed)])
    with pytest.raises(ConfigError, match=r"l\.jsonl:1: its public_test_cases cannot be read"):
        read_problems(known("livecodebench-v6", path))


def test_apps_and_ones_own_tests():
    apps = {"input_output": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})}
    assert read_tests(apps, "")["cases"] == [["1\n", "2\n"]]
    apps = {"input_output": {"fn_name": "f", "inputs": [[1]], "outputs": [[2]]}}
    result = read_tests(apps, "")
    assert (result["kind"], result["function"], result["cases"]) == ("calls", "f", [[[1], [2]]])
    taco = {"input_output": {"inputs": [["1", "2"]], "outputs": [["3"]]}}
    assert read_tests(taco, "")["cases"] == [["1\n2", "3"]]
    contests = {
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": ["3\n"], "output": ["4\n"]},
        "generated_tests": None,
    }
    assert read_tests(contests, "")["cases"] == [["1\n", "2\n"], ["3\n", "4\n"]]
    own = {"tests": ["assert f(1) == 2"], "setup": "import math"}
    assert read_tests(own, "") == {"kind": "asserts", "tests": "import math\nassert f(1) == 2"}
    own = {"tests": [{"input": [1, 2], "output": 3}], "function": "add"}
    assert read_tests(own, "")["kind"] == "calls"
    own = {"tests": [{"input": "1 2", "output": "3"}]}
    assert read_tests(own, "")["kind"] == "stdio"


BAD = [
    ({"prompt": "P"}, "has no tests; it has 'prompt'"),
    ({"prompt": "P", "tests": []}, "its tests cannot be read as tests"),
    ({"prompt": "P", "tests": ["assert f(1) =="]}, "its tests cannot be read as tests: SyntaxErr"),
    ({"prompt": "P", "tests": [{"input": 1, "output": 2}]}, "calls need `function`"),
    ({"prompt": "P", "tests": [{"input": "1"}]}, "KeyError: 'output'"),
    ({"prompt": "  ", "tests": ["assert 1"]}, "prompt is '  ', expected text"),
    ({"tests": ["assert 1"]}, "has no field 'prompt'"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named(row, message, tmp_path):
    path = write(tmp_path / "own.jsonl", [{"prompt": "ok", "tests": ["assert 1"]}, row])
    values = {"name": "own", "grader": "code", "problems": {"file": str(path)}}
    with pytest.raises(ConfigError) as raised:
        read_problems(validate(Benchmark, values, source="test"))
    assert str(raised.value).startswith(f"{path}:2: ")
    assert message in str(raised.value)


def test_what_a_command_line_names(tmp_path):
    mine = write(tmp_path / "My Sums.v2.jsonl", [{"id": 1, "prompt": "P", "answer": "2"}])
    code = write(tmp_path / "code.jsonl", [{"prompt": "P", "tests": ["assert 1"]}])
    result = validate(Benchmark, benchmark_values(str(mine)), source="test")
    assert (result.name, result.grader, result.problems.id_field) == ("my-sums", "math", "id")
    assert validate(Benchmark, benchmark_values(str(code)), source="test").grader == "code"
    result = validate(Benchmark, benchmark_values(f"gsm8k={mine}"), source="test")
    assert (result.name, result.problems.file) == ("gsm8k", str(mine))
    result = validate(Benchmark, benchmark_values(f"mine={code}"), source="test")
    assert (result.name, result.grader) == ("mine", "code")
    (tmp_path / "q.jsonl").write_text('{"question": "Q", "answer": 3}\n')
    result = validate(Benchmark, benchmark_values(str(tmp_path / "q.jsonl")), source="test")
    assert read_problems(result)[0].question == "Q"
    with pytest.raises(ConfigError, match="gsm9k: neither a known benchmark nor a file"):
        benchmark_values("gsm9k")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "own", "grader": "code"}, "problems is required"),
        ({"name": "own", "grader": "code", "problems": {}}, "no place to read them from"),
        ({"name": "x", "known": "gsm9k", "problems": {}}, "known = 'gsm9k' is no benchmark"),
        ({"name": "aime24", "problems": {"instruction": "solve"}}, "must hold {prompt}"),
        ({"name": "aime24", "problems": {"last_date": "2025-01-01"}}, "need problems.date_field"),
        ({"name": "aime24", "problems": {"fil": "x"}}, "unknown key problems.fil"),
    ],
)
def test_a_bad_benchmark_is_refused_with_its_key(values, message):
    with pytest.raises(ConfigError) as raised:
        validate(Benchmark, values, source="test")
    assert message in str(raised.value), raised.value


def test_the_last_boxed_answer_with_balanced_braces():
    assert last_boxed(r"\boxed{1} then \boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"\fbox{a}") == "a"
    assert last_boxed(r"\boxed{never closed") is None
    assert last_boxed(r"\boxed{5} and \boxed{}") == "5"
    assert last_boxed(r"\boxed 7") == "7"
    assert last_boxed(r"\boxed{\boxed{5}}") == "5"
    assert last_boxes(r"$\boxed{1}$, $\boxed{2}$ and $\boxed{3}$.") == ["1", "2", "3"]
    assert last_boxes(r"$\boxed{1}$, so that $\boxed{3}$.") == ["3"]
    began = time.monotonic()
    assert last_boxed("\\boxed{" * 100_000 + "{}" * 100_000) is None
    assert time.monotonic() - began < 2


def test_a_hub_that_does_not_answer_is_a_sentence(monkeypatch):
    """The real client is set offline, so that the test need not wait for a time-out."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="the Hub does not give this data set") as raised:
        read_problems(validate(Benchmark, {"name": "gsm8k"}, source="test"))
    assert "file to a local copy" in raised.value.hint


def test_the_schema_knows_evaluate(capsys):
    assert run(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"Benchmark", "Problems", "HubFiles", "SandboxLimits"} <= schema["$defs"].keys()


CRUX = {
    "id": "sample_0",
    "code": "def f(xs):\n    return xs[::-1]",
    "input": "[1, {}]",
    "output": "[{}, 1]",
}
CONTEST = {
    "name": "1575_A", "description": "Print the sum.", "difficulty": 7,
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["2 2\n"], "output": ["4\n"]},
}  # fmt: skip
OWN = [  # a row, the grader that fits, and words of the sentence that says why
    (CRUX, "literal", "as CRUXEval"),
    (CONTEST, "code", "by the tests in 'public_tests'"),
    ({"question": "Capital of France?", "answer": "Paris"}, "exact", "such as 'Paris'"),
    ({"prompt": "1 + 1", "answer": "2"}, "math", "1 of 1 answers are mathematics"),
    ({"problem": "x?", "solution": "$\\boxed{x}$"}, "math", "are mathematics"),
    ({"prompt": "f(1)", "answer": "(1, 'a')"}, "literal", "are Python values"),
    ({"prompt": "Which?", "answer": "B"}, "math", "are mathematics"),
    ({"prompt": "Is it?", "answer": "yes"}, "exact", "such as 'yes'"),
    ({"prompt": "When?", "answer": "1999-01-02"}, "exact", "such as '1999-01-02'"),
    ({"prompt": "Water?", "answer": "H2O"}, "exact", "such as 'H2O'"),
    ({"prompt": "SQL?", "answer": "SELECT a FROM b WHERE x = 1"}, "exact", "no mathematics"),
    ({"prompt": "Where?", "answer": "(1, 2)"}, "math", "are mathematics"),
    ({"prompt": "How far?", "answer": "12 km"}, "math", "are mathematics"),
    ({"prompt": "Of what?", "answer": "3", "test": "algebra"}, "math", "are mathematics"),
]


@pytest.mark.parametrize(("row", "grader", "why"), OWN)
def test_a_file_alone_is_graded_by_what_fits_it_and_the_run_says_so(row, grader, why, tmp_path):
    told: list[str] = []
    path = write(tmp_path / "own.jsonl", [row])
    benchmark = validate(Benchmark, benchmark_values(str(path), told.append), source="test")
    assert benchmark.grader == grader and why in told[0]
    (problem,) = read_problems(benchmark)
    if row is CRUX:
        assert problem.id == "sample_0" and problem.answer == "[{}, 1]"
        assert "`f([1, {}])` return?" in problem.text and row["code"] in problem.text
    if row is CONTEST:
        assert problem.row["tests"]["cases"] == [["1 2\n", "3\n"], ["2 2\n", "4\n"]]
        assert "standard input" in problem.text


def test_problems_may_lie_in_several_files(tmp_path):
    files = [write(tmp_path / f"{n}.jsonl", [{"prompt": f"{n}+1=", "answer": n}]) for n in (2, 1)]
    values = {"name": "own", "problems": {"file": [str(file) for file in files]}}
    benchmark = validate(Benchmark, values, source="test")
    assert [p.answer for p in read_problems(benchmark)] == ["2", "1"]


def test_greedy_decoding_takes_one_sample_unless_more_are_asked_for():
    greedy = {"name": "aime24", "temperature": 0}
    assert Benchmark.model_validate(greedy | {"temperature": 0.0}).samples_per_prompt == 1
    asked = greedy | {"temperature": 0.0, "samples_per_prompt": 4}
    assert Benchmark.model_validate(asked).samples_per_prompt == 4
    assert Benchmark.model_validate({"name": "aime24"}).samples_per_prompt == 32


def test_what_kind_a_problem_is_of_is_kept_beside_its_answer(tmp_path):
    row = {"problem": "1+1", "answer": "2", "subject": "Algebra", "level": 3, "type": None}
    (problem,) = read_problems(known("math-500", write(tmp_path / "m.jsonl", [row])))
    assert labels_of(problem.row) == {"subject": "Algebra", "level": "3"}
    (problem,) = read_problems(
        known("math-500", write(tmp_path / "m.jsonl", [row | {"level": ""}]))
    )
    assert labels_of(problem.row) == {"subject": "Algebra"}
