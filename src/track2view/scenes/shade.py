"""Colour of surface points: texture, the angle to the light, and what stands in the light's way."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from track2view.scenes.cast import NEAREST, Shots, cast, span
from track2view.scenes.world import Shape, World

FACES, TOP = 8, 2
BEYOND = 1e-4
GRAZING = 1e-9
SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))


def shade(
    world: World,
    shots: Shots,
    picture: Int64[Tensor, "n"],
    u: Float32[Tensor, "n"],
    v: Float32[Tensor, "n"],
    depth: Float32[Tensor, "n"],
    solid: Int64[Tensor, "n"],
    metres_per_depth: Float32[Tensor, "n"],
    spread: float,
) -> tuple[Float32[Tensor, "n 3"], Int64[Tensor, "n"]]:
    """Colour of what rays met, and which smooth piece of surface that is: pixels of one piece look alike.

    Textures are averaged over four points around the ray's, in the surface's tangent plane.

    Args:
        metres_per_depth: width of a pixel at depth 1.
        spread: width, in pixels, of the square that textures are averaged over.
    """
    lit = _lit(world, shots, picture, u, v, depth)
    colour = torch.empty(len(u), 3, device=u.device)
    piece = solid * FACES + lit * (FACES * len(world.solids))
    tint = torch.tensor(world.light.colour, device=u.device)
    for index, each in enumerate(world.solids):
        chosen = (solid == index).nonzero()[:, 0]
        if not len(chosen):
            continue
        seen, far = picture[chosen], depth[chosen]
        start, step = shots.rays(index, seen, u[chosen], v[chosen])
        unit = (start + far * step).T
        half = each.half_extent.to(u.device, torch.float32)
        normal, face = _surface(each.shape, unit)
        piece[chosen] += face
        to_light = (shots.light[:, index] * each.half_extent).to(u.device, torch.float32).index_select(0, seen)
        lambert = (normalize(normal / half, dim=-1) * to_light).sum(-1) * (-1.0 if index == 0 else 1.0)
        direct = lambert.clamp(min=0.0) * lit[chosen]
        around = _around(start, step, unit, normal, shots.across_pixel(index, seen), spread)
        metres = metres_per_depth[chosen] * far
        albedo = each.texture.colour(unit * half, around * half, metres)
        colour[chosen] = albedo * (world.light.ambient + (1 - world.light.ambient) * direct)[:, None] * tint
        if each.reflects:
            top = chosen[face == TOP]
            mirrored = _mirrored(world, shots, index, picture[top], u[top], v[top], depth[top], metres_per_depth[top])
            colour[top] += each.reflects * (mirrored - colour[top])
    return colour.clamp(max=1.0), piece


def _mirrored(
    world: World,
    shots: Shots,
    index: int,
    picture: Int64[Tensor, "n"],
    u: Float32[Tensor, "n"],
    v: Float32[Tensor, "n"],
    depth: Float32[Tensor, "n"],
    metres_per_depth: Float32[Tensor, "n"],
) -> Float32[Tensor, "n 3"]:
    """Colour of what the top of a solid shows of the world, in which nothing else mirrors."""
    plain = replace(world, solids=tuple(replace(each, reflects=0.0) for each in world.solids))
    behind = shots.mirrored(world, index)
    far, hit = cast(behind, picture, u, v, depth * (1 + BEYOND))
    return shade(plain, behind, picture, u, v, far, hit, metres_per_depth, 0.0)[0]


def _around(
    start: Float32[Tensor, "3 _"],
    step: Float32[Tensor, "3 n"],
    unit: Float32[Tensor, "n 3"],
    normal: Float32[Tensor, "n 3"],
    across: tuple[Float32[Tensor, "3 _"], Float32[Tensor, "3 _"]],
    spread: float,
) -> Float32[Tensor, "4 n 3"]:
    """Where rays through the quarters of a square around each pixel meet the tangent plane; its own point where they graze."""
    height = (normal.T * (unit.T - start)).sum(0)
    points = []
    for right, down in SUBPIXELS:
        beside = step + spread * (right * across[0] + down * across[1])
        towards = (normal.T * beside).sum(0)
        meets = towards * (normal.T * step).sum(0) > GRAZING
        points.append(torch.where(meets, start + height / torch.where(meets, towards, 1.0) * beside, unit.T).T)
    return torch.stack(points)


def _surface(shape: Shape, unit: Float32[Tensor, "n 3"]) -> tuple[Float32[Tensor, "n 3"], Int64[Tensor, "n"]]:
    """Outward normals in unit coordinates, of any length, and the number of the face."""
    if shape == "ellipsoid":
        return unit, torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    if shape == "box":
        x, y, z = unit.abs().unbind(-1)
        axis = torch.where(z > torch.maximum(x, y), 2, (y > x).long())  # argmax, which is slow along three columns
        normal = torch.nn.functional.one_hot(axis, 3) * unit.sign()
        return normal, axis * 2 + (normal.sum(-1) > 0)
    on_cap = unit[:, 1].abs() > unit[:, [0, 2]].norm(dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], device=unit.device)
    normal = torch.where(on_cap[:, None], unit * up, unit * (1 - up))
    return normal, torch.where(on_cap, 1 + (unit[:, 1] > 0).long(), 0)


def _lit(
    world: World, shots: Shots, picture: Int64[Tensor, "n"], u: Float32[Tensor, "n"], v: Float32[Tensor, "n"], depth: Float32[Tensor, "n"]
) -> Bool[Tensor, "n"]:
    """Whether nothing stands between surface points and the light; convex solids leave their own lit side alone.

    Seen along the light, a solid can only shade what lies within its bounding circle and behind it.
    """
    lit = torch.ones(len(u), dtype=torch.bool, device=u.device)
    if not world.light.casts_shadows:
        return lit
    points = [coordinate + depth * step for coordinate, step in zip(*shots.rays_in_light(picture, u, v), strict=True)]
    for index, each in enumerate(world.solids):
        if index == 0:
            continue
        centre = shots.light_centre[:, index].to(u.device, torch.float32).T.contiguous().index_select(1, picture)
        across, along, towards = (points[axis] - centre[axis] for axis in range(3))
        radius = float(each.half_extent.norm())
        near = (across.square() + along.square() < radius * radius) & (towards < radius)
        chosen = near.nonzero()[:, 0]
        seen = picture[chosen]
        start, step = shots.rays(index, seen, u[chosen], v[chosen])
        way = shots.light[:, index].to(u.device, torch.float32).index_select(0, seen).T
        enter, leave = span(each.shape, tuple(start + depth[chosen] * step), tuple(way))
        lit[chosen] &= ~((enter < leave) & (enter > NEAREST))
    return lit
