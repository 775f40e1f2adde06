"""The training loop, top to bottom: micro-batches in a fixed order, gradients, steps, an average, measures, checkpoints.

What a step does follows from the recipe, the data and the step's number alone; so a run that was stopped anywhere and goes on ends
with the numbers of one that was not.
"""

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset

from track2view.errors import UserError, notice
from track2view.model.dual_view import DualViewModel
from track2view.model.parallel import can_compile, emulates_bfloat16, parallelize, trainable_parameters, whole_state
from track2view.signals import Stopped, noted
from track2view.train.plan import Order, Sharding, TrainingPlan
from track2view.train.processes import Processes
from track2view.train.report import Report, Stopwatch
from track2view.train.state import Checkpoint, RunRecord, checkpoints, fill, load_optimiser, optimiser_state
from track2view.train.task import Feed, Task

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ABNORMAL, USUAL_AFTER = 50.0, 50
USUAL_SHARE, OUTLIER = 0.98, 5.0
"""Of the running mean that stays at each step, and beyond how many times it a norm counts no more for it."""


def train(
    task: Task[Any, Any],
    plan: TrainingPlan,
    recipe: dict[str, object],
    out: Path,
    here: Processes,
    *,
    sharding: Sharding = "none",
    loaders: int = 0,
) -> None:
    """Train a task to the end of its plan, from the newest checkpoint in ``out`` if there is one.

    ``out`` gets ``checkpoints/``, ``model/`` (the average, as others load it), ``log.jsonl``, ``tensorboard/`` and ``samples/``.

    Args:
        recipe: all that shapes the run, as JSON holds it; a run goes on under the same one alone.
        sharding: of the optimiser's moments ("zero1") or of all weights ("fsdp2") over processes.
        loaders: processes that read ahead; 0 reads between steps.

    Raises:
        UserError: numbers that are not finite or far from the usual, with the examples; a checkpoint of another recipe or other data.
        Stopped: by a signal, after a checkpoint.
    """
    accumulation = plan.accumulation(here.count)
    order = Order(shapes=task.feed.shapes, size=plan.micro_batch, seed=plan.seed)
    model = _spread(task, plan, here, sharding)
    trained = trainable_parameters(model)
    names = {each: name for name, each in trained.items()}
    optimiser = _optimiser(trained, plan, sharding)
    average = {name: each.detach().clone() for name, each in trained.items()}
    record = RunRecord(step=0, recipe=recipe, data=task.feed.fingerprint(), schedule=plan.schedule, usual_norm=0.0, processes=here.count)
    saved = _resumed(out, record, plan)
    if saved is not None:
        record = saved.record
        fill(trained, saved.trained, out)
        fill(average, saved.average, out)
        load_optimiser(optimiser, names, saved.optimiser)
    report = Report(out, record.step, plan, here)
    batches = _batches(task.feed, order, record.step * accumulation * here.count, accumulation, plan, here, loaders)
    watch, usual_norm = Stopwatch(record.seconds), record.usual_norm

    def keep(step: int) -> None:
        """What is reached so far."""
        moments, weights, mean = optimiser_state(optimiser, names), whole_state(trained), whole_state(average)
        if here.first:
            now = RunRecord(
                step=step,
                schedule=plan.schedule,
                recipe=recipe,
                data=record.data,
                usual_norm=usual_norm,
                seconds=watch.total,
                processes=here.count,
            )
            Checkpoint(record=now, trained=weights, average=mean, optimiser=moments).save(out / "checkpoints", kept=plan.kept)
            task.save(out / "model", mean, step)
        here.wait()

    with noted(*STOPPING) as signals:
        for step in range(record.step, plan.steps):
            torch.manual_seed(_seed_of(plan.seed, step, here.rank))
            for group in optimiser.param_groups:
                group["lr"] = plan.rate_at(step)
            loss, seen = 0.0, []
            for micro in range(accumulation):
                with watch("data"):
                    batch = next(batches).to(here.device, non_blocking=True)
                seen += batch.names
                report.beat(step, micro, accumulation)
                with _synchronised(model, micro == accumulation - 1):
                    with watch("forward"), _autocast(plan, here):
                        own = task.loss(model, batch) / accumulation
                    with watch("backward"):
                        own.backward()
                loss += float(own.detach())
            with watch("optimiser"):
                loss = here.agree(loss) / here.count
                norm = _clipped(trained, plan.clip)
                _refuse_abnormal(loss, norm, usual_norm, step, seen, out)
                usual_norm = USUAL_SHARE * usual_norm + (1 - USUAL_SHARE) * min(norm, OUTLIER * usual_norm) if step else norm
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                torch._foreach_lerp_(list(average.values()), [each.detach() for each in trained.values()], 1 - plan.average_at(step))
            report.step(step + 1, loss=loss, norm=norm, rate=plan.rate_at(step), watch=watch)
            done = step + 1
            last = done == plan.steps
            if done % plan.validate_every == 0 or last:
                with _averaged(task.model, trained, average):
                    report.measures(done, task.validate())
            if done % plan.sample_every == 0 or last:
                with _averaged(task.model, trained, average):
                    report.measures(done, task.sample(out / "samples" / f"step-{done:08d}.png"))
            stop = here.agree(float(len(signals) > 0)) > 0
            if stop or last or done % plan.save_every == 0:
                keep(done)
            if stop:
                raise Stopped(signals[0] if signals else signal.SIGTERM)
    report.close()


