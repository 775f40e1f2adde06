"""What a procedural scene is made of: data only. Metres, y down, the ground at y = 0."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from torch.nn.functional import grid_sample

Shape = Literal["box", "ellipsoid", "cylinder"]
Pattern = Literal["plain", "stripes", "checks"]
AMPLITUDES, LACUNARITY = (0.55, 0.5, 0.4), 2.7
FINE_CELLS = 0.05
SHARPNESS = 2.5
PATTERN_CONTRAST = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Texture:
    """A solid texture: band-limited noise in object coordinates, coloured by a palette.

    Attributes:
        noise: periodic lattice with values in about [-1, 1]; its three channels modulate palette rows 1, 2, 3.
        palette: base colour and three colour deviations, RGB in [0, 1].
        cells_per_metre: lattice cells per metre of the coarsest of the octaves, each 2.7 times finer than the last.
        offset: shift in lattice cells, so that objects that share a lattice look different.
        pattern: what the noise lies on: nothing, or soft-edged stripes or checks in palette row 1.
        repeats_per_metre: of the pattern.
        origin: where in the texture the solid's own centre is, metres: solids cut from one cloth share it seamlessly.
    """

    noise: Float32[Tensor, "3 S S S"]
    palette: Float32[Tensor, "4 3"]
    cells_per_metre: float
    offset: Float32[Tensor, "3"]
    pattern: Pattern = "plain"
    repeats_per_metre: float = 1.0
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def colour(
        self, points: Float32[Tensor, "n 3"], around: Float32[Tensor, "4 n 3"], footprint: Float32[Tensor, "n"]
    ) -> Float32[Tensor, "n 3"]:
        """Colour at object points; octaves finer than the pixel's ``footprint`` (metres) fade out, so nothing aliases.

        Args:
            around: points within the pixel, over which octaves are averaged that are not much coarser than it.
        """
        origin = torch.tensor(self.origin, device=points.device)
        points, around = points + origin, around + origin
        total = torch.zeros_like(points)
        for octave, amplitude in enumerate(AMPLITUDES):
            frequency = self.cells_per_metre * LACUNARITY**octave
            weight = amplitude * torch.exp(-((0.9 * footprint * frequency) ** 2))
            fine = footprint * frequency > FINE_CELLS
            for chosen, samples in ((~fine).nonzero()[:, 0], points[None]), (fine.nonzero()[:, 0], around):
                if len(chosen):
                    noise = self._noise(samples[:, chosen], frequency, self.offset * (octave + 1)).mean(0)
                    total[chosen] += weight[chosen, None] * noise
        if self.pattern != "plain":
            faded = PATTERN_CONTRAST * torch.exp(-((3.0 * footprint * self.repeats_per_metre) ** 2))
            total[:, 0] += faded * self._wave(around).mean(0)
        return (self.palette[0] + total @ self.palette[1:]).clamp(0.0, 1.0)

    def _noise(self, points: Float32[Tensor, "k n 3"], frequency: float, offset: Float32[Tensor, "3"]) -> Float32[Tensor, "k n 3"]:
        grid = ((points * frequency + offset) / (self.noise.shape[-1] - 1)).remainder(1.0) * 2 - 1
        return grid_sample(self.noise[None], grid[None, None], align_corners=True)[0, :, 0].permute(1, 2, 0)

    def _wave(self, points: Float32[Tensor, "k n 3"]) -> Float32[Tensor, "k n"]:
        phase = torch.sin(points * (2 * math.pi * self.repeats_per_metre) + self.offset)
        return torch.tanh(SHARPNESS * (phase.prod(-1) if self.pattern == "checks" else phase[..., 0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Solid:
    """A textured convex primitive that may move rigidly.

    Attributes:
        half_extent: radii along its own axes.
        reflects: the share of light that its top, the face of a box towards -y, mirrors; what is seen in it is at no place of its own.
    """

    name: str
    shape: Shape
    half_extent: Float64[Tensor, "3"]
    world_from_solid: Float64[Tensor, "T 4 4"]
    texture: Texture
    reflects: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """One far light, and what comes from everywhere.

    Attributes:
        direction: unit vector from the scene towards the light.
        ambient: share of the light that comes from everywhere.
        colour: of both, RGB.
        casts_shadows: whether solids stand in the far light's way; the enclosure never does.
    """

    direction: Float64[Tensor, "3"]
    ambient: float = 0.6
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    casts_shadows: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """An enclosure seen from inside (a room or a sky), solids in it, and its light.

    Attributes:
        solids: ``solids[0]`` is the enclosure; object ids in renderings index this tuple.
        caption: says what is there.
    """

    solids: tuple[Solid, ...]
    light: Light
    caption: str

    @property
    def frames(self) -> int:
        return len(self.solids[0].world_from_solid)

    @property
    def device(self) -> torch.device:
        """Where it is rendered: where its textures are. Poses stay on the CPU, in float64."""
        return self.solids[0].texture.noise.device

    def to(self, device: torch.device | str) -> "World":
        """The same world, rendered on ``device``."""
        lattices: dict[int, Tensor] = {}

        def moved(texture: Texture) -> Texture:
            noise = lattices.setdefault(id(texture.noise), texture.noise.to(device))
            return replace(texture, noise=noise, palette=texture.palette.to(device), offset=texture.offset.to(device))

        return replace(self, solids=tuple(replace(each, texture=moved(each.texture)) for each in self.solids))

    def moves(self, index: int) -> bool:
        """Whether a solid is ever anywhere else than at frame 0."""
        poses = self.solids[index].world_from_solid
        return bool((poses - poses[:1]).abs().max() > 1e-6)
