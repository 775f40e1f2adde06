"""A run on disk: what is trained, its average, the optimiser's moments and where the run stands; whole, by name, never pickled.

All is held as one process would have it: what was saved by any number of processes, sharded or not, goes on in any other number.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from track2view.errors import UserError
from track2view.files import atomic_folder, read_record, write_record
from track2view.model.parallel import whole_state

FORMAT = "track2view.training/1"
NAME = re.compile(r"step-(\d{8})")
PARTS = ("trained", "average", "optimiser")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Where a run stands.

    Attributes:
        step: optimiser steps taken.
        schedule: the plan's ``steps``, ``warmup`` and ``decay``.
        recipe: all that shapes the run.
        data: fingerprint of what it is trained on.
        usual_norm: of gradients, a running mean; 0 before the first step.
        seconds: spent on steps so far.
        processes: that wrote it.
    """

    step: int
    schedule: dict[str, int]
    recipe: dict[str, object]
    data: str
    usual_norm: float
    seconds: float = 0.0
    processes: int = 1

    @staticmethod
    def load(checkpoint: Path) -> "RunRecord":
        """Of a checkpoint's folder.

        Raises:
            UserError: not a checkpoint.
        """
        return read_record(checkpoint / "training.json", RunRecord, FORMAT, what="a checkpoint", maker="track2view train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A run as it was saved; tensors by the names of what they belong to, the optimiser's followed by ``/`` and their own."""

    record: RunRecord
    trained: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]

    def save(self, folder: Path, *, kept: int) -> Path:
        """Write ``folder/step-…``, which appears only when it is whole; then older ones beyond ``kept`` go.

        Raises:
            UserError: no room for it; those that are there stay.
        """
        own = folder / f"step-{self.record.step:08d}"
        if not own.exists():
            with atomic_folder(own) as partial:
                for name in PARTS:
                    _save_tensors(getattr(self, name), partial / f"{name}.safetensors", own)
                write_record(partial / "training.json", self.record, FORMAT)
        for old in checkpoints(folder)[:-kept]:
            shutil.rmtree(old)
        return own

    @staticmethod
    def load(folder: Path) -> "Checkpoint":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: not a checkpoint, or a damaged one, by name.
        """
        record = RunRecord.load(folder)
        try:
            tensors = {name: load_file(folder / f"{name}.safetensors") for name in PARTS}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: not a whole checkpoint ({error}); delete it, and an older one is taken") from None
        return Checkpoint(record=record, **tensors)


def checkpoints(folder: Path) -> list[Path]:
    """Those in a folder, the newest last."""
    return sorted(each for each in folder.glob("step-*") if NAME.fullmatch(each.name)) if folder.exists() else []


def fill(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor], folder: Path) -> None:
    """Put saved values in the place of parameters, sharded or not.

    Raises:
        UserError: a parameter that was not saved, or in another shape, by name.
    """
    if odd := sorted(parameters.keys() ^ saved.keys()):
        raise UserError(f"{folder}: {odd[0]} is {'not in it' if odd[0] in parameters else 'unknown to the model'} ({len(odd)} such in all)")
    with torch.no_grad():
        for name, each in parameters.items():
            if saved[name].shape != each.shape:
                raise UserError(f"{folder}: {name} is {list(saved[name].shape)}, the model needs {list(each.shape)}")
            each.copy_(as_parameter(saved[name], each))


def as_parameter(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor where and as a parameter lies."""
    placed = value.to(parameter.device)
    return distribute_tensor(placed, parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else placed


def optimiser_state(optimiser: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """An optimiser's moments by name, whole; where they are spread over processes all take part, and the first gets them."""
    if gathers := getattr(optimiser, "consolidate_state_dict", None):  # ZeroRedundancyOptimizer's
        gathers(to=0)
        if torch.distributed.get_rank() > 0:
            return {}
    numbered = _numbered(optimiser, names)
    moments = {
        f"{numbered[number]}/{kind}": value for number, kinds in optimiser.state_dict()["state"].items() for kind, value in kinds.items()
    }
    return whole_state(moments)


def load_optimiser(optimiser: Optimizer, names: Mapping[nn.Parameter, str], saved: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimiser_state`, whatever the number of processes."""
    by_name = {name: parameter for parameter, name in names.items()}
    numbers = {name: number for number, name in _numbered(optimiser, names).items()}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, kind = key.rsplit("/", 1)
        parameter = by_name[name]
        state.setdefault(numbers[name], {})[kind] = as_parameter(value, parameter) if value.shape == parameter.shape else value
    groups, start = [], 0
    for group in optimiser.param_groups:
        count = len(group["params"])
        groups.append({**{key: value for key, value in group.items() if key != "params"}, "params": list(range(start, start + count))})
        start += count
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _numbered(optimiser: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[int, str]:
    """Names by the numbers that an optimiser's state goes by."""
    parameters: list[Any] = [each for group in optimiser.param_groups for each in group["params"]]
    return {number: names[each] for number, each in enumerate(parameters)}


def _save_tensors(tensors: Mapping[str, Tensor], path: Path, own: Path) -> None:
    try:
        save_file({name: each.contiguous() for name, each in tensors.items()}, path)
    except SafetensorError as error:
        raise UserError(f"{own}: cannot be written ({error}); the checkpoints before it are whole, go on with --resume") from None
