"""The store: committed rows come back, damage is named, and killed work resumes."""

import hashlib
import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leyden.errors import StoreError
from leyden.provenance.identity import derive_seed
from leyden.store import shard as shard_module
from leyden.store.plan import PlanRows, Unit, make_plan, read_plan, write_plan
from leyden.store.reader import check_plan, open_store
from leyden.store.schema import (
    CHECKSUM,
    COMPLETIONS,
    rows_to_table,
    scores_schema,
    shard_checksums,
)
from leyden.store.unit import open_shard, read_commit
from leyden.store.writer import open_writer

tmp = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25
)


def units(rows: int = 10, per_unit: int = 4):
    ids = [f"opd/{i}" for i in range(rows)]
    return make_plan(ids, samples=1, rows_per_unit=per_unit, seed=3, purpose="test")


def row(planned, rng) -> dict:
    length = int(rng.integers(0, 6))
    return {
        "prompt_id": planned.prompt_id,
        "sample": planned.sample,
        "split": "opd",
        "prompt_ids": rng.integers(0, 99, 3),
        "completion_ids": rng.integers(0, 99, length),
        "logp_sampler": rng.normal(size=length).astype(np.float32),
        "finish_reason": "stop",
    }


def rows_of(unit) -> list[dict]:
    return [row(r, np.random.default_rng(r.seed)) for r in unit.rows]


def fill(folder, order=None, per_unit: int = 4, rows: int = 10):
    plan = units(rows, per_unit)
    writer = open_writer(folder, COMPLETIONS, plan, origin="o")
    for index in range(len(plan)) if order is None else order:
        writer.commit(plan[index], rows_of(plan[index]), seconds=1.0)
    return writer


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 23), per_unit=st.integers(1, 9))
@tmp
def test_rows_come_back_as_written_in_plan_order(tmp_path_factory, seed, rows, per_unit):
    folder = tmp_path_factory.mktemp("store")
    plan = units(rows, per_unit)
    order = np.random.default_rng(seed).permutation(len(plan)).tolist()
    fill(folder, order, per_unit, rows).seal()
    store = open_store(folder)
    expected = [r for unit in plan for r in rows_of(unit)]
    assert len(store) == len(expected) == rows
    for result, original in zip(store, expected, strict=True):
        for name, value in original.items():
            np.testing.assert_array_equal(result[name], value)
    assert store.num_tokens == sum(len(r["completion_ids"]) for r in expected)


def tree(folder) -> dict:
    files = (p for p in folder.rglob("*") if p.is_file() and "timings" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_any_order_and_any_interruption_gives_the_same_bytes(tmp_path):
    fill(tmp_path / "a").seal()
    fill(tmp_path / "b", order=[2, 0]).pending()
    (tmp_path / "b/shards/.tmp-0123456789ab-000001.arrow").write_bytes(b"half")
    (tmp_path / "b/shards/000001-0123456789abcdef.arrow").write_bytes(b"never committed")
    resumed = open_writer(tmp_path / "b", COMPLETIONS, units(), origin="o")
    assert [u.name for u in resumed.pending()] == ["000001"]
    fill(tmp_path / "b", order=[1]).seal()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@given(
    ids=st.lists(st.text(), min_size=1, max_size=9),
    samples=st.integers(1, 4),
    per_unit=st.integers(1, 5),
)
@tmp
def test_a_plan_is_every_sample_of_every_prompt_and_is_read_as_written(
    tmp_path_factory, ids, samples, per_unit
):
    folder = tmp_path_factory.mktemp("plan")
    plan = make_plan(ids, samples=samples, rows_per_unit=per_unit, seed=3, purpose="test")
    rows = [row for unit in plan for row in unit.rows]
    keys = [(prompt_id, sample) for prompt_id in ids for sample in range(samples)]
    assert rows == [(*key, derive_seed(3, "test", *key)) for key in keys]
    assert [len(unit.rows) for unit in plan[:-1]] == [per_unit] * (len(plan) - 1)
    assert read_plan(folder, write_plan(folder, plan)) == plan


@pytest.mark.parametrize("names", [["000000", "000001", "000000"], ["000000", "../1"], []])
def test_a_plan_with_units_in_pieces_or_without_a_name_of_ours_is_refused(tmp_path, names):
    keys = [("p", i, 0) for i in range(len(names))]
    units = [Unit(name, PlanRows.of([key])) for name, key in zip(names, keys, strict=True)]
    digest = write_plan(tmp_path, units)
    with pytest.raises(StoreError, match=r"plan\.arrow: damaged"):
        read_plan(tmp_path, digest)


def test_the_second_worker_to_finish_a_unit_changes_nothing(tmp_path):
    writer = fill(tmp_path)
    before = tree(tmp_path)
    other = rows_of(units()[0])
    other[0]["completion_ids"], other[0]["logp_sampler"] = np.array([1]), np.array([-1.0])
    writer.commit(units()[0], other, seconds=9.0)
    writer.seal()
    assert {k: v for k, v in tree(tmp_path).items() if k != "SEALED.json"} == before


def test_a_store_resumed_with_another_unit_size_keeps_its_plan(tmp_path):
    fill(tmp_path, order=[0])
    writer = open_writer(tmp_path, COMPLETIONS, units(per_unit=7), origin="o")
    assert [len(u.rows) for u in writer.units] == [4, 4, 2]


def test_a_store_of_other_rows_is_refused(tmp_path):
    fill(tmp_path, order=[0])
    with pytest.raises(StoreError, match="begun from other settings"):
        open_writer(tmp_path, COMPLETIONS, units(rows=11), origin="o")
    with pytest.raises(StoreError, match="begun from other settings"):
        open_writer(tmp_path, COMPLETIONS, units(), origin="another")


def test_an_unfinished_store_cannot_be_sealed_or_opened(tmp_path):
    writer = fill(tmp_path, order=[0, 2])
    with pytest.raises(StoreError, match="1 of 3 units are missing, first 000001"):
        writer.seal()
    with pytest.raises(StoreError, match="not sealed"):
        open_store(tmp_path)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@tmp
def test_every_flipped_bit_is_found_and_its_file_named(tmp_path_factory, where, bit):
    folder = tmp_path_factory.mktemp("store")
    fill(folder).seal()
    shard = sorted((folder / "shards").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=shard.name):
        open_store(folder)


def finish(folder) -> str:
    """Resume the store in ``folder``, seal it and read all of it."""
    plan = units()
    writer = open_writer(folder, COMPLETIONS, plan, origin="o")
    for unit in writer.pending():
        writer.commit(unit, rows_of(unit), seconds=1.0)
    writer.seal()
    writer.device_seconds()
    store = open_store(folder)
    check_plan(store)
    return store.fingerprint


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory) -> str:
    return finish(tmp_path_factory.mktemp("store"))


