"""An event loop in virtual time with an order of events drawn from a seed."""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

life: ContextVar[int] = ContextVar("life", default=0)
"""Number of the daemon's run that the present code belongs to; 0 outside. Tasks, threads and timers inherit it."""

MOST_TURNS = 3_000_000
"""Most turns of a scenario; with more it loops for ever."""

MOST_DEPTH = 3
"""Most threads that are interrupted at the same time."""
T = TypeVar("T")

_STEPS = ("TaskStepMethWrapper", "TaskWakeupMethWrapper")
Job = Callable[[], object]


class EndlessScenario(Exception):  # noqa: N818  not an error of the simulation
    """The scenario does not end."""


class SimulatedTask(asyncio.Task[Any]):
    """A task hashed by its number, so that sets of tasks have the same order in each run."""

    _count = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> "SimulatedTask":
        """Number the task before asyncio enters it in its sets."""
        task = super().__new__(cls, *args, **kwargs)
        SimulatedTask._count += 1
        task.number = SimulatedTask._count
        task.life = (kwargs.get("context") or copy_context()).get(life, 0)
        return task

    number: int
    life: int

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future hashed by its number, as tasks are."""

    _count = 0

    def __init__(self, **kwargs: Any) -> None:
        SimulatedFuture._count += 1
        self.number = SimulatedFuture._count
        super().__init__(**kwargs)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """A loop without a selector.

    Callbacks run in their order, as asyncio promises. Of the task steps that are ready the seed draws the next one:
    programs may rely on the order of callbacks, but not on which of two tasks wakes first.

    Parameters
    ----------
    chances : where all draws come from.
    start : the first value of the monotonic clock.
    """

    def __init__(self, chances: random.Random, start: float = 1000.0) -> None:
        super().__init__()
        self.now = start
        self.turns = 0
        self.slowness = 1.0
        self.longest_wait_s = 0.0
        """Longest time that work of an executor of one thread, such as the journal's, has waited and run."""
        """Factor of the pauses of threads."""
        self.signal_handlers: dict[int, Callable[[], object]] = {}
        self.servers: list[SimulatedServer] = []
        self.pending: list[SimulatedTask] = []
        """Tasks of killed runs. Kept, so that none of their code runs, not even a `finally`."""
        self.last_life = 0
        self.interruptions = 0.1
        """Share of threads that are interrupted at a file call, so that other tasks run meanwhile."""
        self._chances = chances
        self._dead: set[int] = set()
        self._busy_until: dict[int, float] = {}
        self._calls_left: int | None = None
        self._depth = 0
        self._shuffles = chances.random() < 0.85
        self.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> SimulatedTask:
        return SimulatedTask(coroutine, loop=loop, **kwargs)

    def create_future(self) -> asyncio.Future[Any]:
        """See BaseEventLoop."""
        return SimulatedFuture(loop=self)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    # --- lives

    def begin_life(self) -> Context:
        """Return the context of a new run of the daemon."""
        self.last_life += 1
        context = copy_context()
        context.run(life.set, self.last_life)
        return context

    def end_life(self, number: int) -> None:
        """End a run of the daemon as kill -9 does: none of its code runs any more."""
        self._dead.add(number)
        self.pending += [
            task for task in asyncio.all_tasks(self) if isinstance(task, SimulatedTask) and task.life == number
        ]
        self.signal_handlers.clear()
        self.servers.clear()

    def is_dead(self, number: int) -> bool:
        """Whether that run of the daemon was killed."""
        return number in self._dead

    # --- turns

    def _run_once(self) -> None:
        self._move_due()
        if not self._ready:
            if not self._scheduled:
                raise EndlessScenario("nothing is ready and no timer is set: the scenario cannot go on")
            self.now = max(self.now, self._scheduled[0]._when)
            self._move_due()
        handle = self._next_ready()
        if handle is None or handle._cancelled or handle._context.get(life, 0) in self._dead:
            return
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise EndlessScenario(f"{MOST_TURNS} turns of the loop, at {self.now - 1000:.0f} s")
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
        chosen = self._chances.randrange(steps)
        handle = self._ready[chosen]
        del self._ready[chosen]
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """See BaseEventLoop: cancelled timers are dropped when they come up."""

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there is no selector."""

    def _write_to_self(self) -> None:
        """Do nothing: there is no thread to wake."""

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """See BaseEventLoop; every thread is this one."""
        return self.call_soon(callback, *args, context=context)

    # --- threads

    def pause_s(self) -> float:
        """Draw the delay of a thread: mostly none, sometimes seconds."""
        chance = self._chances.random()
        if chance < 0.6:
            longest = 0.001
        elif chance < 0.9:
            longest = 0.02
        else:
            longest = 0.3 if chance < 0.98 else 2.5
        return self._chances.random() * longest * self.slowness

    def run_in_executor(self, executor: Any, function: Any, *args: Any) -> asyncio.Future[Any]:
        """Return the future of work that runs later in this thread. An executor of one thread keeps the order."""
        self._check_closed()
        future = self.create_future()
        is_begun = self._chances.random() < 0.5
        owner = life.get()
        is_alone = getattr(executor, "_max_workers", None) == 1

        def work() -> None:
            if owner in self._dead or (future.cancelled() and not is_begun):
                return
            try:
                result = function(*args) if is_alone else self.interrupted(lambda: function(*args))
                outcome = (future.set_result, result)
            except BaseException as error:  # noqa: BLE001  raised again where the future is awaited
                outcome = (future.set_exception, error)
            self.call_later(self.pause_s() / 4, self._tell, future, *outcome)

        when = self.now + self.pause_s()
        if is_alone:
            when = max(when, self._busy_until.get(id(executor), 0.0) + 1e-6)
            self._busy_until[id(executor)] = when
            self.longest_wait_s = max(self.longest_wait_s, when - self.now)
        self.call_at(when, work)
        return future

    def start_thread(self, run: Job) -> None:
        """Run the work of a thread later."""
        self.call_later(self.pause_s(), lambda: self.interrupted(run))

    def interrupted(self, work: Callable[[], T]) -> T:
        """Return the result of a thread's work; `before_file_call` may interrupt it once."""
        before = self._calls_left
        is_chosen = self._depth < MOST_DEPTH and self._chances.random() < self.interruptions
        self._calls_left = int(self._chances.random() ** 2 * 30) if is_chosen else None
        try:
            return work()
        finally:
            self._calls_left = before

    def before_file_call(self) -> None:
        """Interrupt the running thread if it is due: the loop and all other tasks go on."""
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
    def _tell(future: asyncio.Future[Any], tell: Callable[[Any], object], outcome: object) -> None:
        if not future.done():
            tell(outcome)

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
        """Return a server that does not listen; `servers` holds it."""
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
    """Install the loop as that of the thread; close it at the end."""
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
