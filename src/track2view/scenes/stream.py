"""Worlds as tensors, without a disk: two synchronised views of each and exact tracks, rendered where training wants them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from track2view.records import CameraPath, Size, TrackSet
from track2view.scenes.content import Content, make_training_world
from track2view.scenes.render import render_path
from track2view.scenes.rig import CAMERAS, Split, make_rig, split_seed
from track2view.scenes.tracks import track_points


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamedPair:
    """A world seen by two of its ten cameras; :func:`track2view.pairing.pair_by_projection` pairs the tracks.

    Attributes:
        source, target: frames, on the device.
        tracks: exact, visible as the source sees them; on the device.
        seed: of world and cameras, as in an exported scene's ``scene.json``.
    """

    source: UInt8[Tensor, "T 3 H W"]
    target: UInt8[Tensor, "T 3 H W"]
    source_camera: CameraPath
    target_camera: CameraPath
    tracks: TrackSet
    caption: str
    seed: int


def stream_pairs(
    split: Split,
    indices: range,
    *,
    frames: int,
    size: Size,
    grid: tuple[int, int] = (24, 24),
    dynamic: bool = True,
    content: Content = "solids",
    device: torch.device | str = "cpu",
) -> Iterator[StreamedPair]:
    """The worlds that ``track2view scenes make`` writes, one pair of views each, drawn by the scene's seed.

    Args:
        indices: scenes of the split; ``range(0, 10**9)`` never ends.
        grid: rows and columns of queries at the source's first and last frame.
        device: where frames and tracks are made, and stay.

    Raises:
        UserError: an index outside the split.
    """
    for index in indices:
        seed = split_seed(split, index)
        world = make_training_world(content, seed, frames=frames, dynamic=dynamic).to(device)
        rig = list(make_rig(seed, frames=frames, size=size).values())
        source, target = (rig[int(number)] for number in np.random.default_rng([seed, 6]).permutation(CAMERAS)[:2])
        query_frame, pixels = _queries(frames, size, grid)
        yield StreamedPair(
            source=render_path(world, source).colour,
            target=render_path(world, target).colour,
            source_camera=source,
            target_camera=target,
            tracks=track_points(world, source, query_frame, pixels),
            caption=world.caption,
            seed=seed,
        )


def _queries(frames: int, size: Size, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres of a grid's cells, in pixels, at the first and the last frame (the paper's plan, design section 4)."""
    v, u = torch.meshgrid(*((torch.arange(cells) + 0.5) / cells * side for cells, side in zip(grid, size, strict=True)), indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(-1, 2).double()
    return torch.tensor([0, frames - 1]).repeat_interleave(len(pixels)), pixels.repeat(2, 1)
