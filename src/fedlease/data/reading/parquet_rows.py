"""Parquet, unpacked a few rows at a time."""

from typing import IO

from fedlease.data.reading.rows import Gathered, too_large

__all__ = ["read_parquet_rows"]

TEXTS = ("STRING", "JSON", "ENUM", "NONE")

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
    for batch in pyarrow.parquet.ParquetFile(file, read_dictionary=texts).iter_batches(64, use_threads=False):
        # no text is longer than the buffers, wherever it is nested and however often it is repeated
        size = max(1, UNPACKED // (batch.get_total_buffer_size() + 1))
        for start in range(0, batch.num_rows, size):
            for values in batch.slice(start, size).to_pylist():
                number += 1
                if not rows.take(number, values):
                    return
