"""Signals that ask a process to end: as one exception, or noted until there is a better moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Stopped(KeyboardInterrupt):
    """A signal that asks a process to end; its number is the argument."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP end a command alike, unless whoever started us has them ignored (nohup).

    Raises:
        Stopped: at any moment.
    """

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise Stopped(number)

    as_ever = (signal.SIG_DFL, signal.default_int_handler)
    before = {each: kept for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if (kept := signal.getsignal(each)) in as_ever}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, kept in before.items():
            signal.signal(each, kept)


@contextmanager
def noted(*numbers: int) -> Iterator[list[int]]:
    """Within the block these signals do no more than enter their numbers in the list; only the main thread is ever asked to end."""
    found: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.signal(number, lambda number, _: found.append(number)) for number in numbers}
    try:
        yield found
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)
