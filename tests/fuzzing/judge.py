"""Runs a reader on inputs in a forked child and says of each how it ended, whatever it did to the child. Linux only.

Memory is judged by the address space an input asked for, not by pages it touched: what fits a laptop today is gone on the next.
"""

import ast
import ctypes
import faulthandler
import multiprocessing
import os
import re
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TextIO

from corpus import Seed

import track2view
from fuzzing.containers import ESCAPE
from track2view.errors import Notice, UserError

Kind = Literal["ok", "refused", "exception", "hang", "memory", "died", "escape"]
FAULTS: tuple[Kind, ...] = ("exception", "hang", "memory", "died", "escape")
PACKAGE = str(Path(track2view.__file__).parent)
CANARY, ALIVE = "canary.txt", "alive"
SECONDS = 20.0
LONGEST_MESSAGE = 1000
GIGABYTE = 1 << 30
NO_MEMORY = re.compile(r"(can't|cannot|unable to|failed to) allocate|bad_alloc|(out of|not enough) memory", re.IGNORECASE)
PR_SET_PDEATHSIG = 1
"""Linux's prctl: a child that hangs ends with its parent."""
M_ARENA_MAX = -8
"""glibc's mallopt: one heap for all threads, since each further one reserves 128 MB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input may take.

    Attributes:
        seconds: of wall clock.
        bytes: of new address space, or of files.
        ceiling: of address space, where allocations begin to fail; above ``bytes`` by what FFmpeg (2 GB) and OpenCV (3.2 GB) ask
            for at once at most, since they keep failures to themselves.
    """

    seconds: float = SECONDS
    bytes: int = GIGABYTE
    ceiling: int = 4 * GIGABYTE


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one input ended.

    Attributes:
        what: type of the exception or name of the signal.
        where: deepest function of track2view.
        message: of the exception; of a dead child, what it said last.
        trace: where it was, in full.
        warned: warnings other than notices.
    """

    kind: Kind
    what: str = ""
    where: str = ""
    message: str = ""
    trace: str = ""
    warned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs made when they are asked for."""

    make: Callable[[int], Seed]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Seed:
        return self.make(index)


def judge(read: Callable[[Path], object], inputs: Sequence[Seed] | Inputs, limits: Limits | None = None) -> Iterator[Verdict]:
    """A verdict for each input, in order. A child that dies or hangs is replaced, and the next input is the new one's first."""
    limits = limits or Limits()
    done = 0
    with tempfile.TemporaryDirectory(prefix="track2view-fuzz-") as scratch:
        while done < len(inputs):
            for verdict in _until_broken(read, inputs, done, limits, Path(scratch)):
                done += 1
                yield verdict


def _until_broken(
    read: Callable[[Path], object], inputs: Sequence[Seed] | Inputs, first: int, limits: Limits, scratch: Path
) -> Iterator[Verdict]:
    """Verdicts of one child, up to and with the input that breaks it."""
    shutil.rmtree(scratch / "run", ignore_errors=True)
    folder = scratch / "run"
    for name in ("work", "tmp"):
        (folder / name).mkdir(parents=True)
    for name, content in ((CANARY, ALIVE), ("trace.txt", ""), ("said.txt", "")):
        (folder / name).write_text(content)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=_work, args=(read, inputs, first, limits, folder, theirs))
    child.start()
    theirs.close()
    try:
        for _ in range(first, len(inputs)):
            if not ours.poll(limits.seconds + 1):
                yield _lost("hang", f"over {limits.seconds:g} s", folder)
                return
            try:
                verdict = ours.recv()
            except EOFError:
                child.join()
                code = child.exitcode or 0
                yield _lost("died", signal.Signals(-code).name if code < 0 else f"exit code {code}", folder)
                return
            yield verdict
            if verdict.kind in ("memory", "escape"):
                return
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # and what it has started
        child.kill()
        child.join()
        ours.close()


def _lost(kind: Kind, what: str, folder: Path) -> Verdict:
    """Of a child that cannot speak any more: what faulthandler and the C libraries wrote."""
    trace = (folder / "trace.txt").read_text(errors="replace")
    said = (folder / "said.txt").read_text(errors="replace").strip().splitlines()
    frame = re.search(rf'File "{re.escape(PACKAGE)}/([^"]+)", line \d+ in (\w+)', trace)
    where = f"{frame[1]}:{frame[2]}" if frame else ""
    return Verdict(kind, what, where, said[-1][:LONGEST_MESSAGE] if said else "", trace)