@given(file=st.integers(0, 10**6), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(tmp, max_examples=150)
def test_a_bit_flipped_in_a_broken_store_is_harmless_or_named(
    tmp_path_factory, undamaged, file, where, bit
):
    """The bit is in a shard, record, plan, header or timing. Resuming gives the store or a
    StoreError."""
    folder = tmp_path_factory.mktemp("store")
    fill(folder, order=[0, 1])
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = files[file % len(files)]
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    shards = set((folder / "shards").iterdir())
    try:
        result = finish(folder)
    except StoreError:
        assert shards <= set((folder / "shards").iterdir())
        assert not (folder / "SEALED.json").exists() or path.parent.name == "timings"
    else:
        assert result == undamaged


def test_a_damaged_commit_costs_no_shard(tmp_path, undamaged):
    fill(tmp_path, order=[0, 1])
    commit = tmp_path / "commits/000001.json"
    whole = commit.read_text()
    commit.write_text(whole.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(StoreError, match="a shard is missing"):
        finish(tmp_path)
    commit.write_text(whole)
    assert finish(tmp_path) == undamaged


def test_a_row_that_does_not_match_its_checksum_is_found(tmp_path):
    fill(tmp_path).seal()
    store = open_store(tmp_path)
    shard = store.shards[0]
    columns = {name: shard.table.column(name) for name in shard.table.schema.names}
    ids = columns["prompt_ids"].to_pylist()
    ids[2][0] ^= 1
    columns["prompt_ids"] = pa.array(ids, pa.list_(pa.int32()))
    changed = replace(shard, table=pa.table(columns, schema=shard.table.schema))
    with pytest.raises(StoreError, match="row 2 does not match its crc32"):
        _ = changed.columns


def test_a_shard_that_changes_under_its_map_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_module, "ASK_SECONDS", 0)
    fill(tmp_path).seal()
    store = open_store(tmp_path)
    path = store.shards[0].path
    before = store[0]["prompt_ids"].tolist()
    os.link(path, tmp_path / "backup")  # another mark, the same bytes
    assert store[0]["prompt_ids"].tolist() == before
    place = path.read_bytes().index(store[0]["prompt_ids"].tobytes())
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    with pytest.raises(StoreError, match=f"{path.name}: damaged: its sha256 is"):
        store[0]


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), start=st.integers(0, 4))
@tmp
def test_the_checksums_of_a_shard_are_those_of_its_rows(seed, rows, start):
    (unit,) = units(rows, rows)
    rng = np.random.default_rng(seed)
    table = rows_to_table([row(r, rng) for r in unit.rows], COMPLETIONS)[start:]
    assert shard_checksums(table) == table.column(CHECKSUM).to_pylist()


