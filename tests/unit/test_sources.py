"""Prompts go in as data sets hold them, or are refused with what would read them."""

import csv
import datetime
import decimal
import gzip
import json
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from leyden.data.messages import Message
from leyden.data.sources import hash_data, read_prompts
from leyden.data.tables import files_of, plain_value, read_rows
from leyden.errors import ConfigError, EngineError
from leyden.models.hub import files_of_split
from leyden.recipe.sampling import HubFiles, PromptFile

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "1+2=\n?", "answer": "3"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def arrow(stream: bool) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    writer = (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema)
    with writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def as_csv(separator: str) -> bytes:
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "answer"], delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


FILES = {
    "p.jsonl": LINES.encode(),
    "p.ndjson": LINES.encode(),
    "mark.jsonl": b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
    "list.json": json.dumps(ROWS).encode(),
    "lines.json": LINES.encode(),
    "p.jsonl.gz": gzip.compress(LINES.encode()),
    "p.jsonl.zst": zstd(LINES.encode()),
    "p.csv": as_csv(","),
    "p.tsv": as_csv("\t"),
    "p.csv.gz": gzip.compress(as_csv(",")),
    "p.parquet": as_parquet(),
    "file.arrow": arrow(stream=False),
    "stream.arrow": arrow(stream=True),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_the_same_in_every_format(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS
    prompts = read_prompts(PromptFile(file=str(tmp_path / name), answer_field="answer"))
    assert [(p.text, p.answer) for p in prompts] == [("1+1=", "2"), ("1+2=\n?", "3")]


def test_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    source = PromptFile(file=str(tmp_path / "p.txt"))
    assert [p.text for p in read_prompts(source)] == ["one", "two"]


def test_several_files_are_read_in_the_order_of_their_names(tmp_path):
    for i, row in enumerate(ROWS):
        (tmp_path / f"part-{i}.jsonl").write_text(json.dumps(row) + "\n")
    whole = [p.text for p in read_prompts(PromptFile(file=str(tmp_path / "part-*.jsonl")))]
    assert whole == [row["prompt"] for row in ROWS]
    assert [p.text for p in read_prompts(PromptFile(file=str(tmp_path)))] == whole
    before = hash_data(tmp_path / "part-*.jsonl")
    (tmp_path / "part-1.jsonl").write_text('{"prompt": "another"}\n')
    assert before and hash_data(tmp_path / "part-*.jsonl") not in (None, before)
    assert hash_data(tmp_path / "absent-*.jsonl") is None


def test_a_saved_data_set_is_read_and_one_with_splits_names_them(tmp_path):
    """As ``datasets`` writes them: Arrow streams, named by state.json."""
    folder = tmp_path / "d/train"
    folder.mkdir(parents=True)
    (folder / "data-00000-of-00001.arrow").write_bytes(arrow(stream=True))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    assert [p.text for p in read_prompts(PromptFile(file=str(folder)))] == ["1+1=", "1+2=\n?"]
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ConfigError, match="splits train, test") as raised:
        files_of(tmp_path / "d")
    assert str(folder) in raised.value.hint


def test_values_of_any_column_become_json():
    row = {
        "day": datetime.date(2025, 2, 1),
        "at": datetime.datetime(2025, 2, 1, 3),
        "price": decimal.Decimal("1.50"),
        "image": b"abc",
        "nested": [{"took": datetime.timedelta(seconds=2), "x": None}],
    }
    assert plain_value(row) == {
        "day": "2025-02-01",
        "at": "2025-02-01T03:00:00",
        "price": "1.50",
        "image": {"bytes": 3},
        "nested": [{"took": "0:00:02", "x": None}],
    }


def prompts_of(tmp_path, *rows, **fields):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(PromptFile(file=str(path), **fields))


USER = {"role": "user", "content": "1+1="}
PUBLISHED = {"prompt": [USER], "reward_model": {"ground_truth": "2", "style": "rule"}}


def test_the_layout_of_dapo_goes_in_as_published(tmp_path, caplog):
    other = {"prompt": [{"role": "user", "content": "2+2="}], "reward_model": {"ground_truth": 4}}
    rows = [PUBLISHED, PUBLISHED, other, PUBLISHED]
    answer = {"answer_field": "reward_model.ground_truth"}
    one, two = prompts_of(tmp_path, *rows, deduplicate=True, **answer)
    assert (one.text, one.answer, one.messages) == ("1+1=", "2", None)
    assert (two.text, two.answer) == ("2+2=", "4")
    assert "2 rows repeat the prompt of an earlier one" in caplog.text
    with pytest.raises(ConfigError, match="was used in line 1") as raised:
        prompts_of(tmp_path, *rows, **answer)
    assert "deduplicate = true" in raised.value.hint


TURNS = (
    Message("system", "s"),
    Message("user", "a"),
    Message("assistant", "b"),
    Message("user", "c"),
)
SHAREGPT = [("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "the answer")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": role, "content": text} for role, text in TURNS]},
        {"messages": [{"from": role, "value": text} for role, text in SHAREGPT]},
        {"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in TURNS]},
    ],
)
def test_conversations_go_in_up_to_the_last_turn_of_the_user(tmp_path, row):
    (prompt,) = prompts_of(tmp_path, row, prompt_field="messages")
    assert prompt.messages == TURNS
    assert prompt.text == "system: s\n\nuser: a\n\nassistant: b\n\nuser: c"


