"""The state of a search in SQLite: one transaction a generation, the random state within it."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np

from factory.search.candidate import Candidate

_COLUMNS = ", ".join(field.name for field in fields(Candidate))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS candidate (number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, {_COLUMNS});
CREATE TABLE IF NOT EXISTS generation (number INTEGER PRIMARY KEY, random_state TEXT NOT NULL);
"""


class SearchState:
    """All candidates in the order they were told, and the generator's state behind each generation."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def restore(self, rng: np.random.Generator) -> tuple[int, list[Candidate]]:
        """Return the number of complete generations and their candidates; set `rng` to where it stood."""
        row = self._connection.execute("SELECT max(number), random_state FROM generation").fetchone()
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM candidate ORDER BY number").fetchall()
        if row[0] is None:
            return 0, []
        rng.bit_generator.state = json.loads(row[1])
        return row[0] + 1, [Candidate(*row) for row in rows]

    def tell(self, generation: int, candidates: Sequence[Candidate], rng: np.random.Generator) -> None:
        """Store one generation, all of it or nothing."""
        marks = ", ".join("?" * len(fields(Candidate)))
        with self._connection:
            self._connection.executemany(
                f"INSERT INTO candidate (generation, {_COLUMNS}) VALUES ({generation}, {marks})",
                [astuple(c) for c in candidates],
            )
            state = json.dumps(rng.bit_generator.state)
            self._connection.execute("INSERT INTO generation VALUES (?, ?)", (generation, state))


@contextmanager
def open_state(path: Path) -> Iterator[SearchState]:
    """Open or create the state at `path`."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_SCHEMA)
        yield SearchState(connection)
    finally:
        connection.close()
