"""An executor without workers: each job runs in the thread that submits it."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from handlers.workers.backend import Backend

T = TypeVar("T")


class InlineExecutor(Executor):
    """Executor that runs each job immediately, in the caller's thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return a future that is already done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  an executor passes on whatever its function raises
            future.set_exception(error)
        return future


def inline_backend() -> Backend:
    """Return the backend that runs jobs in this process."""
    return Backend(lambda count: InlineExecutor(), lambda executor, timeout_s: executor.shutdown())
