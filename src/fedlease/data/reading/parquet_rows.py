"""Parquet, unpacked a few rows at a time."""

from typing import IO, Any

from fedlease.data.reading.rows import Gathered, too_large

__all__ = ["read_parquet_rows"]

TEXTS = ("STRING", "JSON", "ENUM", "NONE")

BATCH = 64
"""Rows decoded together."""

UNPACKED = 64_000_000
"""Bytes that the texts of the rows that become Python values together may have."""


def read_parquet_rows(file: IO[bytes], rows: Gathered) -> None:
    """Reads a file. Texts stay in dictionaries until their rows are taken, so that one text repeated is no bomb.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it is damaged.
    """
    import pyarrow.parquet

    meta = pyarrow.parquet.read_metadata(file)
    names = meta.schema.to_arrow_schema().names
    if rows.too_wide(1, len(names)):
        return
    if meta.num_rows > rows.limits.rows:
        rule = f"the file has {meta.num_rows:,} rows, more than the {rows.limits.rows:,} of data.limits.rows"
        rows.stop(1, rule, "rows")
        return
    if sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups)) > rows.limits.file_bytes:
        rows.stop(1, too_large(rows.limits), "size")
        return
    rows.columns.update(dict.fromkeys(names))
    leaves = [meta.schema.column(index) for index in range(meta.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in TEXTS]
    file.seek(0)
    number = 0
    # the open file keeps pyarrow from reading folder names such as client=a as columns
    for batch in pyarrow.parquet.ParquetFile(file, read_dictionary=texts).iter_batches(BATCH, use_threads=False):
        size = max(1, UNPACKED // (max(map(_longest, batch.columns), default=0) + 1))
        for start in range(0, batch.num_rows, size):
            for values in batch.slice(start, size).to_pylist():
                number += 1
                if not rows.take(number, values):
                    return


def _longest(array: Any) -> int:
    """Bytes of the longest text in a column, wherever it is nested."""
    import pyarrow
    from pyarrow import compute

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        texts = array.dictionary
        known = pyarrow.types.is_string(texts.type) or pyarrow.types.is_binary(texts.type)
        return (compute.max(compute.binary_length(texts)).as_py() or 0) if known else 0
    if pyarrow.types.is_struct(kind):
        return max((_longest(array.field(index)) for index in range(kind.num_fields)), default=0)
    if pyarrow.types.is_map(kind):
        return max(_longest(array.keys), _longest(array.items))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return _longest(array.values)
    return 0
