"""Progress bars on anything that takes over a second."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Listener = Callable[[str, int, int | None], None]
"""Told what is being done, how many items of it are, and of how many, where that is known. What it raises stops the work."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """Wrap an iterable in a progress bar that appears once it has run for a second on a terminal."""
    bar = tqdm(items, desc=what, total=total, delay=1.0, disable=None, leave=False, dynamic_ncols=True)
    listener = _listener.get()
    return bar if listener is None else _told(bar, what, total, listener)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within the block, in its thread, a program that shows progress in its own way, or ends work early, hears of every item."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def _told(items: Iterable[Item], what: str, total: int | None, listener: Listener) -> Iterator[Item]:
    for done, item in enumerate(items):
        listener(what, done, total)
        yield item
