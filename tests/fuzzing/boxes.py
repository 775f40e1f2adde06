"""Mutations of MP4: a tree of boxes, each a length, a name and a content, in which lengths stay right unless they are the point."""

import struct
from dataclasses import dataclass, replace
from random import Random

from fuzzing.blind import integer, mutate_blindly

NESTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"}


@dataclass(frozen=True, slots=True)
class Box:
    """A box; ``children`` where its content is boxes."""

    name: bytes
    content: bytes = b""
    children: tuple["Box", ...] = ()

    def pack(self) -> bytes:
        content = b"".join(child.pack() for child in self.children) if self.name in NESTS else self.content
        return struct.pack(">I", 8 + len(content)) + self.name + content


def parse(data: bytes) -> tuple[Box, ...]:
    """The boxes of a file.

    Raises:
        ValueError: lengths that do not add up.
    """
    boxes, at = [], 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("a box is cut")
        (length,) = struct.unpack(">I", data[at : at + 4])
        if not 8 <= length <= len(data) - at:
            raise ValueError("a box is longer than its place")
        name, content = data[at + 4 : at + 8], data[at + 8 : at + length]
        boxes.append(Box(name, children=parse(content)) if name in NESTS else Box(name, content))
        at += length
    return tuple(boxes)


def mutate_boxes(data: bytes, rng: Random) -> bytes:
    """Change one box: a field of it, a length, its name; or drop, double or move it, or add an edit list."""
    boxes = parse(data)
    places = [place for place in _places(boxes) if len(place) > 1] or list(_places(boxes))
    return b"".join(box.pack() for box in _changed(boxes, rng.choice(places), rng))


def _places(boxes: tuple[Box, ...], path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    return [place for i, box in enumerate(boxes) for place in ((*path, i), *_places(box.children, (*path, i)))]


def _changed(boxes: tuple[Box, ...], path: tuple[int, ...], rng: Random) -> tuple[Box, ...]:
    at, rest = path[0], path[1:]
    before, box, after = boxes[:at], boxes[at], boxes[at + 1 :]
    if rest:
        return (*before, replace(box, children=_changed(box.children, rest, rng)), *after)
    if rng.random() < 0.1:
        return (*after, box, *before)
    return (*before, *_instead(box, rng), *after)


def _instead(box: Box, rng: Random) -> tuple[Box, ...]:
    kind = rng.randrange(11)
    if kind < 4:
        other = rng.choice((b"free", b"elst", b"edts", b"stts", b"ctts", b"tkhd", b"meta", b"moov"))
        return ((), (box, box), (replace(box, name=other),), (_edits(rng), box))[kind]
    if not box.content:
        return (box,)
    return (replace(box, content=_field(box.content, rng) if kind < 10 else mutate_blindly(box.content, rng)),)


def _field(content: bytes, rng: Random) -> bytes:
    """One 32-bit field (8 and 16 bits now and then) at a boundary value: counts, durations, time scales, sizes."""
    width = min(rng.choice((4, 4, 4, 2, 1)), len(content))
    start = width * rng.randrange(len(content) // width)
    return content[:start] + integer(rng, width, "big") + content[start + width :]


def _edits(rng: Random) -> Box:
    edits = [struct.pack(">IiHH", rng.choice((0, 1, 100, 2**32 - 1)), rng.choice((-1, 0, 512, 2**31 - 1)), rng.choice((0, 1, 2)), 0)]
    edits *= rng.choice((1, 2, 1000))
    return Box(b"edts", children=(Box(b"elst", struct.pack(">II", 0, rng.choice((len(edits), 0, 2**32 - 1))) + b"".join(edits)),))
