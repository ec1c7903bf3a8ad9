"""From Spark's tasks to a store: batches of lists, sent again where the store doesn't answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame

from recsys.errors import ExportError

Result = TypeVar("Result")
Row = tuple[str, ...]

_RESULT = "sent bigint, what string, place string, todo string"
_LONGEST_WAIT_SECONDS = 5.0


class Connection(Protocol):
    """A connection of a task to a store."""

    def send(self, rows: Sequence[Row]) -> None:
        """Write rows at once; the same ones again change nothing."""

    def close(self) -> None:
        """End the connection; it may be broken already."""


class Connector(Protocol):
    """How a store is reached; it is pickled and sent to Spark's workers."""

    def open(self) -> Connection:
        """A new connection."""

    def may_pass(self, error: Exception) -> bool:
        """Whether asking again may help."""

    def explain(self, error: Exception) -> ExportError:
        """The error in words, without a secret."""


@dataclass(frozen=True)
class Patience:
    """How often a store is asked again."""

    retries: int

    def ask(self, act: Callable[[], Result], connector: Connector) -> Result:
        """Call ``act`` until it succeeds.

        Raises:
            ExportError: the last try failed, or one in a way that no other try would mend.
        """
        for left in range(self.retries, -1, -1):
            try:
                return act()
            except ExportError:
                raise
            except Exception as error:
                if not left or not connector.may_pass(error):
                    raise connector.explain(error) from error
                time.sleep(min(_LONGEST_WAIT_SECONDS, 0.2 * 2 ** (self.retries - left)))
        raise AssertionError("the last try returns or raises")


def send_rows(
    rows: DataFrame, connector: Connector, patience: Patience, tasks: int, batch_lists: int
) -> int:
    """Send all rows (columns of strings) to a store.

    Args:
        tasks: at most so many at once.

    Returns:
        How many were sent.

    Raises:
        ExportError: one could not be sent; others may have been.
    """
    sender = _Sender(connector, patience, batch_lists)
    try:
        results = rows.coalesce(tasks).mapInArrow(sender, _RESULT).collect()
    except Exception as error:
        missing = re.search(r"No module named '(\w+)", str(error))
        if missing is None:
            raise
        raise ExportError(
            f"an executor's Python has no module {missing[1]}",
            where="the workers of Spark",
            do="install there what the driver has: pip install 'recsys[export]'",
        ) from error
    for result in results:
        if result["what"] is not None:
            raise ExportError(result["what"], where=result["place"], do=result["todo"])
    return sum(result["sent"] for result in results)


@dataclass(frozen=True)
class _Sender:
    """What runs inside a Spark worker.

    A store that fails is told as a row: Spark would start the task anew three more times, and its
    error would be a stack trace of Python within one of Java.
    """

    connector: Connector
    patience: Patience
    batch_lists: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        link = _Link(self.connector)
        sent = 0
        try:
            for rows in _cut(batches, self.batch_lists):
                self.patience.ask(partial(link.send, rows), self.connector)
                sent += len(rows)
        except ExportError as error:
            yield _result(sent, error)
            return
        finally:
            link.close()
        yield _result(sent, None)


class _Link:
    """A connection that is opened when it is needed, and anew after it failed."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: Connection | None = None

    def send(self, rows: Sequence[Row]) -> None:
        try:
            self._connection = self._connection or self._connector.open()
            self._connection.send(rows)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _cut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[list[Row]]:
    for batch in batches:
        for start in range(0, batch.num_rows, size):
            part = batch.slice(start, size)
            yield list(zip(*(column.to_pylist() for column in part.columns), strict=True))


def _result(sent: int, error: ExportError | None) -> pa.RecordBatch:
    texts = (error.what, error.where, error.do) if error else (None, None, None)
    columns = [pa.array([sent], pa.int64()), *(pa.array([text], pa.string()) for text in texts)]
    return pa.RecordBatch.from_arrays(columns, ["sent", "what", "place", "todo"])
