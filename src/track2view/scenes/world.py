"""What a procedural scene is made of: data only. Metres, y down, the ground at y = 0."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn.functional import grid_sample

Shape = Literal["box", "ellipsoid", "cylinder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Texture:
    """A solid texture: band-limited noise in object coordinates, coloured by a palette.

    Attributes:
        noise: periodic lattice with values in about [-1, 1]; its three channels modulate palette rows 1, 2, 3.
        palette: base colour and three colour deviations, RGB in [0, 1].
        cells_per_metre: lattice cells per metre of the coarsest of the octaves, each 2.7 times finer than the last.
        offset: shift in lattice cells, so that objects that share a lattice look different.
    """

    noise: Float32[Tensor, "3 S S S"]
    palette: Float32[Tensor, "4 3"]
    cells_per_metre: float
    offset: Float32[Tensor, "3"]

    def colour(self, points: Float32[Tensor, "n 3"], footprint: Float32[Tensor, "n"]) -> Float32[Tensor, "n 3"]:
        """Colour at object points; octaves finer than the pixel's ``footprint`` (metres) fade out, so nothing aliases."""
        size = self.noise.shape[-1] - 1
        total = torch.zeros(len(points), 3)
        for octave, amplitude in enumerate((0.55, 0.5, 0.4)):
            frequency = self.cells_per_metre * 2.7**octave
            cells = points * frequency + self.offset * (octave + 1)
            grid = (cells / size).remainder(1.0) * 2 - 1
            sampled = grid_sample(self.noise[None], grid[None, None, None], align_corners=True)[0, :, 0, 0].T
            total += sampled * (amplitude * torch.exp(-((0.9 * footprint * frequency) ** 2)))[:, None]
        return (self.palette[0] + total @ self.palette[1:]).clamp(0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Solid:
    """A textured convex primitive that may move rigidly; ``half_extent`` are its radii along its own axes."""

    name: str
    shape: Shape
    half_extent: Float64[Tensor, "3"]
    world_from_solid: Float64[Tensor, "T 4 4"]
    texture: Texture

    def span(
        self, frame: int, origin: Float64[Tensor, "3"], directions: Float32[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Ray parameters at which ``origin + s · direction`` enters and leaves; enter > leave where it misses."""
        pose = self.world_from_solid[frame]
        start = ((origin - pose[:3, 3]) @ pose[:3, :3] / self.half_extent).float()
        step = directions @ (pose[:3, :3] / self.half_extent).float()
        if self.shape == "box":
            enter, leave = _slab(start, step)
            return enter.amax(-1), leave.amin(-1)
        if self.shape == "ellipsoid":
            return _ball(start, step)
        enter, leave = _slab(start[1:2], step[..., 1:2])
        round_enter, round_leave = _ball(start[[0, 2]], step[..., [0, 2]])
        return torch.maximum(enter[..., 0], round_enter), torch.minimum(leave[..., 0], round_leave)

    def normals(self, frame: int, points: Float32[Tensor, "n 3"]) -> Float32[Tensor, "n 3"]:
        """Outward unit normals in the world at surface points given in solid coordinates."""
        unit = points / self.half_extent.float()
        if self.shape == "ellipsoid":
            local = unit / self.half_extent.float()
        else:
            closeness = unit.abs() if self.shape == "box" else torch.stack([unit[:, [0, 2]].norm(dim=-1), unit[:, 1].abs()], -1)
            face = closeness.argmax(-1)
            if self.shape == "box":
                local = torch.nn.functional.one_hot(face, 3) * unit.sign()
            else:
                side = torch.stack([unit[:, 0], torch.zeros(len(unit)), unit[:, 2]], -1)
                cap = torch.stack([torch.zeros(len(unit)), unit[:, 1], torch.zeros(len(unit))], -1)
                local = torch.where((face == 0)[:, None], side, cap)
        return torch.nn.functional.normalize(local @ self.world_from_solid[frame, :3, :3].float().T, dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """An enclosure seen from inside (a room or a sky), solids in it, and one light.

    Attributes:
        solids: ``solids[0]`` is the enclosure; object ids in renderings index this tuple.
        to_light: unit vector towards the light.
        caption: says what is there.
    """

    solids: tuple[Solid, ...]
    to_light: Float32[Tensor, "3"]
    caption: str

    @property
    def frames(self) -> int:
        return len(self.solids[0].world_from_solid)

    def moves(self, index: int) -> bool:
        """Whether a solid is ever anywhere else than at frame 0."""
        poses = self.solids[index].world_from_solid
        return bool((poses - poses[:1]).abs().max() > 1e-6)


def _slab(start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    step = torch.where(step.abs() < 1e-9, torch.full_like(step, 1e-9), step)
    first, second = (-1.0 - start) / step, (1.0 - start) / step
    return torch.minimum(first, second), torch.maximum(first, second)


def _ball(start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    squared = step.square().sum(-1)
    middle = -(step * start).sum(-1) / squared
    nearest = (start + middle[..., None] * step).square().sum(-1)
    half = torch.sqrt((1.0 - nearest).clamp(min=0.0) / squared)
    miss = nearest > 1.0
    return torch.where(miss, torch.inf, middle - half), torch.where(miss, -torch.inf, middle + half)
