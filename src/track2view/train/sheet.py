"""Contact sheets of what a model makes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from track2view.files import atomic_path

COLUMNS, GAP = 5, 2


def write_sheet(picture: Path, rows: Sequence[UInt8[Tensor, "T 3 H W"]]) -> None:
    """A PNG with a row for each clip: frames from its first to its last, evenly."""
    strips = []
    for clip in rows:
        chosen = torch.linspace(0, len(clip) - 1, min(COLUMNS, len(clip))).round().long()
        strips.append(torch.cat([torch.nn.functional.pad(frame, (GAP, GAP, GAP, GAP)) for frame in clip[chosen]], dim=2))
    with atomic_path(picture) as partial:
        Image.fromarray(torch.cat(strips, dim=1).permute(1, 2, 0).numpy()).save(partial)
