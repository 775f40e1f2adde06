"""Jobs on this machine's processes, which end with the one that started them, however that ends.

A light module: a worker imports it before anything else, so that it knows within a moment of its start whether anybody waits.
"""

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from tqdm import tqdm

from track2view.signals import noted

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_processes(work: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[Iterator[tuple[Item, Result | None]]]:
    """Each item with its result, in the order in which they end; ``None`` where the process died of it. No worker outlives the block.

    A job whose process dies is done once more, alone, when all others are done: memory may have been too small for several at once.

    Raises:
        Exception: what a job raised.
    """
    crew: list[_Worker] = []
    with _libraries_on_one_thread():
        try:
            yield _results(work, items, workers, crew)
        finally:
            for worker in crew:
                worker.end()


def _results(
    work: Callable[[Item], Result], items: list[Item], workers: int, crew: "list[_Worker]"
) -> Iterator[tuple[Item, Result | None]]:
    died = []
    for item, result in _answers(work, items, workers, crew):
        if result is None:
            died.append(item)
        else:
            yield item, result
    for item in died:
        yield from _answers(work, [item], 1, crew)


def _answers(
    work: Callable[[Item], Result], items: list[Item], workers: int, crew: "list[_Worker]"
) -> Iterator[tuple[Item, Result | None]]:
    left, busy = deque(items), dict[Connection, tuple[_Worker, Item]]()
    idle = [worker for worker in crew if worker.process.is_alive()][:workers]
    while left or busy:
        while left and len(busy) < workers:
            worker = idle.pop() if idle else _Worker.started(work, crew)
            item = left.popleft()
            busy[worker.jobs] = worker, item
            with suppress(BrokenPipeError, ConnectionResetError):  # it died already, as is found when it is waited for
                worker.jobs.send(item)
        for ready in wait(list(busy)):
            assert isinstance(ready, Connection)
            worker, item = busy.pop(ready)
            try:
                result, error = ready.recv()
            except (EOFError, ConnectionResetError):
                worker.end()
                crew.remove(worker)
                yield item, None
                continue
            if error is not None:
                raise error
            idle.append(worker)
            yield item, result


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process, and the pipe on which it gets jobs and answers them."""

    process: SpawnProcess
    jobs: Connection

    @staticmethod
    def started(work: Callable[[Item], Result], crew: "list[_Worker]") -> "_Worker":
        """A new member of ``crew``."""
        ours, theirs = get_context("spawn").Pipe()
        worker = _Worker(get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True), ours)
        with _signals_held(), theirs:
            worker.process.start()
            crew.append(worker)
        with suppress(BrokenPipeError, ConnectionResetError):
            ours.send(work)
        return worker

    def end(self) -> None:
        """Kill it and what it started: jobs are made to be killed."""
        if self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
        self.jobs.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that stop us wait until the block's end, and so they do in a process that is started within, until it is ready.

    Blocking them is inherited, but does not suffice: another thread may take one, and Python answers it here.
    """
    resource_tracker.ensure_running()  # its start would lift the block
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    found: list[int] = []
    try:
        with noted(*(STOPPING if threading.current_thread() is threading.main_thread() else ())) as found:
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in found:
            signal.raise_signal(number)


def _serve(jobs: Connection) -> None:
    """A worker's life. It leads a group of its own, and only its parent ends it: a terminal's Ctrl-C, or a shutdown's SIGTERM to
    all, must not look like a job that killed its process."""
    os.setpgid(0, 0)
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    threading.Thread(target=_follow_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a named semaphore, of which a killed worker's is complained about
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # our parent has ended
        _answer(jobs)


def _answer(jobs: Connection) -> None:
    try:
        work = jobs.recv()
    except (ImportError, AttributeError) as error:
        jobs.recv()
        return jobs.send((None, error))
    while True:
        item = jobs.recv()
        try:
            answer = work(item), None
        except Exception as error:  # raised again by the parent, whatever it is
            error.add_note(traceback.format_exc())
            answer = None, error
        jobs.send(answer)


def _follow_parent() -> None:
    """End this process, and the programs it runs, when its parent has ended.

    Not by the kernel's own signal for that (``PR_SET_PDEATHSIG``): it would end the worker first, and leave its programs running.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


@contextmanager
def _libraries_on_one_thread() -> Iterator[None]:
    """Workers share the processors among them; linear algebra that takes all of them for each makes two slower than one."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