class _MicroBatches(Dataset[Any]):
    """Batches by their number in the run."""

    def __init__(self, feed: Feed, order: Order) -> None:
        self.feed, self.order = feed, order
        self._number, self._epoch = -1, []

    def __getitem__(self, index: int) -> Any:
        epoch, place = divmod(index, self.order.per_epoch)
        if epoch != self._number:
            self._number, self._epoch = epoch, self.order.epoch(epoch)
        return self.feed.batch(self._epoch[place], epoch)


def _batches(feed: Feed, order: Order, start: int, accumulation: int, plan: TrainingPlan, here: Processes, loaders: int) -> Iterator[Any]:
    """This process's micro-batches, from number ``start`` of all on. Of a step's, process r takes each count-th from r."""
    numbers = range(start + here.rank, plan.steps * accumulation * here.count, here.count)
    return iter(
        DataLoader(
            _MicroBatches(feed, order),
            batch_size=None,
            sampler=numbers,  # pyrefly: ignore
            num_workers=loaders,
            pin_memory=here.device.type == "cuda",
        )
    )


def _spread(task: Task[Any, Any], plan: TrainingPlan, here: Processes, sharding: Sharding) -> nn.Module:
    """The model on its device, checkpointed, compiled, and spread over processes."""
    model = task.model.to(here.device).train()
    if sharding != "none" and here.count == 1:
        raise UserError(f"--sharding {sharding} needs several processes; start them with torchrun")
    compiled = plan.compiled and can_compile(here.device)
    if compiled < plan.compiled:
        notice("blocks are not compiled, which takes half as long again: torch finds no C++ compiler with Python's headers here")
    if plan.precision == "bfloat16" and emulates_bfloat16(here.device):
        notice("bfloat16 products are emulated by this processor, slower than float32's: begin with --precision float32")
    if isinstance(model, DualViewModel):
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if plan.precision == "bfloat16" else None
        parallelize(
            model,
            checkpointing=plan.checkpointing,
            compile_backend="inductor" if compiled else None,
            mesh=init_device_mesh(here.device.type, (here.count,)) if sharding == "fsdp2" else None,
            precision=half,
        )
    elif sharding == "fsdp2":
        raise UserError("--sharding fsdp2 shards adapters' models; a VAE or a base of the mini's size needs none")
    elif isinstance(model, ModelMixin):
        if plan.checkpointing:
            model.enable_gradient_checkpointing()
        if compiled:
            model.compile_repeated_blocks(fullgraph=True)
    if here.count == 1 or sharding == "fsdp2":
        return model
    return DistributedDataParallel(model, device_ids=[here.device.index] if here.device.type == "cuda" else None)