def _work(
    read: Callable[[Path], object], inputs: Sequence[Seed] | Inputs, first: int, limits: Limits, folder: Path, channel: Connection
) -> None:
    """The child's life."""
    os.setsid()
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.mallopt(M_ARENA_MAX, 1)
    tempfile.tempdir = str(folder / "tmp")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(folder / "said.txt", os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    with (folder / "trace.txt").open("a") as trace:
        faulthandler.enable(trace)
        for index in range(first, len(inputs)):
            seed = inputs[index]
            box = folder / "work" / str(index)
            path = seed.write(box)
            os.truncate(said, 0)
            verdict = _judged(read, path, limits, trace)
            if verdict.kind not in FAULTS and (astray := _astray(folder, box, limits)):
                verdict = Verdict("escape", message=astray)
            shutil.rmtree(box, ignore_errors=True)
            channel.send(verdict)


def _judged(read: Callable[[Path], object], path: Path, limits: Limits, trace: TextIO) -> Verdict:
    (size, peak), started = _address_space(), _largest_child()
    resource.setrlimit(resource.RLIMIT_AS, (size + limits.ceiling, resource.RLIM_INFINITY))
    trace.truncate(0)
    faulthandler.dump_traceback_later(limits.seconds, file=trace)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read(path)
            verdict = Verdict("ok")
        except UserError as error:
            verdict = _refused(error)
        except BaseException as error:  # a panic of Rust is no Exception
            verdict = _raised("memory" if _lacks_memory(error) else "exception", error)
    faulthandler.cancel_dump_traceback_later()
    after, child = _address_space()[1], _largest_child()
    taken = max(after - size if after > peak else 0, child if child > started else 0)
    if verdict.kind != "memory" and taken > limits.bytes:
        verdict = replace(verdict, kind="memory", what=f"{taken / GIGABYTE:.1f} GB", trace=verdict.trace or verdict.message)
    others = {f"{each.category.__name__}: {each.message}" for each in caught if not issubclass(each.category, Notice)}
    shown = tuple(sorted({text.replace(str(path), path.name) for text in others}))
    return replace(verdict, message=verdict.message.replace(str(path), path.name), warned=shown)


def _refused(error: UserError) -> Verdict:
    """A refusal is right if it is one line that a person reads, and not the failure of an allocation under another name."""
    text = str(error)
    if _lacks_memory(error):
        return _raised("memory", error)
    if not text.strip() or re.search(r"[\n\r\v\f]", text):
        return replace(_raised("exception", error), what="UserError (not one line)")
    if len(text) > LONGEST_MESSAGE:
        return replace(_raised("exception", error), what=f"UserError (over {LONGEST_MESSAGE} characters)")
    return Verdict("refused", message=text)


def _raised(kind: Kind, error: BaseException) -> Verdict:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    where = f"{Path(ours[-1].filename).relative_to(PACKAGE)}:{ours[-1].name}" if ours else ""
    trace = "".join(traceback.format_exception(error))
    return Verdict(kind, type(error).__name__, where, str(error)[:LONGEST_MESSAGE], trace[-8 * LONGEST_MESSAGE :])


def _lacks_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed behind this. FFmpeg says so of its own limits too; what it does get the address space shows."""
    while error is not None:
        words = isinstance(error, UserError) or type(error).__module__.startswith("av.")
        if not words and (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))) and not _nested_too_deeply(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _nested_too_deeply(error: BaseException) -> bool:
    """Python's own parser calls brackets beyond its depth a lack of memory."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename == ast.__file__


def _address_space() -> tuple[int, int]:
    """Bytes now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    size, peak = (1024 * int(fields[name].split()[0]) for name in ("VmSize", "VmPeak"))
    return size, peak


def _largest_child() -> int:
    """Bytes of memory that any process started from here, and ended, had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _astray(folder: Path, box: Path, limits: Limits) -> str:
    """What an input left where it has no business, or in a size that nobody expects of it."""
    expected = {"work", "tmp", CANARY, "trace.txt", "said.txt"}
    found = [*(each for each in folder.iterdir() if each.name not in expected), *(folder / "tmp").iterdir()]
    found += [each for each in (folder / "work").iterdir() if each != box]
    if os.path.lexists(ESCAPE):
        os.unlink(ESCAPE)
        found.append(Path(ESCAPE))
    if found:
        return f"left {found[0].name} outside"
    if not (folder / CANARY).exists() or (folder / CANARY).read_text() != ALIVE:
        return "deleted or changed what was there before"
    with suppress(ChildProcessError):
        if os.waitpid(-1, os.WNOHANG) == (0, 0):
            return "left a process running"
    held = sum(each.lstat().st_size for each in box.rglob("*"))
    return f"left {held / GIGABYTE:.1f} GB on the disk" if held > limits.bytes else ""
