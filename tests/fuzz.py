"""Mutated inputs for every reader: ``make fuzz``, or ``python tests/fuzz.py --readers video tracks --count 1000 --keep FOLDER``.

Prints one Markdown row a reader, then its faults, and ends with code 1 if there are any.
"""

import sys
from pathlib import Path

import tyro
from fuzzing.judge import FAULTS, SECONDS, Limits
from fuzzing.readers import READERS
from fuzzing.run import fuzz, keep

KINDS = ("ok", "refused", *FAULTS)


def main(
    readers: tuple[str, ...] = ("all",), count: int = 10_000, seed: int = 0, keep_in: Path | None = None, seconds: float = SECONDS
) -> None:
    """Fuzz readers.

    Args:
        readers: names, or all.
        count: inputs for each.
        seed: draws other mutations.
        keep_in: a folder that gets the smallest example of each fault.
        seconds: wall clock for one input; fewer where many hang.
    """
    print(f"| reader | inputs | {' | '.join(KINDS)} | inputs/s |\n|{'---|' * (len(KINDS) + 3)}")
    broken, warned = [], []
    for name in READERS if readers == ("all",) else readers:
        report = fuzz(name, count, seed, Limits(seconds=seconds))
        numbers = [report.inputs, *(report.counts.get(kind, 0) for kind in KINDS), f"{report.inputs / report.seconds:.0f}"]
        print(f"| {name} | {' | '.join(map(str, numbers))} |", flush=True)
        places = [None] * len(report.faults) if keep_in is None else keep(report, keep_in)
        broken += [f"- {name}: {fault.title}{f' | {place}' if place else ''}" for fault, place in zip(report.faults, places, strict=True)]
        warned += [f"- {name}: {times} × {text[:200]}" for text, times in report.warned.items()]
    print("\nFaults:\n" + ("\n".join(broken) or "none"))
    print("\nWarnings that are no notices:\n" + ("\n".join(warned) or "none"))
    sys.exit(bool(broken))


if __name__ == "__main__":
    tyro.cli(main)
