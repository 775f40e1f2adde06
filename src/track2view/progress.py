"""Progress bars on anything that takes over a second."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """Wrap an iterable in a progress bar that appears once it has run for a second on a terminal."""
    return tqdm(items, desc=what, total=total, delay=1.0, disable=None, leave=False, dynamic_ncols=True)
