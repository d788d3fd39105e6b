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
CREATE TABLE IF NOT EXISTS generation (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, random_state TEXT NOT NULL);
"""


class SearchState:
    """All candidates in the order they were told, and the generator's state behind each generation.

    Generations belong to rounds, counted from 0, between which the search learned something.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def restore(self, rng: np.random.Generator) -> int:
        """Return the number of complete generations; set `rng` to where it stood behind the last."""
        row = self._connection.execute("SELECT max(number), random_state FROM generation").fetchone()
        if row[0] is None:
            return 0
        rng.bit_generator.state = json.loads(row[1])
        return int(row[0]) + 1

    def told(self, number: int) -> list[Candidate]:
        """The candidates of round `number` and of those before it, as they were told."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM candidate WHERE generation IN (SELECT number FROM generation WHERE round <= ?)"
            " ORDER BY number",
            (number,),
        ).fetchall()
        return [Candidate(*row) for row in rows]

    def ended(self, number: int) -> bool:
        """Whether a later round than `number` has begun."""
        return bool(self._connection.execute("SELECT 1 FROM generation WHERE round > ?", (number,)).fetchone())

    def tell(self, generation: int, candidates: Sequence[Candidate], rng: np.random.Generator, number: int = 0) -> None:
        """Store one generation of round `number`, all of it or nothing."""
        marks = ", ".join("?" * len(fields(Candidate)))
        with self._connection:
            self._connection.executemany(
                f"INSERT INTO candidate (generation, {_COLUMNS}) VALUES ({generation}, {marks})",
                [astuple(c) for c in candidates],
            )
            state = json.dumps(rng.bit_generator.state)
            self._connection.execute("INSERT INTO generation VALUES (?, ?, ?)", (generation, number, state))


@contextmanager
def open_state(path: Path) -> Iterator[SearchState]:
    """Open or create the state at `path`."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_SCHEMA)
        yield SearchState(connection)
    finally:
        connection.close()
