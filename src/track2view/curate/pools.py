"""The same jobs on this machine's processes or on a Ray cluster. A job that takes its process down is found, and the rest goes on."""

import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

from track2view.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
IN_FLIGHT_PER_CPU = 2
RAY_RETRIES = 2
CONNECT_SECONDS = 5.0
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def on_processes(work: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[tuple[Item, Result | None]]:
    """Each item with its result, in the order in which they end; ``None`` where the process died of it.

    A pool that breaks does not say by which job: those that ran then are done again, each alone.
    """
    left = iter(items)
    while suspects := (yield from _until_broken(work, left, workers)):
        for item in suspects:
            yield from ((each, None) for each in (yield from _until_broken(work, iter([item]), 1)))


def on_ray(work: Callable[[Item], Result], items: list[Item], address: str) -> Iterator[tuple[Item, Result | None]]:
    """As :func:`on_processes`, on a cluster that runs already; its machines share the folders and have this package installed.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed; `pip install 'track2view[ray]'`") from None
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray: no cluster answers at {address} ({error}); start one with `ray start --head`") from None
    try:
        task = ray.remote(_call).options(num_cpus=1, max_retries=RAY_RETRIES)
        left, running = iter(items), {}
        most = max(1, int(IN_FLIGHT_PER_CPU * ray.cluster_resources().get("CPU", 1)))
        running |= {task.remote(work, item): item for item in islice(left, most)}
        while running:
            for job in ray.wait(list(running), num_returns=1)[0]:
                item = running.pop(job)
                running |= {task.remote(work, following): following for following in islice(left, 1)}
                try:
                    yield item, ray.get(job)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
                    yield item, None
    finally:
        ray.shutdown()


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    """Ray takes functions, not objects that can be called."""
    return work(item)


def _until_broken(
    work: Callable[[Item], Result], left: Iterator[Item], workers: int
) -> Generator[tuple[Item, Result | None], None, list[Item]]:
    """Yield results; return the items whose fate is unknown because the pool broke, else nothing."""
    spawned = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_die_with_parent)
    with _libraries_on_one_thread(), spawned as pool:
        running: dict[Future[Result], Item] = {pool.submit(work, item): item for item in islice(left, workers)}
        while running:
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    result = job.result()
                except BrokenProcessPool:
                    return list(running.values())
                yield running.pop(job), result
                for item in islice(left, 1):
                    try:
                        running[pool.submit(work, item)] = item
                    except BrokenProcessPool:
                        return [item, *running.values()]
    return []


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


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait, or work, forever."""
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
