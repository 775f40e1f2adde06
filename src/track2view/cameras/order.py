"""Which camera, and which moment, each pose of a file belongs to: names in natural order, cameras told apart, gaps filled."""

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
import torch

from track2view.cameras.raw import listed
from track2view.errors import UserError, notice
from track2view.records import CameraPath

MOST_FRAMES = 100_000
MOST_STRETCH = 10
JITTER = 0.25
"""Share of a frame's interval by which a timestamp may be off its place."""
SHORTEST_INTERVAL = 1000.0
"""Microseconds; timestamps closer together than this count frames, not time."""
LATEST = 1e18
"""Microseconds."""
_DIGITS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple:
    """Sorts names as a person does: frame 2 before frame 10."""
    parts = _DIGITS.split(name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if index % 2 else part for index, part in enumerate(parts)], name


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The one number in which the names of a sequence differ; None where there is no such number.

    Raises:
        UserError: two names of one frame.
    """
    stems = [re.sub(r"\.[A-Za-z][A-Za-z0-9]*$", "", PurePosixPath(name).name) for name in names]
    if len({_DIGITS.sub("#", stem) for stem in stems}) > 1:
        return None
    fields = list(zip(*(_DIGITS.findall(stem) for stem in stems), strict=True))
    varying = [[text.lstrip("0") for text in field] for field in fields if len(set(field)) > 1]
    if len(varying) > 1 or (varying and max(map(len, varying[0])) > 18):
        return None
    numbers = [int(text or "0") for text in varying[0]] if varying else [0] * len(stems)
    first: dict[int, str] = {}
    for found, name in zip(numbers, names, strict=True):
        if found in first:
            raise UserError(f"{first[found]} and {name} are the same frame; remove one of them")
        first[found] = name
    return numbers


def cameras_of(names: Sequence[str], lenses: Sequence[Hashable] | None = None) -> dict[str, list[int]]:
    """Which images each of a model's cameras took, by the camera's name.

    Folders are cameras. Within one folder, prefixes are (``left_0001``, ``right_0001``), where each has lenses of its own or they
    number the same frames; a lens per image alone makes no cameras.
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    folders = [path.parts[:-1] for path in paths]
    shared = next((depth for depth, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1), min(map(len, folders)))
    if len(set(folders)) > 1:
        return _grouped(["/".join(parts[shared:]) or "." for parts in folders])
    prefixes = [_prefix(path.name) for path in paths]
    groups = _grouped(prefixes)
    if len(groups) > 1 and (_own_lenses(groups, lenses) or _same_numbers(names, prefixes)):
        return _grouped([prefix.rstrip("_-. ") or "." for prefix in prefixes])
    return {folders[0][-1] if folders[0] else "": list(range(len(names)))}


def chosen(cameras: dict[str, list[int]], camera: str | None) -> list[int]:
    """The images of the camera that was asked for, or of the only one.

    Raises:
        UserError: none asked for among several, or one that is not there.
    """
    if camera is None:
        if len(cameras) > 1:
            raise UserError(f"holds {len(cameras)} cameras; choose one with #NAME: {listed(sorted(cameras, key=natural_key))}")
        return next(iter(cameras.values()))
    if camera not in cameras:
        raise UserError(f"has no camera {camera!r}; it has {listed(name or 'one without a name' for name in cameras)}")
    return cameras[camera]