def test_a_missing_shard_is_named(tmp_path):
    fill(tmp_path).seal()
    shard = sorted((tmp_path / "shards").iterdir())[0]
    shard.unlink()
    with pytest.raises(StoreError, match=f"{shard.name}: a shard is missing"):
        open_store(tmp_path)


def test_score_columns_keep_their_types(tmp_path):
    schema = scores_schema(2)
    plan = units(1)
    rng = np.random.default_rng(0)
    scores: dict[str, Any] = {
        "prompt_id": "opd/0",
        "sample": 0,
        "completion_crc32": 7,
        "teacher_entropy": rng.random(3),
        "reference_entropy": rng.random(3),
        "topk_ids": rng.integers(0, 9, 6),
        **{
            name: rng.normal(size=6 if "topk" in name else 3)
            for name in schema.names
            if "logp" in name
        },
    }
    writer = open_writer(tmp_path, schema, plan, origin="o")
    writer.commit(plan[0], [scores], seconds=0.0)
    writer.seal()
    (result,) = open_store(tmp_path)
    assert result["logp_teacher"].dtype == np.float32  # never bfloat16: 0.03 nats of error at -8
    np.testing.assert_array_equal(result["topk_ids"], scores["topk_ids"])
    np.testing.assert_allclose(result["teacher_tail_logp"], scores["teacher_tail_logp"], rtol=1e-6)
    assert CHECKSUM in result


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SEALED.json", {"tokens": 9999}),
        ("SEALED.json", {"rows": 1}),
        ("SEALED.json", {"dataset_fingerprint": "0" * 64}),
        ("SEALED.json", {"units": 5}),
        ("SEALED.json", {"units": [[1]]}),
        ("SEALED.json", {"units": [["000000", "short"]]}),
        ("SEALED.json", {"units": []}),
        ("store.json", {"origin": "another"}),
    ],
)
def test_a_seal_or_header_that_says_something_else_is_refused(tmp_path, name, change):
    fill(tmp_path).seal()
    origin = json.loads((tmp_path / "store.json").read_text())["origin"]
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=name):
        open_store(tmp_path, origin=origin)


@pytest.mark.parametrize("change", [{"sha256": 5}, {"rows": "x"}, {"tokens": []}])
def test_a_commit_of_other_kinds_of_values_is_named(tmp_path, change):
    fill(tmp_path)
    path = sorted((tmp_path / "commits").iterdir())[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=path.name):
        read_commit(path)


FOREIGN = ["notes.txt", "000000-copy.arrow", "000009-0123456789abcdef.arrow.bak", ".tmp-notes"]


def test_sealing_deletes_nothing_but_what_the_store_made(tmp_path):
    """A shard that lost the race and a half-written file go. Everything else stays."""
    plan = units()
    writer = open_writer(tmp_path / "s", COMPLETIONS, plan, origin="o")
    for unit in plan:
        writer.commit(unit, rows_of(unit), seconds=1.0)
    shards = tmp_path / "s" / "shards"
    lost = [shards / "000001-0123456789abcdef.arrow", shards / ".tmp-0123456789ab-x.arrow"]
    kept = [shards / name for name in FOREIGN]
    (shards / "folder").mkdir()
    for path in (*lost, *kept):
        path.write_text("x")
    writer.seal()
    assert not any(path.exists() for path in lost)
    assert all(path.exists() for path in kept) and (shards / "folder").is_dir()
    assert len(open_store(tmp_path / "s")) == 10


@pytest.mark.parametrize("name", ["shards", "commits", "timings"])
def test_a_store_whose_folder_is_a_link_is_refused_and_nothing_behind_it_is_touched(tmp_path, name):
    fill(tmp_path / "s", order=[0])
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "s" / name).rename(elsewhere)
    (tmp_path / "s" / name).symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    with pytest.raises(StoreError, match=f"{name}: is a link"):
        open_writer(tmp_path / "s", COMPLETIONS, units(), origin="o")
    assert sorted(elsewhere.iterdir()) == before


def test_a_sealed_store_with_a_linked_shard_is_refused(tmp_path):
    writer = fill(tmp_path / "s")
    writer.seal()
    shard = next((tmp_path / "s" / "shards").iterdir())
    shard.rename(tmp_path / "moved")
    shard.symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match="is a link"):
        open_store(tmp_path / "s")


