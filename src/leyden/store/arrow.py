"""Read Arrow files that somebody else may have made: whole, uncompressed, valid."""

import struct
from pathlib import Path

import pyarrow as pa

from leyden.errors import first_line

MAGIC = 8  # bytes before the first message of a file
HEADER, COMPRESSION = 2, 3  # fields of Arrow's Message and RecordBatch tables, by their number


def read_table(path: Path) -> pa.Table:
    """The table of an Arrow IPC file, memory-mapped. Raises ValueError with what is wrong.

    Compressed buffers are refused before they are unpacked: a small file could fill the memory.
    """
    source = pa.memory_map(str(path))
    try:
        messages = pa.ipc.MessageReader.open_stream(source.read_buffer()[MAGIC:])
        for message in messages:
            if message.type == "record batch" and is_compressed(message.metadata.to_pybytes()):
                raise ValueError("its buffers are compressed")
        table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError) as error:
        raise ValueError(f"it is no valid Arrow file: {first_line(error)[:200]}") from error
    return table


def is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says that its buffers are compressed.

    Source: the Arrow columnar format's Message.fbs, and FlatBuffers' layout of tables: a table
    begins with the distance back to its vtable, which holds the place of each field, or 0.
    """
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
