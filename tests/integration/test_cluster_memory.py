"""Memory that a dask scheduler keeps for finished tasks, and the exception handler on the loop of its client."""

from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from handlers.workers.opening import open_executor

TASKS = 40


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp://"
    ) as cluster:
        yield cluster


def test_the_scheduler_keeps_nothing_of_finished_tasks_and_the_client_has_its_exception_handler(cluster: Any) -> None:
    with open_executor("dask", 2, cluster.scheduler_address) as pool:
        futures = [pool.executor.submit(abs, -number) for number in range(TASKS)]
        wait(futures, 60)
        assert sum(future.result() for future in futures) == sum(range(TASKS))
        from handlers.workers.cluster.lean_client import report_end  # it imports distributed

        assert pool.executor._loop.get_exception_handler() is report_end
    spans = cluster.scheduler.extensions["spans"].spans.values()
    assert spans
    assert [len(span.metadata["collections"]) for span in spans if span.metadata] == [0] * len(spans)
    assert not cluster.scheduler.tasks
