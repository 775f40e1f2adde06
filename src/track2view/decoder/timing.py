"""When each frame is shown: stored times to the ticks of a constant rate, and where a file ends before it should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from typing import TYPE_CHECKING

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from track2view.decoder.limits import progressed
from track2view.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float  # a sixth of the start of a process in which nothing checks them

NO_TIMESTAMPS = 0x80
"""AVFMT_NOTIMESTAMPS."""
DEFAULT_RATE = Fraction(25)
HIGHEST_RATE, LOWEST_RATE = Fraction(1000), Fraction(1, 60)
DRIFT = 0.75
"""In ticks: nearer than this to where it is due, a frame is where it is due."""
HELD_PER_FRAME, HELD_AT_ALL = 100, 3600
REORDERED_SECONDS = 1.0
SECONDS_MISSING = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What the packets of a window tell.

    Attributes:
        rate: ticks per second.
        begins: when the first stored picture would be shown, in seconds; None where the window is not the beginning, or nothing tells.
        end: when the last picture stops being shown, in seconds; None where the window stops before the file does, or nothing tells.
        cut_off: when frames that are announced begin to be missing; None where all are there.
    """

    rate: Fraction
    begins: float | None
    end: float | None
    cut_off: float | None


def timing(container: InputContainer, stream: av.VideoStream, start: float | None, until: float) -> Timing:
    """Read packets from ``start`` (seconds; None: from the first) to ``until``; nothing is decoded.

    Raises:
        UserError: times leap, so that pictures would be held for ages.
    """
    if start is not None:
        sought(container, start)
    times, last, last_of_any = [], None, None
    cut_off = _beyond_the_file(container, stream)
    try:
        for packet in container.demux(None if until == float("inf") else [stream]):
            progressed()
            stamp = packet.dts if is_stamped_in_turn(container, packet) else packet.pts
            if stamp is None or packet.time_base is None or is_bare(container):
                continue
            time = float(stamp * packet.time_base)
            if packet.stream is stream and not packet.is_discard:
                last = max(time, time if last is None else last)
                if packet.size:
                    times.append(time)
                if time > until + REORDERED_SECONDS:
                    break
            last_of_any = max(time + float((packet.duration or 0) * packet.time_base), time if last_of_any is None else last_of_any)
    except FFmpegError:
        cut_off = cut_off if cut_off is not None else max(times, default=0.0)
    whole = until == float("inf")
    announced = [stream.average_rate, stream.guessed_rate] if times else [stream.guessed_rate]
    rate = constant_rate(sorted(times), announced)
    _reject_leaps(np.sort(times), float(rate))
    if whole and cut_off is None and _announces_more(container, stream, last_of_any):
        cut_off = max(times, default=0.0) + float(1 / rate)
    begins = times[0] if times and start is None else None
    return Timing(rate=rate, begins=begins, end=last + float(1 / rate) if whole and last is not None else None, cut_off=cut_off)


def sought(container: InputContainer, seconds: float) -> bool:
    """Move to the keyframe before a time, where pictures have times."""
    if is_bare(container):
        return False
    try:
        container.seek(int(seconds * av.time_base))
    except FFmpegError:
        return False
    return True


def is_bare(container: InputContainer) -> bool:
    """Whether it is an elementary stream, without times; FFmpeg's guesses for these suppose 25 frames a second."""
    return bool(container.format.flags & NO_TIMESTAMPS)


def is_stamped_in_turn(container: InputContainer, packet: av.Packet) -> bool:
    """Whether pictures have no times of their own but are shown at those of decoding in turn; FFmpeg guesses wrong ones for AVI."""
    return packet.pts is None or container.format.name == "avi"


def constant_rate(times: list[float], announced: list[Fraction | None]) -> Fraction:
    """Of the rates that a file announces the one that its frames keep to best, else that of the typical interval."""
    rates = [rate for rate in announced if rate and LOWEST_RATE <= rate <= HIGHEST_RATE]
    if len(times) < 2:
        return rates[0] if rates else DEFAULT_RATE
    elapsed, places = np.asarray(times) - times[0], np.arange(len(times))
    drifts = [float(np.abs(elapsed * float(rate) - places).max()) for rate in rates]
    if drifts and min(drifts) < DRIFT:
        return rates[int(np.argmin(np.round(drifts, 2)))]
    typical = float(np.median(np.diff(elapsed)))
    found = Fraction(1 / min(max(typical, 1 / 240), 60.0)).limit_denominator(1001)
    return next((rate for rate in rates if abs(float(found / rate) - 1) < 0.01), found)


Placed = tuple[av.VideoFrame, int, int]


def on_ticks(frames: Iterable[tuple[float | None, av.VideoFrame]], clock: Timing, origin: float, notices: list[str]) -> Iterator[Placed]:
    """Each frame with the ticks [first, end) at which it is the one shown; tick k is shown k / rate seconds after ``origin``.

    Frames without a time follow at the rate; where times run backwards, the rest is joined on.

    Raises:
        UserError: times leap, so that pictures would be held for ages.
    """
    rate, due, shift, before, held = float(clock.rate), None, 0.0, None, None
    for stamp, frame in frames:
        time = None if stamp is None else stamp + shift
        if time is not None and before is not None and time < before - 1e-9 and due is not None:
            shift += origin + due / rate - time
            notices.append(f"its times run backwards at {before - origin:.2f} s; what follows is joined on")
            time = origin + due / rate
        tick = due if time is None else (time - origin) * rate
        tick = 0.0 if tick is None else tick
        place = due if due is not None and abs(tick - due) < DRIFT else round(tick)
        if held is not None and place > held[1]:
            yield *held, place
        held, due = (frame, place), place + 1
        before = origin + place / rate if time is None else time
    if held is not None:
        end = held[1] + 1 if clock.end is None else max(held[1] + 1, round((clock.end - origin) * rate))
        yield *held, end


def _reject_leaps(times: Float[np.ndarray, " N"], rate: float) -> None:
    if len(times) > 1 and (times[-1] - times[0]) * rate > HELD_PER_FRAME * len(times) + HELD_AT_ALL:
        largest = int(np.argmax(np.diff(times)))
        at, gap = times[largest] - times[0], times[largest + 1] - times[largest]
        raise UserError(
            f"its times leap by {gap:.6g} s at {at:.2f} s: damaged, or a slideshow; stop before with --end {at:.2f}, "
            "or write its times anew, e.g. with `ffmpeg -i FILE -vf setpts=N/FRAME_RATE/TB`"
        )


def _beyond_the_file(container: InputContainer, stream: av.VideoStream) -> float | None:
    """When the first frame is shown that the table of an MP4 or MOV places, in part at least, behind the end of the file."""
    if not container.format.name.startswith("mov"):
        return None
    missing = list(takewhile(lambda entry: entry.pos + entry.size > container.size, reversed(stream.index_entries)))
    return float(min(entry.timestamp for entry in missing) * stream.time_base) if missing and stream.time_base else None


def _announces_more(container: InputContainer, stream: av.VideoStream, last: float | None) -> bool:
    """Whether the header speaks of half a second or more behind the last packet."""
    if last is None or container.format.name.startswith("mov"):
        return False
    start, length = (container.start_time or 0) / av.time_base, (container.duration or 0) / av.time_base
    if container.format.name == "avi" and stream.average_rate:
        length = max(length, float(stream.frames / stream.average_rate))
    return start + length - last > SECONDS_MISSING