def _optimiser(trained: Mapping[str, nn.Parameter], plan: TrainingPlan, sharding: Sharding) -> Optimizer:
    """AdamW; vectors (biases, norms, marks of views) do not decay."""
    decaying, free = ([each for each in trained.values() if (each.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": decaying, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if sharding == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of its own deprecated code when it is imported

        return ZeroRedundancyOptimizer(groups, AdamW, lr=plan.learning_rate, betas=plan.betas)
    return AdamW(groups, lr=plan.learning_rate, betas=plan.betas)


def _resumed(out: Path, now: RunRecord, plan: TrainingPlan) -> Checkpoint | None:
    """The newest checkpoint, if it is of this run."""
    there = checkpoints(out / "checkpoints")
    if not there:
        return None
    saved = Checkpoint.load(there[-1])
    if saved.record.data != now.data:
        raise UserError(f"{there[-1]}: was trained on other data; give those, or another OUT")
    before = replace(plan, **saved.record.schedule)  # pyrefly: ignore[bad-argument-type]
    if odd := [step for step in range(saved.record.step) if plan.rate_at(step) != before.rate_at(step)]:
        raise UserError(
            f"{there[-1]}: was planned for {before.steps} steps, now {plan.steps}; the learning rate would have differed from step "
            f"{odd[0] + 1} on, keep the number of steps"
        )
    changed = [
        f"{name}: {saved.record.recipe.get(name)!r:.80} there, {now.recipe.get(name)!r:.80} now"
        for name in sorted(saved.record.recipe.keys() | now.recipe.keys())
        if saved.record.recipe.get(name) != now.recipe.get(name)
    ]
    if changed:
        raise UserError(f"{there[-1]}: was trained under another recipe ({'; '.join(changed)}); use that one, or another OUT")
    if saved.record.processes != now.processes:
        notice(f"{there[-1]}: was saved by {saved.record.processes} processes, goes on in {now.processes}; a step's examples stay the same")
    return saved


@contextmanager
def _synchronised(model: nn.Module, last: bool) -> Iterator[None]:
    """Processes exchange gradients once a step, with its last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
        return
    with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
        yield


def _autocast(plan: TrainingPlan, here: Processes) -> AbstractContextManager[object]:
    return torch.autocast(here.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16")


def _clipped(trained: Mapping[str, nn.Parameter], longest: float) -> float:
    """Clips gradients; how long they were."""
    norm = nn.utils.clip_grad_norm_(trained.values(), longest)
    return float(norm.full_tensor() if isinstance(norm, distributed.tensor.DTensor) else norm)


def _refuse_abnormal(loss: float, norm: float, usual: float, step: int, names: list[str], out: Path) -> None:
    """Before weights are touched: numbers that would spoil them."""
    broken = not (math.isfinite(loss) and math.isfinite(norm))
    if not broken and (step < USUAL_AFTER or norm <= ABNORMAL * usual):
        return
    what = "not finite" if broken else f"{ABNORMAL:g} times the usual {usual:.3g}"
    there = checkpoints(out / "checkpoints")
    kept = f"{there[-1]} is kept" if there else "no checkpoint yet"
    raise UserError(
        f"step {step + 1}: loss {loss:.4g}, gradient {norm:.4g}, {what}; {kept}; the examples were {', '.join(names)}; "
        "look at these, or go on with a lower learning rate"
    )


@contextmanager
def _averaged(model: nn.Module, trained: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model has its average weights, and is not compiled: measures come in other shapes."""
    own = {name: each.detach().clone() for name, each in trained.items()}
    _put(trained, average)
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        yield
    _put(trained, own)
    model.train()


@torch.no_grad()
def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, each in parameters.items():
        each.copy_(values[name])


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Of whatever in a model draws by itself."""
    return (seed * 1_000_003 + step) * 1009 + rank
