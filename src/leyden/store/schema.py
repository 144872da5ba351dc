"""The two kinds of rows, field by field, and the checksum of a row.

Every list has one entry per completion token unless stated; nothing is padded, so no field has a
value "where masked". Log-probs are natural, in nats, float32.
"""

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

Schema = pa.Schema
FORMAT_VERSION = 1
CHECKSUM = "crc32"
ROW_BYTES = 200
TAIL, EXACT = "teacher_tail", "exact"

COMPLETIONS = pa.schema(
    [
        pa.field("prompt_id", pa.string()),
        pa.field("sample", pa.int32()),  # 0..samples_per_prompt-1
        pa.field("split", pa.string()),  # which set the prompt is from: sft, opd, heldout, ...
        pa.field("prompt_ids", pa.list_(pa.int32())),  # one per prompt token, as rendered
        pa.field("completion_ids", pa.list_(pa.int32())),  # exactly as sampled, stop token included
        pa.field("logp_sampler", pa.list_(pa.float32())),  # under the sampler's own transform
        pa.field("finish_reason", pa.string()),  # "stop" or "length"
        pa.field(CHECKSUM, pa.uint32()),
    ],
    metadata={"kind": "completions"},
)


def scores_schema(
    top_k: int,
    *,
    with_reference: bool = True,
    with_entropy: bool = True,
    teacher_tail: str = EXACT,
) -> pa.Schema:
    """Scores of stored completions, row for row; ``top_k`` = 0 leaves the top-k block out.

    ``topk_*`` lists hold k entries per completion token, token-major, the likeliest first.
    ``*_tail_logp`` is the log of the mass outside the k ids. The reference's is always summed from
    the other logits; ``teacher_tail`` says how the teacher's was found. Without the reference its
    columns are left out, and without entropies the teacher's, which its engine may not offer.
    """
    fields = [
        pa.field("prompt_id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("completion_crc32", pa.uint32()),  # the scored row's checksum
        pa.field("logp_teacher", pa.list_(pa.float32())),  # temperature 1, untruncated
        pa.field("logp_reference", pa.list_(pa.float32())),  # temperature 1, untruncated
        pa.field("teacher_entropy", pa.list_(pa.float16())),  # nats
        pa.field("reference_entropy", pa.list_(pa.float16())),  # nats
    ]
    if top_k:
        fields += [
            pa.field("topk_ids", pa.list_(pa.int32())),
            pa.field("teacher_topk_logp", pa.list_(pa.float32())),
            pa.field("reference_topk_logp", pa.list_(pa.float32())),  # at the teacher's ids
            pa.field("teacher_tail_logp", pa.list_(pa.float32())),
            pa.field("reference_tail_logp", pa.list_(pa.float32())),
        ]
    if not with_reference:
        fields = [field for field in fields if "reference" not in field.name]
    if not with_entropy:
        fields = [field for field in fields if field.name != "teacher_entropy"]
    fields.append(pa.field(CHECKSUM, pa.uint32()))
    metadata = {"kind": "scores", "top_k": str(top_k)}
    # The first versions made exact tails alone and noted nothing, so an exact tail is not noted.
    metadata |= {} if teacher_tail == EXACT else {TAIL: teacher_tail}
    return pa.schema(fields, metadata=metadata)


def most_bytes(schema: pa.Schema, *, rows: int, prompt_tokens: int, tokens: int) -> int:
    """The bytes of rows with that many tokens in all, before compression. A row's other fields and
    its line in the plan count as ROW_BYTES."""
    k, total = int(notes_of(schema).get("top_k", 0)), rows * ROW_BYTES
    for field in schema:
        if pa.types.is_list(field.type):
            each = k if field.name == "topk_ids" or field.name.endswith("_topk_logp") else 1
            count = prompt_tokens if field.name == "prompt_ids" else tokens * each
            total += count * field.type.value_type.bit_width // 8
    return total


def notes_of(schema: pa.Schema) -> dict[str, str]:
    """The schema's notes about all rows, beside their columns."""
    return {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}


def teacher_tail(schema: pa.Schema) -> str:
    """The origin of the teacher's tails: ``exact`` or ``complement``."""
    return notes_of(schema).get(TAIL, EXACT)


def row_checksum(row: dict[str, Any], schema: pa.Schema) -> int:
    """crc32 over the row's fields in schema order, as little-endian bytes with their lengths."""
    crc = 0
    for name, dtype in _checked_fields(schema):
        value = row[name]
        if isinstance(value, str):
            data: Any = value.encode()
        else:
            data = np.ascontiguousarray(value, dtype).data.cast("B") if np.size(value) else b""
        # With its length, so that bytes cannot move from one field to the next unnoticed.
        crc = zlib.crc32(data, zlib.crc32(len(data).to_bytes(8, "little"), crc))
    return crc


def shard_checksums(table: pa.Table) -> list[int]:
    """The ``row_checksum`` of every row, from the bytes of the columns as they lie in memory."""
    crcs = [0] * table.num_rows
    for name, dtype in _checked_fields(table.schema):
        data, ends = _bytes_of(table.column(name).combine_chunks(), dtype)
        crcs = [
            zlib.crc32(data[start:end], zlib.crc32((end - start).to_bytes(8, "little"), crc))
            for crc, start, end in zip(crcs, ends[:-1], ends[1:], strict=True)
        ]
    return crcs


def _bytes_of(array: pa.Array, dtype: np.dtype) -> tuple[memoryview, list[int]]:
    """The bytes of a column without missing values, and where each row's begin and end."""
    kind = array.type
    if pa.types.is_string(kind):
        _, offsets, text = array.buffers()
        starts = np.frombuffer(offsets, np.int32)[array.offset :][: len(array) + 1]
        return memoryview(text or b""), starts.tolist()
    values = array.values if pa.types.is_list(kind) else array
    data = values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    starts = array.offsets.to_numpy() if pa.types.is_list(kind) else np.arange(len(array) + 1)
    wide = starts.astype(np.int64) * dtype.itemsize
    return np.ascontiguousarray(data).data.cast("B"), wide.tolist()


@lru_cache(maxsize=32)
def _checked_fields(schema: pa.Schema) -> tuple[tuple[str, np.dtype], ...]:
    """(name, little-endian type of its numbers) of every field that a row's checksum covers."""
    return tuple((f.name, _number(f.type)) for f in schema if f.name != CHECKSUM)


def _number(arrow_type: pa.DataType) -> np.dtype:
    own = arrow_type.value_type if pa.types.is_list(arrow_type) else arrow_type
    return np.dtype(own.to_pandas_dtype()).newbyteorder("<")


def rows_to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """One Arrow table of ``rows``, each given its checksum. List values may be NumPy arrays."""
    checked = [{**row, CHECKSUM: row_checksum(row, schema)} for row in rows]
    columns = [_column([row[field.name] for row in checked], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: list[Any], arrow_type: pa.DataType) -> pa.Array:
    if not pa.types.is_list(arrow_type):
        return pa.array(values, arrow_type)
    dtype = arrow_type.value_type.to_pandas_dtype()
    parts = [np.asarray(value, dtype=dtype) for value in values]
    # Built from buffers: a list of Python numbers would cost more than sampling them did.
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
    flat = np.concatenate(parts) if parts else np.zeros(0, dtype)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, arrow_type.value_type), type=arrow_type)