def filled(camera: CameraPath, numbers: Sequence[int], file: object, step: int | None = None) -> CameraPath:
    """The path at every frame from the first number to the last; frames that are missing are interpolated, and said to be.

    Args:
        camera: poses at ``numbers``, which increase.
        numbers: of frames.
        file: for messages.
        step: from one frame to the next; what all numbers have in common by default (1, 3, 5 is every frame of a sparser path).

    Raises:
        UserError: too many are missing to be interpolated.
    """
    gaps = [later - earlier for earlier, later in pairwise(numbers)]
    step = step or math.gcd(*gaps) or 1
    total = (numbers[-1] - numbers[0]) // step + 1
    missing = total - len(numbers)
    if not missing:
        return camera
    runs = listed(
        (f"{earlier + step}" if later - earlier == 2 * step else f"{earlier + step}–{later - step}")
        for earlier, later in pairwise(numbers)
        if later - earlier > step
    )
    _check_length(total, len(numbers), f"frames {runs} are missing")
    notice(f"{file}: {missing} of {total} frames are missing ({runs}); they were interpolated between their neighbours")
    own = torch.tensor([(each - numbers[0]) // step for each in numbers], dtype=torch.float64)
    return camera.at(own, torch.arange(total, dtype=torch.float64))


def timed(camera: CameraPath, microseconds: Sequence[float], file: object) -> CameraPath:
    """The path at the even rate that timestamps tell; frames that are missing are interpolated, and said to be.

    Timestamps that are all alike tell nothing, and those that count frames tell no rate.

    Raises:
        UserError: timestamps that do not increase, or leave out too much.
    """
    stamps = np.asarray(microseconds, np.float64)
    if not (np.abs(stamps) < LATEST).all():
        raise UserError("timestamps: not numbers of microseconds")
    gaps = np.diff(stamps)
    if not gaps.any():
        return camera
    if (gaps <= 0).any():
        row = int(np.flatnonzero(gaps <= 0)[0])
        raise UserError(f"timestamps: frame {row + 1} ({stamps[row + 1]:.0f}) is not later than frame {row} ({stamps[row]:.0f}); sort them")
    typical = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    if typical < SHORTEST_INTERVAL and (stamps == np.round(stamps)).all():
        return filled(camera, [int(stamp) for stamp in stamps], file)
    with np.errstate(over="ignore"):
        steps = float(np.maximum(np.round(gaps / typical), 1).sum())
    if steps > len(gaps):
        _check_length(steps + 1, len(stamps), f"its timestamps leave out {steps - len(gaps):.0f} frames")
    interval = float(stamps[-1] - stamps[0]) / steps
    even = np.arange(steps + 1)
    own = (stamps - stamps[0]) / interval
    nearest = np.clip(np.searchsorted(own, even), 1, len(own) - 1)
    off = np.minimum(np.abs(own[nearest] - even), np.abs(own[nearest - 1] - even))
    missing = np.flatnonzero(off > JITTER)
    if len(missing):
        runs = listed(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in _runs(missing))
        notice(f"{file}: {len(missing)} of {len(even)} frames have no timestamp ({runs}); they were interpolated between their neighbours")
        camera = camera.at(torch.from_numpy(own), torch.from_numpy(even))
    return replace(camera, fps=1e6 / interval) if interval >= SHORTEST_INTERVAL else camera


def _runs(indices: np.ndarray) -> list[np.ndarray]:
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)


def _check_length(total: float, known: int, problem: str) -> None:
    if total > min(MOST_FRAMES, MOST_STRETCH * known):
        raise UserError(
            f"{problem}: {known} poses cannot tell {total:.0f} frames; number them as they follow each other, or add the missing"
        )


def _grouped(keys: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return dict(groups)


def _prefix(name: str) -> str:
    """What stands before a file name's last number."""
    found = list(_DIGITS.finditer(re.sub(r"\.[A-Za-z][A-Za-z0-9]*$", "", name)))
    return name[: found[-1].start()] if found else name


def _own_lenses(groups: dict[str, list[int]], lenses: Sequence[Hashable] | None) -> bool:
    """Whether every group has lenses that no other has, and fewer of them than images."""
    if lenses is None or len(set(lenses)) == len(lenses):
        return False
    sets = [{lenses[index] for index in indices} for indices in groups.values()]
    return sum(map(len, sets)) == len(set(lenses))


def _same_numbers(names: Sequence[str], prefixes: Sequence[str]) -> bool:
    """Whether some prefixes number the same frames: all of theirs, or any of them where they differ by more than digits."""
    if all(re.search(r"[0-9]\.$", prefix) for prefix in prefixes):
        return False  # seconds with decimals
    own: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, set[str]] = defaultdict(set)
    for name, prefix in zip(names, prefixes, strict=True):
        found = _DIGITS.match(PurePosixPath(name).name[len(prefix) :])
        number = found[0].lstrip("0") if found else ""
        own[prefix].add(number)
        kinds[_DIGITS.sub("#", prefix)].add(number)
    several = [frozenset(numbers) for numbers in own.values() if len(numbers) > 1]
    return len(set(several)) < len(several) or sum(map(len, kinds.values())) > len(set().union(*kinds.values()))
