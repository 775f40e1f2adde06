"""Mutations of bytes that know nothing about what the bytes mean."""

import struct
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

BOUNDARIES = (0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
LONGEST = 1 << 20
"""Inputs stay below a megabyte, so that what they make a reader take can be held against them."""


def flip_bits(data: bytes, rng: Random) -> bytes:
    """One to eight bits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: Random) -> bytes:
    """A few bytes in a row: one value, or noise."""
    start, length = _span(data, rng, 16)
    noise = rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.choice((0, 0x20, 0x7F, 0x80, 0xFF))]) * length
    return data[:start] + noise + data[start + length :]


def set_integer(data: bytes, rng: Random) -> bytes:
    """A boundary value of 1, 2, 4 or 8 bytes in either order, more often than not where such a field would lie."""
    width = rng.choice([each for each in (1, 2, 4, 8) if each <= len(data)])
    start = rng.randrange(len(data) - width + 1)
    if rng.random() < 0.6:
        start -= start % width
    return data[:start] + integer(rng, width) + data[start + width :]


def integer(rng: Random, width: int, order: str | None = None) -> bytes:
    """A boundary value, cut to ``width`` bytes."""
    low = rng.choice(BOUNDARIES) & ((1 << 8 * width) - 1)
    return low.to_bytes(width, order or rng.choice(("big", "little")))


def set_float(data: bytes, rng: Random) -> bytes:
    """A float that breaks arithmetic."""
    value = struct.pack(
        rng.choice("<>") + rng.choice("fd"), rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-38, 3e38))
    )
    start = rng.randrange(len(data))
    start -= start % 4
    return data[:start] + value + data[start + len(value) :]


def delete_block(data: bytes, rng: Random) -> bytes:
    start, length = _span(data, rng, len(data))
    return data[:start] + data[start + length :]


def duplicate_block(data: bytes, rng: Random) -> bytes:
    start, length = _span(data, rng, len(data))
    return data[:start] + data[start : start + length] * rng.choice((2, 2, 3, 10)) + data[start + length :]


def move_block(data: bytes, rng: Random) -> bytes:
    """Copied over another place."""
    start, length = _span(data, rng, 64)
    place = rng.randrange(len(data))
    return data[:place] + data[start : start + length] + data[place + length :]


def insert_bytes(data: bytes, rng: Random) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.randbytes(rng.randint(1, 16)) + data[place:]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


BLIND: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    set_integer,
    set_integer,
    set_float,
    delete_block,
    duplicate_block,
    move_block,
    insert_bytes,
    truncate,
)


def mutate_blindly(data: bytes, rng: Random) -> bytes:
    """One of :data:`BLIND`; an empty file grows."""
    return rng.choice(BLIND)(data, rng)[:LONGEST] if data else rng.randbytes(rng.randint(1, 64))


def splice(first: bytes, second: bytes, rng: Random) -> bytes:
    """The beginning of one and the end of another."""
    return (first[: rng.randint(0, len(first))] + second[rng.randint(0, len(second)) :])[:LONGEST]


def _span(data: bytes, rng: Random, longest: int) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, rng.randint(1, max(1, min(longest, len(data) - start)))
