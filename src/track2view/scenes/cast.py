"""Rays against convex primitives, each in coordinates in which the primitive is a unit cube, ball or cylinder.

There a ray through pixel (u, v) is ``start + depth · matrix @ (u, v, 1)``, with depth along the camera's z: linear in all
three, so grids of pixels need no list of directions. Many pictures are cast at once, on the CPU or on a GPU.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

from track2view.geometry import invert
from track2view.records import Size
from track2view.scenes.world import Shape, World

NEAREST = 1e-3
GRAZING = 1e-9
ANY_AXIS = (0.3, 0.0, 1.0)
Axes = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shots:
    """B pictures of a world's S solids.

    Attributes:
        shapes: of the solids.
        matrix: ``unit_from_pixel`` of directions; see the module.
        start: the camera's centre in unit coordinates.
        light: direction towards the light in unit coordinates.
        light_matrix, light_start, light_centre: directions, the camera and the solids seen along the light: metres, two
            coordinates across it and the third towards it.
        device: where rays are cast.
        frames, poses, intrinsics: what it was made from.
    """

    shapes: tuple[Shape, ...]
    matrix: Float64[Tensor, "B S 3 3"]
    start: Float64[Tensor, "B S 3"]
    light: Float64[Tensor, "B S 3"]
    light_matrix: Float64[Tensor, "B 3 3"]
    light_start: Float64[Tensor, "B 3"]
    light_centre: Float64[Tensor, "B S 3"]
    device: torch.device
    frames: list[int]
    poses: Float64[Tensor, "B 4 4"]
    intrinsics: Float64[Tensor, "B 3 3"]

    @staticmethod
    def of(world: World, frames: list[int], poses: Float64[Tensor, "B 4 4"], intrinsics: Float64[Tensor, "B 3 3"]) -> "Shots":
        """The world at ``frames``, each from its own pose."""
        half = torch.stack([each.half_extent for each in world.solids])
        world_from_solid = torch.stack([each.world_from_solid[frames] for each in world.solids], dim=1)
        solid_from_world = invert(world_from_solid)
        solid_from_camera = solid_from_world @ poses[:, None]
        camera_from_pixel = torch.linalg.inv(intrinsics)
        light = world.light.direction
        sideways = normalize(torch.linalg.cross(light, torch.tensor(ANY_AXIS, dtype=torch.float64)), dim=0)
        light_from_world = torch.stack([sideways, torch.linalg.cross(light, sideways), light])
        return Shots(
            shapes=tuple(each.shape for each in world.solids),
            matrix=solid_from_camera[..., :3, :3] @ camera_from_pixel[:, None] / half[:, :, None],
            start=solid_from_camera[..., :3, 3] / half,
            light=solid_from_world[..., :3, :3] @ light / half,
            light_matrix=light_from_world @ poses[:, :3, :3] @ camera_from_pixel,
            light_start=poses[:, :3, 3] @ light_from_world.T,
            light_centre=world_from_solid[..., :3, 3] @ light_from_world.T,
            device=world.device,
            frames=frames,
            poses=poses,
            intrinsics=intrinsics,
        )

    def mirrored(self, world: World, index: int) -> "Shots":
        """The same pictures from behind the top of a solid, as if seen in it: what a ray meets beyond the mirror is what it shows."""
        solid = world.solids[index]
        world_from_solid = solid.world_from_solid[self.frames]
        normal, half = world_from_solid[:, :3, 1], solid.half_extent[1]
        top = world_from_solid[:, :3, 3] - half * normal
        world_from_mirrored = torch.eye(4, dtype=torch.float64).repeat(len(normal), 1, 1)
        world_from_mirrored[:, :3, :3] -= 2 * normal[:, :, None] * normal[:, None]
        world_from_mirrored[:, :3, 3] = 2 * (top * normal).sum(-1, keepdim=True) * normal
        return Shots.of(world, self.frames, world_from_mirrored @ self.poses, self.intrinsics)

    def rays(
        self, index: int, picture: Int64[Tensor, "n"], u: Float32[Tensor, "n"], v: Float32[Tensor, "n"]
    ) -> tuple[Float32[Tensor, "3 _"], Float32[Tensor, "3 n"]]:
        """Start (one, if there is one picture) and step, in unit coordinates of a solid, of rays through pixels of pictures."""
        return self._followed(self.matrix[:, index], self.start[:, index], picture, u, v)

    def across_pixel(self, index: int, picture: Int64[Tensor, "n"]) -> tuple[Float32[Tensor, "3 _"], Float32[Tensor, "3 _"]]:
        """How a step of :meth:`rays` changes with u, and with v."""
        matrix = self.matrix[:, index].to(self.device, torch.float32)[picture if len(self.matrix) > 1 else slice(None)]
        return matrix[..., 0].T, matrix[..., 1].T

    def rays_in_light(
        self, picture: Int64[Tensor, "n"], u: Float32[Tensor, "n"], v: Float32[Tensor, "n"]
    ) -> tuple[Float32[Tensor, "3 _"], Float32[Tensor, "3 n"]]:
        """The same, seen along the light."""
        return self._followed(self.light_matrix, self.light_start, picture, u, v)

    def _followed(self, matrix: Tensor, start: Tensor, picture: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        rows, start = matrix.to(self.device, torch.float32).flatten(1).T, start.to(self.device, torch.float32).T
        if len(matrix) > 1:  # else one picture's row serves all its rays
            rows, start = rows.contiguous().index_select(1, picture), start.contiguous().index_select(1, picture)
        steps = torch.stack([rows[3 * row] * u + rows[3 * row + 1] * v + rows[3 * row + 2] for row in range(3)])
        return start, steps


def cast(
    shots: Shots,
    picture: Int64[Tensor, "n"],
    u: Float32[Tensor, "n"],
    v: Float32[Tensor, "n"],
    beyond: Float32[Tensor, "n"] | float = NEAREST,
) -> tuple[Float32[Tensor, "n"], Int64[Tensor, "n"]]:
    """Depth and solid that rays through pixels meet first beyond a depth."""
    depth = torch.full(u.shape, torch.inf, device=shots.device)
    hit = torch.zeros(u.shape, dtype=torch.int64, device=shots.device)
    for index, shape in enumerate(shots.shapes):
        start, step = shots.rays(index, picture, u, v)
        _meet(span(shape, tuple(start), tuple(step)), index, depth, hit, beyond)
    return depth, hit


def cast_grid(shots: Shots, size: Size) -> tuple[Float32[Tensor, "B H W"], Int64[Tensor, "B H W"]]:
    """As :func:`cast` through all pixels' centres, each solid tried only in the rectangle that can show it."""
    height, width = size
    depth = torch.full((len(shots.matrix), height, width), torch.inf, device=shots.device)
    hit = torch.zeros(depth.shape, dtype=torch.int64, device=shots.device)
    across = torch.arange(width, device=shots.device, dtype=torch.float32) + 0.5
    down = (torch.arange(height, device=shots.device, dtype=torch.float32) + 0.5)[:, None]
    for index, shape in enumerate(shots.shapes):
        rows, columns = _rectangle(shots, index, size)
        matrix = shots.matrix[:, index].to(shots.device, torch.float32)[..., None, None]
        start = shots.start[:, index].to(shots.device, torch.float32)[..., None, None]
        step = tuple(matrix[:, row, 0] * across[columns] + (matrix[:, row, 1] * down[rows] + matrix[:, row, 2]) for row in range(3))
        _meet(span(shape, tuple(start.unbind(1)), step), index, depth[:, rows, columns], hit[:, rows, columns])
    return depth, hit


