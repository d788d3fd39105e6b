"""Parquet files, by pyarrow: an extra that a station needs for nothing else."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from export.runtime.errors import EnvironmentLacks

GROUP: Final = 20_000  # rows in memory at a time, and in one row group of the file


def write_parquet(
    path: Path, columns: Mapping[str, type[int] | type[float] | type[str]], rows: Iterable[tuple[object, ...]]
) -> int:
    """Write rows of int64, float64 and string columns, any cell of which may be None; return their number.

    Raises EnvironmentLacks where pyarrow is not installed, OSError where the file cannot be written.
    """
    arrow = _pyarrow()
    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    source, number = iter(rows), 0
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(source, GROUP)):
            arrays = [
                arrow.array(cells, type_) for cells, type_ in zip(zip(*group, strict=True), schema.types, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            number += len(group)
    return number


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentLacks(
            "Parquet files need pyarrow",
            expected="the package pyarrow",
            found=str(error),
            fix="pip install 'edge-model-factory[parquet]', or write --format csv",
        ) from error
    return pyarrow
