"""Reads Parquet files and the Arrow files that ``datasets`` saves, with the names of numbered labels."""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

from fedlease.data.reading.rows import Gathered, too_large

if TYPE_CHECKING:
    import pyarrow

__all__ = ["read_arrow_rows", "read_parquet_rows"]

TEXTS = ("STRING", "JSON", "ENUM", "NONE")
"""Parquet's logical types that are texts."""

UNPACKED = 64_000_000
"""Limit, in bytes, of the texts in rows that are converted to Python values at once."""

MAGIC = b"ARROW1"
"""First bytes of an Arrow file with an index; others are streams."""


def read_parquet_rows(file: IO[bytes], rows: Gathered) -> None:
    """Reads rows in small batches; texts stay dictionary-encoded until then, so that repeated texts take no memory."""
    import pyarrow.parquet

    meta = pyarrow.parquet.read_metadata(file)
    schema = meta.schema.to_arrow_schema()
    rows.check_width(1, len(schema.names))
    if meta.num_rows > rows.limits.rows:
        rule = f"the file has {meta.num_rows:,} rows, more than the {rows.limits.rows:,} of data.limits.rows"
        rows.stop(1, rule, "rows")
    if sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups)) > rows.limits.file_bytes:
        rows.stop(1, too_large(rows.limits), "size")
    leaves = [meta.schema.column(index) for index in range(meta.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in TEXTS]
    file.seek(0)
    # the open file keeps pyarrow from reading folder names such as client=a as columns
    batches = pyarrow.parquet.ParquetFile(file, read_dictionary=texts).iter_batches(64, use_threads=False)
    _take(batches, schema, rows)


def read_arrow_rows(file: IO[bytes], rows: Gathered) -> None:
    """Reads the rows of an Arrow stream or file.

    Compressed ones are refused: ``datasets`` writes none, and their size is unknown until they are in memory.
    """
    import pyarrow.ipc

    indexed = file.read(len(MAGIC)) == MAGIC
    file.seek(8 if indexed else 0)
    for message in pyarrow.ipc.MessageReader.open_stream(file):
        if message.type in ("record batch", "dictionary") and _compressed(message.metadata.to_pybytes(), message.type):
            rows.stop_file("is a compressed Arrow file; write it without compression, or as Parquet", "compressed")
    file.seek(0)
    if indexed:
        whole = pyarrow.ipc.open_file(file)
        schema = whole.schema
        batches: Iterable[pyarrow.RecordBatch] = (whole.get_batch(i) for i in range(whole.num_record_batches))
    else:
        stream = pyarrow.ipc.open_stream(file)
        schema, batches = stream.schema, stream
    rows.check_width(1, len(schema.names))
    _take(batches, schema, rows)


def _take(batches: "Iterable[pyarrow.RecordBatch]", schema: "pyarrow.Schema", rows: Gathered) -> None:
    rows.columns.update(dict.fromkeys(schema.names))
    names, number = _label_names(schema.metadata or {}), 0
    for batch in batches:
        # no text is longer than the buffers, wherever it is nested and however often it is repeated
        size = max(1, UNPACKED // (batch.get_total_buffer_size() + 1))
        for start in range(0, batch.num_rows, size):
            for values in batch.slice(start, size).to_pylist():
                number += 1
                for column, known in names.items():
                    # -1 stands for an unknown label
                    if isinstance(value := values.get(column), int):
                        values[column] = known[value] if 0 <= value < len(known) else None
                rows.take(number, values)


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its label numbers, as ``datasets`` writes them into the schema."""
    try:
        features: Any = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        named = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return {
        name: known
        for name, known in named.items()
        if isinstance(known, list) and all(isinstance(label, str) for label in known)
    }


def _compressed(message: bytes, kind: str) -> bool:
    """Whether an Arrow message, whose format is ``Message.fbs`` of Arrow's specification, is compressed.

    Raises:
        ValueError: the message is cut.
    """
    try:
        header = _member(message, struct.unpack_from("<I", message)[0], 2)
        if kind == "dictionary":
            header = _member(message, header, 1)
        return _member(message, header, 3) != 0
    except struct.error as error:
        raise ValueError(f"a message of Arrow is cut: {error}") from error


def _member(message: bytes, table: int, number: int) -> int:
    """The offset of the table that a member of a FlatBuffers table points to; 0 if the member is absent."""
    layout = table - int(struct.unpack_from("<i", message, table)[0])
    size = struct.unpack_from("<H", message, layout)[0]
    offset = int(struct.unpack_from("<H", message, layout + 4 + 2 * number)[0]) if 4 + 2 * number < size else 0
    return table + offset + int(struct.unpack_from("<I", message, table + offset)[0]) if offset else 0
