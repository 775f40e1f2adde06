"""What a run says of itself: a line on stdout, ``log.jsonl``, TensorBoard; and where its time goes."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensorboardX import SummaryWriter

from track2view.train.plan import TrainingPlan
from track2view.train.processes import Processes

BEAT_SECONDS = 30.0


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self, before: float = 0.0) -> None:
        self.spent: dict[str, float] = {}
        self.before = before

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the block's."""
        started = time.perf_counter()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - started

    @property
    def total(self) -> float:
        """All, with those of the runs that this one goes on from."""
        return self.before + sum(self.spent.values())


class Report:
    """A run's lines and curves, written by its first process.

    Args:
        out: folder of the run; lines of its log beyond ``step`` are of what is done again now, and go.
        step: at which it begins.
    """

    def __init__(self, out: Path, step: int, plan: TrainingPlan, here: Processes) -> None:
        self.first, self.plan = here.first, plan
        self._begun = self._spoken = time.monotonic()
        self._start, self._last = step, {}
        self._quiet = True
        if not self.first:
            return
        self.file = out / "log.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self.file.read_text().splitlines() if _step_of(line) <= step] if self.file.exists() else []
        self.file.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        print(f"step {step} of {plan.steps}: {plan.batch} examples a step, {here.count} process{'es' * (here.count > 1)}", flush=True)

    def beat(self, step: int, micro: int, of: int) -> None:
        """Something is going on: said for the first step, and in steps that take long."""
        if self.first and (self._quiet or time.monotonic() - self._spoken > BEAT_SECONDS):
            self._say(f"step {step + 1}: micro-batch {micro + 1} of {of} is read, computing")

    def step(self, done: int, *, loss: float, norm: float, rate: float, watch: Stopwatch) -> None:
        """A step was taken."""
        if not self.first:
            return
        self._quiet = False
        due = done % self.plan.log_every == 0
        if due or done - self._start <= 20:
            spent = {f"seconds/{name}": round(seconds, 3) for name, seconds in watch.spent.items()}
            self._write(done, {"loss": loss, "gradient": norm, "learning_rate": rate, **spent, "seconds/total": round(watch.total, 3)})
        if time.monotonic() - self._spoken > BEAT_SECONDS or done - self._start in (1, 5):
            pace = (time.monotonic() - self._begun) / (done - self._start)
            left = (self.plan.steps - done) * pace
            hours = left / 3600
            ends = f"{hours:.1f} h left" if hours > 1.5 else f"{60 * hours:.0f} min left"
            examples = f"{self.plan.batch / pace:.2f} examples/s"
            self._say(f"step {done} of {self.plan.steps}: loss {loss:.4f}, gradient {norm:.3g}, {examples}, {ends}")

    def measures(self, done: int, found: Mapping[str, float]) -> None:
        """What validation found."""
        if self.first and found:
            self._write(done, found)
            self._say(f"step {done}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))

    def close(self) -> None:
        """The run is over."""
        if self.first:
            self.board.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def _say(self, line: str) -> None:
        self._spoken = time.monotonic()
        print(line, flush=True)


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])
