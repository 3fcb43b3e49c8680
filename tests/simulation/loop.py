"""An event loop in virtual time with an order of events drawn from a seed."""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

daemon_run: ContextVar[int] = ContextVar("daemon_run", default=0)
"""Number of the daemon's run to which the running code belongs; 0: to none. Tasks, threads and timers inherit it."""

MAX_TURNS = 3_000_000
"""A scenario with more turns is endless."""

MAX_DEPTH = 3
"""Largest number of threads that are interrupted at the same time."""
T = TypeVar("T")

_STEPS = ("TaskStepMethWrapper", "TaskWakeupMethWrapper")
Job = Callable[[], object]


class EndlessScenario(Exception):  # noqa: N818  not an error of the simulation
    """The scenario does not end."""


class SimulatedTask(asyncio.Task[Any]):
    """A task hashed by its number, so that sets of tasks have the same order in each run."""

    _count = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> "SimulatedTask":
        """Number the task before asyncio adds it to its sets."""
        task = super().__new__(cls, *args, **kwargs)
        SimulatedTask._count += 1
        task.number = SimulatedTask._count
        task.daemon_run = (kwargs.get("context") or copy_context()).get(daemon_run, 0)
        return task

    number: int
    daemon_run: int

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future hashed by its number, like a task."""

    _count = 0

    def __init__(self, **kwargs: Any) -> None:
        SimulatedFuture._count += 1
        self.number = SimulatedFuture._count
        super().__init__(**kwargs)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """A loop without a selector.

    Callbacks run in their order, as asyncio promises. The next one of the ready task steps is drawn: programs may rely
    on the order of callbacks, but not on the order in which tasks wake.

    Parameters
    ----------
    rng : source of all draws.
    start : first value of the monotonic clock.
    """

    def __init__(self, rng: random.Random, start: float = 1000.0) -> None:
        super().__init__()
        self.now = start
        self.turns = 0
        self.slowness = 1.0
        """Factor of the pauses of threads."""
        self.longest_wait_s = 0.0
        """Longest time for which work has waited for an executor with one thread, such as that of the journal."""
        self.signal_handlers: dict[int, Callable[[], object]] = {}
        self.servers: list[SimulatedServer] = []
        self.pending: list[SimulatedTask] = []
        """Tasks of killed runs, kept so that none of their code runs, not even a `finally`."""
        self.last_run = 0
        self.interruptions = 0.1
        """Share of threads that are interrupted at a file call, so that other tasks run in between."""
        self._rng = rng
        self._killed: set[int] = set()
        self._busy_until: dict[int, float] = {}
        self._calls_left: int | None = None
        self._depth = 0
        self._shuffles = rng.random() < 0.85
        self.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> SimulatedTask:
        return SimulatedTask(coroutine, loop=loop, **kwargs)

    def create_future(self) -> asyncio.Future[Any]:
        """See BaseEventLoop."""
        return SimulatedFuture(loop=self)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    # --- runs of the daemon

    def begin_run(self) -> Context:
        """Return the context of a new run of the daemon."""
        self.last_run += 1
        context = copy_context()
        context.run(daemon_run.set, self.last_run)
        return context

    def end_run(self, number: int) -> None:
        """End a run of the daemon like kill -9: none of its code runs any more."""
        self._killed.add(number)
        self.pending += [
            task for task in asyncio.all_tasks(self) if isinstance(task, SimulatedTask) and task.daemon_run == number
        ]
        self.signal_handlers.clear()
        self.servers.clear()

    def is_killed(self, number: int) -> bool:
        """Whether this run of the daemon has ended."""
        return number in self._killed

    # --- turns

    def _run_once(self) -> None:
        self._move_due()
        if not self._ready:
            if not self._scheduled:
                raise EndlessScenario("nothing is ready and no timer is set: the scenario cannot go on")
            self.now = max(self.now, self._scheduled[0]._when)
            self._move_due()
        handle = self._next_ready()
        if handle is None or handle._cancelled or handle._context.get(daemon_run, 0) in self._killed:
            return
        self.turns += 1
        if self.turns > MAX_TURNS:
            raise EndlessScenario(f"{MAX_TURNS} turns of the loop, at {self.now - 1000:.0f} s")
        handle._run()

    def _move_due(self) -> None:
        while self._scheduled and (self._scheduled[0]._cancelled or self._scheduled[0]._when <= self.now):
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)

    def _next_ready(self) -> asyncio.Handle | None:
        if not self._ready:
            return None
        if len(self._ready) == 1 or not self._shuffles or not _is_step(self._ready[0]):
            return self._ready.popleft()
        # Callbacks keep their order: a task step may precede other steps, but never a callback.
        steps = 0
        for handle in self._ready:
            if not _is_step(handle):
                break
            steps += 1
        chosen = self._rng.randrange(steps)
        handle = self._ready[chosen]
        del self._ready[chosen]
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """See BaseEventLoop; a cancelled timer is dropped when it is due."""

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there is no selector."""

    def _write_to_self(self) -> None:
        """Do nothing: there is no thread to wake."""

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """See BaseEventLoop; there is only one thread."""
        return self.call_soon(callback, *args, context=context)

    # --- threads

    def pause_s(self) -> float:
        """Draw the delay of a thread: mostly under 1 ms, sometimes seconds."""
        chance = self._rng.random()
        if chance < 0.6:
            limit_s = 0.001
        elif chance < 0.9:
            limit_s = 0.02
        else:
            limit_s = 0.3 if chance < 0.98 else 2.5
        return self._rng.random() * limit_s * self.slowness

    def run_in_executor(self, executor: Any, function: Any, *args: Any) -> asyncio.Future[Any]:
        """Return the future of work that runs later in this thread. An executor with one thread keeps the order."""
        self._check_closed()
        future = self.create_future()
        is_begun = self._rng.random() < 0.5
        owner = daemon_run.get()
        is_alone = getattr(executor, "_max_workers", None) == 1

        def work() -> None:
            if owner in self._killed or (future.cancelled() and not is_begun):
                return
            try:
                result = function(*args) if is_alone else self.run_interruptibly(lambda: function(*args))
                outcome = (future.set_result, result)
            except BaseException as error:  # noqa: BLE001  raised again where the future is awaited
                outcome = (future.set_exception, error)
            self.call_later(self.pause_s() / 4, self._resolve, future, *outcome)

        when = self.now + self.pause_s()
        if is_alone:
            when = max(when, self._busy_until.get(id(executor), 0.0) + 1e-6)
            self._busy_until[id(executor)] = when
            self.longest_wait_s = max(self.longest_wait_s, when - self.now)
        self.call_at(when, work)
        return future

    def start_thread(self, run: Job) -> None:
        """Run the work of a thread later."""
        self.call_later(self.pause_s(), lambda: self.run_interruptibly(run))

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Return the result of a thread's work, which `before_file_call` may interrupt once."""
        before = self._calls_left
        is_chosen = self._depth < MAX_DEPTH and self._rng.random() < self.interruptions
        self._calls_left = int(self._rng.random() ** 2 * 30) if is_chosen else None
        try:
            return work()
        finally:
            self._calls_left = before

    def before_file_call(self) -> None:
        """Interrupt the running thread if an interruption is due: run the loop and all other tasks for some time."""
        if self._calls_left is None:
            return
        self._calls_left -= 1
        if self._calls_left >= 0:
            return
        self._calls_left = None
        until = self.now + 3 * self.pause_s()
        self._depth += 1
        try:
            while not self._stopping and (self._ready or (self._scheduled and self._scheduled[0]._when <= until)):
                self._run_once()
        finally:
            self._depth -= 1
        self.now = max(self.now, until)

    @staticmethod
    def _resolve(future: asyncio.Future[Any], resolve: Callable[[Any], object], outcome: object) -> None:
        if not future.done():
            resolve(outcome)

    # --- services of the operating system

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        """See BaseEventLoop; `send_signal` calls it."""
        context = copy_context()
        self.signal_handlers[sig] = lambda: self.call_soon(callback, *args, context=context)

    def remove_signal_handler(self, sig: int) -> bool:
        """See BaseEventLoop."""
        return self.signal_handlers.pop(sig, None) is not None

    def send_signal(self, sig: int) -> None:
        """Call the handler of a signal if there is one."""
        handler = self.signal_handlers.get(sig)
        if handler is not None:
            handler()

    async def create_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a server that does not listen, and add it to `servers`."""
        server = SimulatedServer(protocol_factory)
        self.servers.append(server)
        return server

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  as BaseEventLoop has it
        """Do nothing: there are no threads."""


class SimulatedServer:
    """Result of `create_server`."""

    def __init__(self, protocol_factory: Any) -> None:
        self.protocol_factory = protocol_factory
        self.sockets = [_Socket()]

    def close(self) -> None:
        """Do nothing: it does not listen."""

    def close_clients(self) -> None:
        """Do nothing: there are no clients."""

    async def wait_closed(self) -> None:
        """Return at once."""


class _Socket:
    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8787


def _is_step(handle: asyncio.Handle) -> bool:
    callback = handle._callback
    if type(callback).__name__ in _STEPS:
        return True
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


@contextlib.contextmanager
def running(loop: SimulatedLoop) -> Iterator[SimulatedLoop]:
    """Set the event loop of the thread; close it at the end."""
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