def span(shape: Shape, start: Axes, step: Axes) -> tuple[Tensor, Tensor]:
    """Parameters at which ``start + s · step`` enters and leaves a unit primitive; enter > leave where it misses."""
    if shape == "box":
        ways = [_slab(start[axis], step[axis]) for axis in range(3)]
    elif shape == "ellipsoid":
        ways = [_ball(start, step)]
    else:
        ways = [_slab(start[1], step[1]), _ball((start[0], start[2]), (step[0], step[2]))]
    enter, leave = ways[0]
    for later, earlier in ways[1:]:
        enter, leave = torch.maximum(enter, later), torch.minimum(leave, earlier)
    return enter, leave


def _meet(way: tuple[Tensor, Tensor], index: int, depth: Tensor, hit: Tensor, beyond: Tensor | float = NEAREST) -> None:
    """Keep, in place, what is nearer than what was met; the enclosure, solid 0, is left and not entered."""
    enter, leave = way
    if index == 0:
        depth.copy_(leave)
        return
    closer = (enter < leave) & (enter > beyond) & (enter < depth)
    depth.copy_(torch.where(closer, enter, depth))
    hit.masked_fill_(closer, index)


def _rectangle(shots: Shots, index: int, size: Size) -> tuple[slice, slice]:
    """Rows and columns outside which no picture shows the solid, by the corners of its box."""
    whole = slice(None), slice(None)
    if index == 0:
        return whole
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    rays = (corners - shots.start[:, index, None]) @ torch.linalg.inv(shots.matrix[:, index]).mT
    if bool((rays[..., 2] <= NEAREST).any()):
        return whole
    uv = (rays[..., :2] / rays[..., 2:]).reshape(-1, 2)
    limits = torch.tensor([size[1], size[0]], dtype=torch.float64)
    low = torch.minimum((uv.amin(0) - 0.5).floor().clamp(min=0), limits).long().tolist()
    high = torch.minimum((uv.amax(0) + 0.5).ceil().clamp(min=0), limits).long().tolist()
    return slice(low[1], high[1]), slice(low[0], high[0])


def _slab(start: Float[Tensor, "*s"], step: Float[Tensor, "*n"]) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(step.abs() < GRAZING, GRAZING, step)
    middle, half = -start * inverse, inverse.abs()
    return middle - half, middle + half


def _ball(start: tuple[Tensor, ...], step: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    squared = sum((each * each for each in step[1:]), step[0] * step[0])
    middle = -sum((a * b for a, b in zip(start[1:], step[1:], strict=True)), start[0] * step[0]) / squared
    nearest = sum(((a + middle * b).square() for a, b in zip(start[1:], step[1:], strict=True)), (start[0] + middle * step[0]).square())
    half = torch.sqrt((1.0 - nearest).clamp(min=0.0) / squared)
    miss = nearest > 1.0
    return torch.where(miss, torch.inf, middle - half), torch.where(miss, -torch.inf, middle + half)