def test_the_layout_of_alpaca(tmp_path):
    rows = [{"instruction": "Add.", "input": "1 2"}, {"instruction": "Say hi.", "input": ""}]
    prompts = prompts_of(tmp_path, *rows, prompt_field="instruction")
    assert [p.text for p in prompts] == ["Add.\n\n1 2", "Say hi."]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "end without a message of the user"),
        ([{"role": "assistant", "content": "x"}], "end without a message of the user"),
        ([{"role": "tool", "content": "x"}], "is no message"),
        (["x"], "is no message"),
        ([{"role": "user", "content": [{"type": "image"}]}], "is no message"),
        ([{"role": "user", "content": "  "}], "expected text or a list of messages"),
        ({"role": "user"}, "expected text or a list of messages"),
        (None, "expected text or a list of messages"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, value, problem):
    with pytest.raises(ConfigError, match=f"p.jsonl:1: prompt.*{problem}"):
        prompts_of(tmp_path, {"prompt": value})


def test_a_file_that_does_not_fit_is_answered_with_the_lines_that_would_read_it(tmp_path):
    with pytest.raises(ConfigError, match="no field 'prompt'; it has 'problem', 'reward") as raised:
        prompts_of(tmp_path, {"problem": "1+1=", "reward_model": {"ground_truth": "2"}})
    assert 'prompt_field = "problem"' in raised.value.hint
    assert 'answer_field = "reward_model.ground_truth"' in raised.value.hint


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("e.jsonl", b"", "is empty"),
        ("e.csv", b"", "is empty"),
        ("w.safetensors", b"x", "holds the weights of a model"),
        ("w.gguf", b"x", "holds the weights of a model"),
        ("o.json", b'{"prompt": 1, "x":\n 2}', "a dict, not a list; its fields are 'prompt', 'x'"),
        ("b.json", b"[1, 2", "not valid JSON"),
        ("r.csv", b"prompt\na,b\n", ":2: 2 values for 1 columns"),
        ("b.parquet", b"PAR1", "cannot read prompts"),
        ("b.arrow", b"ARROW1", "cannot read prompts"),
        ("b.jsonl.gz", b"\x1f\x8b", "cannot read prompts"),
        ("b.jsonl.zst", b"\x28\xb5", "cannot read prompts"),
        ("u.jsonl", b"\xff\xfe{", "cannot read prompts"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, data, problem):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name}.*{problem}"):
        read_prompts(PromptFile(file=str(tmp_path / name)))


NAMES = [
    "README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
    "data/test-00000-of-00001.parquet",
]  # fmt: skip
CONFIGS = ["main/train-0.parquet", "main/test-0.parquet", "socratic/train-0.parquet"]


@pytest.mark.parametrize(
    ("names", "config", "split", "found"),
    [
        (NAMES, None, "train", NAMES[1:3]),
        (NAMES, None, "test", NAMES[3:]),
        (CONFIGS, "main", "train", CONFIGS[:1]),
        (["train.jsonl", "trainer_state.json"], None, "train", ["train.jsonl"]),
        (["validation.jsonl.gz"], None, "validation", ["validation.jsonl.gz"]),
        (CONFIGS, None, "train", "has several configurations: main, socratic"),
        (NAMES, None, "validation", "holds no file of the split 'validation'; it holds data/test-"),
        (CONFIGS, "other", "train", "holds no file of the split 'train'"),
    ],
)
def test_the_files_of_a_split_are_found_by_their_names(names, config, split, found):
    hub = HubFiles(repo="org/x", revision="main", config=config, split=split)
    if isinstance(found, list):
        assert files_of_split(names, hub, "org/x") == found
    else:
        with pytest.raises(EngineError, match=re.escape(found)):
            files_of_split(names, hub, "org/x")


def test_a_place_is_a_file_or_a_data_set(tmp_path):
    hub = HubFiles(repo="org/x", revision="main", files="*.jsonl")
    with pytest.raises(ValueError, match="set either file or hub"):
        PromptFile()
    with pytest.raises(ValueError, match="set either file or hub"):
        PromptFile(file="x.jsonl", hub=hub)
    with pytest.raises(ValueError, match="give either files, a glob, or split"):
        HubFiles(repo="org/x", revision="main")
    with pytest.raises(ValueError, match="config goes with split"):
        HubFiles(repo="org/x", revision="main", config="a", files="*")


def test_several_files_are_read_in_their_order(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(f"prompt {name}\n")
    places = tuple(str(tmp_path / f"{name}.txt") for name in "ba")
    assert [p.text for p in read_prompts(PromptFile(file=places))] == ["prompt b", "prompt a"]
    before = hash_data(*places)
    (tmp_path / "a.txt").write_text("another\n")
    assert hash_data(*places) != before
    assert hash_data(*places, str(tmp_path / "none.txt")) is None


def test_long_fields_beside_a_prompt_are_not_kept(tmp_path):
    row = {"prompt": "p", "solution": "x" * 5000, "level": 3}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (prompt,) = read_prompts(PromptFile(file=str(tmp_path / "p.jsonl")))
    assert prompt.row == {"prompt": "p", "level": 3}
