"""Overlap means an exact copy or thirteen words in a row. Common phrases do not count."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.cli.main import run
from leyden.evals.overlap import GRAM, ProblemIndex, words_of

PROBLEM = (
    "A train leaves the station at noon and travels north at sixty miles an hour until it meets "
    "another that left an hour later from a town two hundred miles away. When do they meet?"
)
PHRASE = "where m and n are relatively prime positive integers. Find the sum of m and n."


def find(problems: dict[str, str], *prompts: str) -> list[tuple[str, str]]:
    index = ProblemIndex(problems)
    return [(o.problem, o.kind) for o in index.find([(str(i), p) for i, p in enumerate(prompts)])]


def test_a_copy_is_exact_whatever_its_case_and_spacing():
    assert find({"t": PROBLEM}, PROBLEM.upper().replace(" ", "\n ")) == [("t", "exact")]
    assert find({"short": "What is 2+2?"}, "what is 2 + 2 ?", "What is 2+3?") == [
        ("short", "exact")
    ]


def test_a_copy_inside_other_text_is_found_and_a_rewording_is_not():
    assert find({"t": PROBLEM}, f"Solve this. {PROBLEM} Explain.") == [("t", "13-gram")]
    assert find({"t": PROBLEM}, PROBLEM.replace(" the ", " a ").replace(" at ", " by ")) == [
        ("t", "13-gram")  # the second half was left as it was
    ]
    assert find({"t": PROBLEM}, "A train leaves at noon. When does it meet the other train?") == []


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.data())
def test_exactly_thirteen_words_in_a_row_count(words, data):
    """A part of a problem is reported if and only if it has thirteen words or more."""
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    window = words[start:end]
    result = find({"p": " ".join(words)}, "zz " + " ".join(window) + " zz")
    assert bool(result) == (len(window) >= GRAM)


def test_turns_of_phrase_of_a_benchmark_do_not_count():
    problems = {str(i): f"Problem {'x' * (i + 1)} has an answer m/n {PHRASE}" for i in range(3)}
    assert find(problems, f"The probability of rain is m over n {PHRASE}") == []
    two = dict(list(problems.items())[:2])
    assert find(two, f"The probability of rain has an answer m/n {PHRASE}") == [("0", "13-gram")]


def test_words_are_words_in_any_script():
    assert words_of("Ein Zug fährt, x^2+1 = 5; 在 数学 里") == [
        "ein", "zug", "fährt", "x", "2", "1", "5", "在", "数学", "里",
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    bench = [{"prompt": PROBLEM, "answer": "4"}, {"prompt": "What is 2+2?", "answer": "4"}]
    train = [
        {"text": "Something else"},
        {"text": PROBLEM},
        {"text": "what is 2+2"},
        {"text": "Something else"},
        {"text": f"Hint: {PROBLEM}"},
    ]
    for name, rows in (("bench", bench), ("train", train)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_check_overlap_of_files(files, capsys):
    command = ["check-overlap", str(files / "train.jsonl"), "--prompt-field", "text"]
    command += ["--benchmarks", str(files / "bench.jsonl")]
    assert run([*command, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["exact"], result["grams"], result["prompts"]) == (2, 1, 5)
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "2 exact, 1 with 13 words in a row, of 5 prompts" in shown
    assert run(command[:4]) == 1
    assert "nothing to compare: no benchmark given" in capsys.readouterr().err
