"""Memory: what is free, what is refused before it runs out, and parts of a model that are on the device only when their turn comes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import psutil
import torch
from diffusers.hooks.group_offloading import GroupOffloadingHook, apply_group_offloading
from diffusers.hooks.hooks import HookRegistry
from torch import nn

from track2view.errors import UserError

MemoryMode = Literal["fast", "balanced", "low"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("fast", "balanced", "low")
GROUP_OFFLOADING = "group_offloading"
"""Diffusers' name of its hook."""


def check_room(needed: Callable[[MemoryMode], float], memory: MemoryMode, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what would not fit on a device.

    Args:
        needed: bytes, by mode.

    Raises:
        UserError: with what is needed, what there is, and what would fit.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed(memory) <= free:
        return
    fitting = [mode for mode in MEMORY_MODES[MEMORY_MODES.index(memory) + 1 :] if needed(mode) <= free]
    remedy = f"use --memory {fitting[0]}" if fitting else _smaller(dtype)
    raise UserError(f"needs about {needed(memory) / 1e9:.1f} GB, you have {free / 1e9:.1f}: {remedy}")


@contextmanager
def told_how_to_fit(memory: MemoryMode, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Where a device runs out of memory all the same, :class:`UserError` says what to try."""
    try:
        yield
    except torch.OutOfMemoryError:
        lower = MEMORY_MODES[MEMORY_MODES.index(memory) + 1 :]
        remedy = f"use --memory {lower[0]}" if lower else _smaller(dtype)
        raise UserError(f"{device.type.upper()} out of memory with --memory {memory}: {remedy}") from None


def _smaller(dtype: torch.dtype) -> str:
    return f"use {'--dtype bfloat16, ' if dtype == torch.float32 else ''}a smaller --size or fewer --frames"


class OnDevice:
    """A module on a device for a while."""

    def __init__(self, module: torch.nn.Module, device: torch.device, *, leave: bool) -> None:
        self.module, self.device, self.leave = module, device, leave

    def __enter__(self) -> None:
        self.module.to(self.device)

    def __exit__(self, *_: object) -> None:
        if self.leave:
            self.module.to("cpu")


def offload_blocks(model: nn.Module, lists: Iterable[str], device: torch.device | str, folder: Path | None = None) -> None:
    """Keep a model's blocks in the computer's memory (or in files in ``folder``), and bring each to ``device`` when its turn comes;
    all else goes there for good. :func:`keep_blocks` ends this.

    Args:
        lists: names of the model's lists of blocks.
    """
    for name, part in model.named_children():
        if name not in lists:
            nn.Module.to(part, device)
    for parameter in model.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    holder = nn.Module()
    for name in lists:
        setattr(holder, name, getattr(model, name))
    apply_group_offloading(
        holder,
        onload_device=torch.device(device),
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=None if folder is None else str(folder),
    )


def keep_blocks(blocks: Iterable[nn.Module]) -> None:
    """The opposite of :func:`offload_blocks`: blocks stay where the model is moved to."""
    for block in blocks:
        registry = HookRegistry.check_if_exists_or_initialize(block)
        cast(GroupOffloadingHook, registry.get_hook(GROUP_OFFLOADING)).group.onload_()
        registry.remove_hook(GROUP_OFFLOADING)
