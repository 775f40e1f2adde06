"""Jobs on a Ray cluster, as :mod:`track2view.workers` does them on this machine's processes."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from track2view.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
IN_FLIGHT_PER_CPU = 2
RAY_RETRIES = 2
CONNECT_SECONDS = 5.0


@contextmanager
def on_ray(work: Callable[[Item], Result], items: list[Item], address: str) -> Iterator[Iterator[tuple[Item, Result | None]]]:
    """As :func:`~track2view.workers.on_processes`, on a cluster that runs already; its machines share the
    folders and have this package installed.

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
        yield _results(work, items)
    finally:
        ray.shutdown()


def _results(work: Callable[[Item], Result], items: list[Item]) -> Iterator[tuple[Item, Result | None]]:
    import ray

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


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    """Ray takes functions, not objects that can be called."""
    return work(item)
