"""A transaction of a connection to the journal."""

import sqlite3
from types import TracebackType

Connection = sqlite3.Connection


class transaction:  # noqa: N801  reads as a statement
    """`with transaction(connection)`: commit at the end, roll back after an exception."""

    def __init__(self, connection: Connection, *, read_only: bool = False) -> None:
        self._connection = connection
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def __enter__(self) -> Connection:
        self._connection.execute(self._begin)
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