def behind_an_end_mark(path):
    """The record batch compressed, behind an end of stream; the footer leads to it all the same."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = bytearray(sink.getvalue().to_pybytes())
    begins = 16 + int.from_bytes(data[12:16], "little")  # after the schema's message
    footer = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    place = data.index(begins.to_bytes(8, "little"), footer)
    data[place : place + 8] = (begins + 8).to_bytes(8, "little")
    path.write_bytes(data[:begins] + b"\xff\xff\xff\xff\0\0\0\0" + data[begins:])


def with_column(name, values):
    def change(path):
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        columns = {n: table.column(n) for n in table.schema.names} | {name: values(table.num_rows)}
        with pa.ipc.new_file(path, (made := pa.table(columns)).schema) as writer:
            writer.write_table(made)

    return change


def without_column(name):
    def change(path):
        table = pa.ipc.open_file(path.read_bytes()).read_all().drop_columns([name])
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)

    return change


UNKNOWN = {
    "compressed behind an end mark": (behind_an_end_mark, "its buffers are compressed"),
    "a dictionary": (
        with_column("split", lambda n: pa.array(["a"] * n).dictionary_encode()),
        "it holds dictionaries",
    ),
    "a column without room": (with_column("split", pa.nulls), "a column 'split' of null"),
    "another column": (with_column("x", lambda n: pa.array([0] * n)), "a column 'x' of int64"),
    "another type": (
        with_column("logp_sampler", lambda n: pa.array([[0.5]] * n)),
        r"a column 'logp_sampler' of list<item: double>",
    ),
    "no checksum": (without_column("crc32"), "it has no column 'crc32'"),
    "no log-probs": (without_column("logp_sampler"), "it has no column of log-probs"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_shard_of_other_columns_is_refused_before_it_is_unpacked(tmp_path, kind):
    change, problem = UNKNOWN[kind]
    fill(tmp_path / "s").seal()
    shard = sorted((tmp_path / "s/shards").iterdir())[0]
    change(shard)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    with pytest.raises(StoreError, match=f"damaged: .*{problem}"):
        open_shard(shard, digest)


@pytest.mark.parametrize("name", ["SEALED.json", "store.json", "commits/000000.json"])
def test_a_link_inside_a_store_is_refused(tmp_path, name):
    fill(tmp_path / "s").seal()
    path = tmp_path / "s" / name
    path.rename(tmp_path / "moved.json")
    path.symlink_to(tmp_path / "moved.json")
    with pytest.raises(StoreError, match="is a link"):
        check_plan(open_store(tmp_path / "s"))


@pytest.mark.parametrize("name", ["../000000", "/000000", "0", "..", "000000/x"])
def test_a_unit_may_not_lead_out_of_its_store(tmp_path, name):
    plan = units()
    foreign = [replace(plan[0], name=name), *plan[1:]]
    with pytest.raises(StoreError, match="is no name of a unit"):
        read_plan(tmp_path, write_plan(tmp_path, foreign))
    writer = fill(tmp_path / "s")
    writer.seal()
    seal = json.loads((tmp_path / "s" / "SEALED.json").read_text())
    seal["units"][0][0] = name
    (tmp_path / "s" / "SEALED.json").write_text(json.dumps(seal))
    with pytest.raises(StoreError, match="it names no units, or some without a hash"):
        open_store(tmp_path / "s")


def rewritten(path, **options):
    """The shard at ``path`` written again with other options, under the name of its new hash."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return saved(path, sink.getvalue().to_pybytes())


def saved(path, data: bytes):
    digest = hashlib.sha256(data).hexdigest()
    made = path.with_name(f"{path.name[:6]}-{digest[:16]}.arrow")
    made.write_bytes(data)
    return made, digest


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_before_they_are_unpacked(tmp_path, compression):
    fill(tmp_path / "s").seal()
    shard = next((tmp_path / "s" / "shards").iterdir())
    open_shard(*rewritten(shard))
    with pytest.raises(StoreError, match="its buffers are compressed"):
        open_shard(*rewritten(shard, compression=compression))


@given(place=st.integers(8, 2000), bit=st.integers(0, 7), cut=st.booleans())
@tmp
def test_a_malformed_shard_with_a_fitting_hash_is_refused_or_read(
    tmp_path_factory, place, bit, cut
):
    """Whatever a file holds, it is read, or refused in a sentence: no other error comes out."""
    folder = tmp_path_factory.mktemp("s")
    fill(folder / "s").seal()
    shard = next((folder / "s" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[place % len(data)] ^= 1 << bit
    try:
        open_shard(*saved(shard, bytes(data[: -place % len(data)] if cut else data)))
    except StoreError as error:
        assert "damaged" in str(error)
