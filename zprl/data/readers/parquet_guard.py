"""Checks of a foreign Parquet file before it is read: its footer, then all of it in a child.

A footer of a few hundred bytes may declare 2^60 rows, and Arrow, which is C++, may abort or take
all memory on damaged bytes. The footer's numbers are compared with limits and with the file's size;
then the child of :mod:`zprl.data.readers.sandbox` reads every batch.  Only what it survives is read
here, in batches, so that memory does not depend on the size of a row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl.data.readers import sandbox
from zprl.data.readers.hdf5_guard import MAX_BYTES, MAX_NAME, RefusedError
from zprl.data.readers.sandbox import DAMAGED

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
MIN_BYTES = 12
"""The magic word twice and the footer's length."""
MAX_FOOTER = 2**26
"""64 MiB: a set of 10,000 episodes with statistics of 100 columns each has less."""

MAX_ROWS = 10**8
"""Rows of one file: eleven days at 100 Hz."""

MAX_COLUMNS = 20_000
MAX_ROW_GROUPS = 10**6
BATCH_ROWS = 256
"""Rows in memory at once; of images in a file that may be some hundred megabytes."""

MAX_S = 3600.0
"""Longest first look at one file."""

# Bytes in memory of one value; of texts and images at least their offset.
VALUE_BYTES = {
    "BOOLEAN": 1,
    "INT32": 4,
    "INT64": 8,
    "INT96": 12,
    "FLOAT": 4,
    "DOUBLE": 8,
    "BYTE_ARRAY": 4,
    "FIXED_LEN_BYTE_ARRAY": 1,
}

UNTRUSTED = "split long episodes; if the file came from elsewhere, do not trust it"


def column_names(path: Path) -> list[str]:
    """Return the names of the top-level columns of a file.

    Raises:
        RefusedError: as :func:`check_footer`, or the reader in the child does not end well.
    """
    return list(
        sandbox.PROBE.call(f"{__name__}:footer_names", limit_s=sandbox.BASE_S, path=str(path))
    )


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of a file, some rows at a time, after the child process has read all of it.

    Args:
        path: A regular file.
        columns: Top-level names; others may come with them.

    Raises:
        RefusedError: D01, D02 or D17.
    """
    limit_s = min(MAX_S, sandbox.limit_for(path))
    sandbox.PROBE.call(
        f"{__name__}:first_look", limit_s=limit_s, path=str(path), columns=list(columns)
    )
    yield from read_here(path, columns)


def footer_names(path: str) -> list[str]:
    """Return the names of the top-level columns, in the child."""
    with _open(Path(path)) as file:
        names: list[str] = file.schema_arrow.names
    return names


def first_look(path: str, columns: Sequence[str]) -> None:
    """Read everything once and keep nothing, in the child."""
    for batch in read_here(Path(path), columns):
        batch.validate(full=True)


def check_footer(metadata: pq.FileMetaData, size: int) -> None:
    """Check what a footer declares against limits and against the file's size [bytes].

    Raises:
        RefusedError: more than a file of this size may hold (D17), or places outside it (D01).
    """
    if (
        metadata.num_rows > MAX_ROWS
        or metadata.num_columns > MAX_COLUMNS
        or metadata.num_row_groups > MAX_ROW_GROUPS
    ):
        raise RefusedError(
            "D17",
            f"it declares {metadata.num_rows} rows of {metadata.num_columns} columns "
            f"in {metadata.num_row_groups} row groups, the limits are "
            f"{MAX_ROWS}, {MAX_COLUMNS} and {MAX_ROW_GROUPS}",
            UNTRUSTED,
        )

    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            declared = max(
                column.total_uncompressed_size,
                column.num_values * VALUE_BYTES.get(column.physical_type, 1),
            )
            if declared > MAX_BYTES or group.num_rows > MAX_ROWS:
                text = (
                    f"{column.path_in_schema[:MAX_NAME]} declares {declared} bytes in one row "
                    f"group, the limit is {MAX_BYTES}"
                )
                raise RefusedError("D17", text, UNTRUSTED)
            begin, stored = column.data_page_offset, column.total_compressed_size
            if min(begin, stored, declared, group.num_rows) < 0 or begin > size or stored > size:
                raise RefusedError(
                    "D01",
                    f"{column.path_in_schema[:MAX_NAME]} lies outside the file of {size} bytes",
                    DAMAGED,
                )


def read_here(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read as :func:`read_batches` does, in this process: for the child."""
    with _open(path) as file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise RefusedError(
                "D02",
                f"the column {missing[0]} is missing",
                "check that the data and meta/info.json are of one set",
            )

        rows = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            rows += batch.num_rows
            if batch.nbytes > MAX_BYTES:  # a text that is stored once may stand in every row
                raise RefusedError(
                    "D17",
                    f"{batch.num_rows} rows take {batch.nbytes} bytes, the limit is {MAX_BYTES}",
                    UNTRUSTED,
                )
            yield batch
        if rows != file.metadata.num_rows:  # Arrow says nothing
            raise RefusedError(
                "D01", f"it declares {file.metadata.num_rows} rows and holds {rows}", DAMAGED
            )


def _open(path: Path) -> Any:
    """Open a file whose footer is harmless."""
    import pyarrow.parquet as pq

    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if size < MIN_BYTES or head != MAGIC or tail[4:] != MAGIC:
        raise RefusedError(
            "D01",
            f"not a whole Parquet file ({size} bytes)",
            f"{DAMAGED}; a recorder must close its file (`finalize()`)",
        )

    footer = int.from_bytes(tail[:4], "little")
    if footer > min(MAX_FOOTER, size - MIN_BYTES):
        raise RefusedError("D01", f"its footer is said to have {footer} bytes of {size}", DAMAGED)

    opened = pq.ParquetFile(
        path,
        memory_map=False,
        pre_buffer=False,
        thrift_string_size_limit=MAX_FOOTER,
        thrift_container_size_limit=MAX_FOOTER,
    )
    try:
        check_footer(opened.metadata, size)
    except BaseException:
        opened.close()
        raise
    return opened
