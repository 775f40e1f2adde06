"""Mutations of JSON documents and of text in columns: what they say changes, what they are does not."""

import json
from collections.abc import Callable
from random import Random

NUMBERS = ("nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "0", "-0", "-1", "1e9", "2147483648", "18446744073709551616", "9" * 5000)
WORDS = ("", "\0", "é", "\u2028", "١٢", "1_000", "0x10", "a\nb", "../../escape", "A" * 100_000, "true", "None", "[1 0 0 0]")
RAW = (
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "1" + "0" * 300,
    '"' + "A" * 300_000 + '"',
    '"\\ud800"',
    "[" + "0," * 100_000 + "0]",
    "[[" + "],[" * 50_000 + "]]",
)
"""JSON that json.dumps does not write, or that is long."""
MARK = "@raw@"

Path = tuple[str | int, ...]


def mutate_json(data: bytes, rng: Random) -> bytes:
    """Change, delete, double or add one value anywhere in a document.

    Raises:
        ValueError: not JSON.
    """
    text = json.dumps({"": mutate_value(json.loads(data), rng)})[5:-1]
    return text.replace(f'"{MARK}"', rng.choice(RAW), 1).encode()


def mutate_value(document: object, rng: Random) -> object:
    """A copy of a document in which one place is another; the first level of long documents is met as often as all the rest."""
    places = list(_places(document))
    path = rng.choice([each for each in places if len(each) <= 1] if rng.random() < 0.3 else places)
    return _changed(document, path, rng.choice(CHANGES), rng)


def _places(value: object, path: Path = ()) -> list[Path]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, child in children for place in _places(child, (*path, key))]


def _changed(value: object, path: Path, change: Callable[[object, Random], object], rng: Random) -> object:
    if not path:
        return change(value, rng)
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        if not rest and rng.random() < 0.2:
            return {name: each for name, each in value.items() if name != key}
        if not rest and rng.random() < 0.1:
            return {(rng.choice(WORDS) if name == key else name): each for name, each in value.items()}
        return {name: _changed(each, rest, change, rng) if name == key else each for name, each in value.items()}
    assert isinstance(value, list)
    if not rest and rng.random() < 0.3:
        return value[: int(key)] + value[int(key) + 1 :] * rng.choice((1, 1, 1, 2, 100))
    return [_changed(each, rest, change, rng) if index == key else each for index, each in enumerate(value)]


def _other_type(value: object, rng: Random) -> object:
    return rng.choice((None, True, False, 0, -1, 1.5, "", "a", [], {}, [[]], [None], {"a": 1}, [value], {"a": value}, str(value)))


def _other_number(value: object, rng: Random) -> object:
    huge = (2**31, 2**53 + 1, 2**63, 2**64, 10**30, 1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf"))
    nudged = (value * 1.0001, value + 1, -value) if isinstance(value, int | float) else ()
    return rng.choice((0, -1, 1, 1000, 10**6, 10**9, *huge, *nudged))


def _other_word(value: object, rng: Random) -> object:
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(WORDS[:8]) + value[at + rng.randint(0, 2) :]
    return rng.choice((*WORDS, *NUMBERS))


def _other_size(value: object, rng: Random) -> object:
    if isinstance(value, list):
        return rng.choice((value * 2, value[:-1], value[::-1], [value], value * 50, [value] * 3))
    if isinstance(value, dict):
        return {**value, rng.choice(("a", "frames", "0", "")): rng.choice((None, 1, [], {}))}
    return [value] * rng.choice((1, 2, 1000))


CHANGES: tuple[Callable[[object, Random], object], ...] = (
    _other_type,
    _other_type,
    _other_number,
    _other_number,
    _other_word,
    _other_size,
    lambda _value, _rng: MARK,
)


def mutate_text(data: bytes, rng: Random) -> bytes:
    """Change a word or a line.

    Raises:
        UnicodeDecodeError: not text.
    """
    lines = data.decode().split("\n")
    at = rng.randrange(len(lines))
    words = lines[at].split(" ")
    word = rng.randrange(len(words))
    kind = rng.randrange(7)
    if kind <= 2:
        words[word] = rng.choice((*NUMBERS, *WORDS))
    elif kind == 3:
        del words[word]
    elif kind == 4:
        words[word:word] = words[rng.randrange(len(words)) :]
    elif kind == 5:
        lines[at:at] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 2, 1000))
    else:
        rng.shuffle(lines)
    if kind <= 4:
        lines[at] = " ".join(words)
    return "\n".join(lines).encode()
