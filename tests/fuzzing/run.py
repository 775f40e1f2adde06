"""Fuzz one reader and sum up: counts, and faults grouped by what broke and where."""

import importlib
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from corpus import CRASHES, Seed, load

from fuzzing.judge import FAULTS, Inputs, Limits, Verdict, judge
from fuzzing.mutate import mutated
from fuzzing.readers import READERS, Reader, seeds

REFUSALS = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """Inputs that break a reader in one way.

    Attributes:
        verdict: of the smallest of them.
        example: that input.
        count: of them all.
    """

    verdict: Verdict
    example: Seed
    count: int

    @property
    def title(self) -> str:
        """One line."""
        words = (self.verdict.kind, self.verdict.what, self.verdict.where, " ".join(self.verdict.message.split())[:160])
        return f"{self.count} × {' | '.join(word for word in words if word)}"


@dataclass(frozen=True, slots=True)
class Report:
    """A reader's results.

    Attributes:
        counts: inputs by the kind of their verdict.
        faults: the most frequent first.
        refusals: what was said to refused inputs, the first :data:`REFUSALS`.
        warned: warnings other than notices, by how many inputs met them; nothing is held against them.
    """

    reader: str
    counts: dict[str, int]
    faults: list[Fault]
    refusals: list[str]
    warned: dict[str, int]
    seconds: float

    @property
    def inputs(self) -> int:
        return sum(self.counts.values())


def fuzz(name: str, count: int, seed: int = 0, limits: Limits | None = None) -> Report:
    """Run a reader on ``count`` mutated inputs; the same ones for the same ``seed``."""
    reader, originals = prepared(name)
    inputs = Inputs(lambda index: mutated(originals, f"{seed} {name}", index), count)
    return summed_up(name, inputs, judge(reader.read, inputs, limits or Limits()))


def prepared(name: str) -> tuple[Reader, list[Seed]]:
    """A reader with its modules imported, and its seeds; made in a child, so that this process can fork without threads."""
    reader = READERS[name]
    for module in reader.modules:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="track2view-fuzz-") as scratch:
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=lambda: theirs.send(seeds(reader, Path(scratch) / "seeds")))
        child.start()
        theirs.close()
        made = ours.recv()
        child.join()
    return reader, made


def crashes(name: str, originals: Sequence[Seed]) -> list[Seed]:
    """What broke a reader once. A folder ``SEED.what_it_did`` holds only what differs from that seed, and is laid over it."""
    whole = {seed.name: seed for seed in originals if "" not in seed.files}
    found = load(CRASHES / name) if (CRASHES / name).exists() else []
    return [
        Seed(case.name, {**whole[below].files, **case.files}) if (below := case.name.split(".")[0]) in whole else case for case in found
    ]


def summed_up(name: str, inputs: Sequence[Seed] | Inputs, verdicts: Iterable[Verdict]) -> Report:
    """Group verdicts."""
    started, counts, warned = time.perf_counter(), Counter[str](), Counter[str]()
    refusals: list[str] = []
    groups: dict[tuple[str, str, str], Fault] = {}
    for index, verdict in enumerate(verdicts):
        counts[verdict.kind] += 1
        warned.update(verdict.warned)
        if verdict.kind == "refused" and len(refusals) < REFUSALS:
            refusals.append(verdict.message)
        if verdict.kind in FAULTS:
            key = (verdict.kind, "" if verdict.kind == "memory" else verdict.what, verdict.where)
            example, known = inputs[index], groups.get(key)
            smallest = known is None or example.size < known.example.size
            groups[key] = Fault(
                verdict if smallest else known.verdict,
                example if smallest else known.example,
                1 + (known.count if known else 0),
            )
    faults = sorted(groups.values(), key=lambda fault: -fault.count)
    return Report(name, dict(counts), faults, refusals, dict(warned.most_common()), time.perf_counter() - started)


def keep(report: Report, folder: Path) -> list[Path]:
    """Write each fault's example and what is known of it to ``folder/READER``, replacing what is there."""
    shutil.rmtree(folder / report.reader, ignore_errors=True)
    places = []
    for number, fault in enumerate(report.faults, start=1):
        place = folder / report.reader / f"{number:02d}-{fault.verdict.kind}"
        places.append(fault.example.write(place))
        said = {key: value for key, value in asdict(fault.verdict).items() if key != "trace"}
        (place / "about.json").write_text(json.dumps({"count": fault.count, **said}, indent=1, ensure_ascii=False))
        (place / "trace.txt").write_text(fault.verdict.trace, errors="replace")
    return places
