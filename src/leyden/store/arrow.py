"""Read Arrow files that somebody else may have made: known columns, uncompressed, valid.

What a file holds is read from its footer before any of it is unpacked: a file of kilobytes can ask
for gigabytes by compression, by dictionaries, and by columns that take no room. Source: the Arrow
columnar format's File.fbs and Message.fbs, and FlatBuffers' layout of tables: a table begins with
the distance back to its vtable, which holds the place of each field, or 0.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from leyden.errors import first_line

MAGIC = b"ARROW1"
DICTIONARIES, BATCHES = 2, 3  # fields of Arrow's Footer table, by their number
HEADER, COMPRESSION = 2, 3  # fields of its Message and RecordBatch tables
BLOCK = 24  # bytes: offset, length of the metadata, padding, length of the body


def read_table(path: Path, known: Mapping[str, pa.DataType]) -> pa.Table:
    """The table of an Arrow IPC file, memory-mapped. Raises ValueError with what is wrong.

    Its columns must be among ``known``, by name and type.
    """
    source = pa.memory_map(str(path))
    try:
        _check_blocks(memoryview(source.read_buffer()))
        reader = pa.ipc.open_file(source)
        _check_columns(reader.schema, known)
        table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError) as error:
        raise ValueError(f"it is no valid Arrow file: {first_line(error)[:200]}") from error
    return table


def _check_columns(schema: pa.Schema, known: Mapping[str, pa.DataType]) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("it has two columns of one name")
    for field in schema:
        if known.get(field.name) != field.type:
            raise ValueError(f"it has a column {field.name[:60]!r} of {str(field.type)[:60]}")


def _check_blocks(data: memoryview) -> None:
    """Raise ValueError where a block that the footer names is compressed, or a dictionary."""
    if bytes(data[-len(MAGIC) :]) != MAGIC or bytes(data[: len(MAGIC)]) != MAGIC:
        raise ValueError("it is no valid Arrow file: its first or last bytes are others")
    (size,) = struct.unpack_from("<i", data, len(data) - len(MAGIC) - 4)
    footer = bytes(data[len(data) - len(MAGIC) - 4 - size : len(data) - len(MAGIC) - 4])
    if any(_blocks(footer, DICTIONARIES)):
        raise ValueError("it holds dictionaries")
    for offset, length in _blocks(footer, BATCHES):
        # After an end mark of four bytes, if it has one, the length of the message, and it.
        mark, first = struct.unpack_from("<Ii", data, offset)
        begins = offset + (8 if mark == 0xFFFFFFFF else 4)
        if first < 0 or is_compressed(bytes(data[begins : offset + length])):
            raise ValueError("its buffers are compressed")


def _blocks(footer: bytes, number: int) -> Iterator[tuple[int, int]]:
    """(offset in the file, bytes of metadata) of the footer's blocks of one kind."""
    (root,) = struct.unpack_from("<I", footer, 0)
    place = _field(footer, root, number)
    if not place:
        return
    vector = root + place
    vector += struct.unpack_from("<I", footer, vector)[0]
    (count,) = struct.unpack_from("<I", footer, vector)
    for i in range(count):
        yield struct.unpack_from("<qi", footer, vector + 4 + BLOCK * i)


def is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says that its buffers are compressed."""
    (root,) = struct.unpack_from("<I", metadata, 0)
    header = root + _field(metadata, root, HEADER)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, COMPRESSION) != 0


def _field(data: bytes, table: int, number: int) -> int:
    """The place of a field in a table, from the table's own; 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    return struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
