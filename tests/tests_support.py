"""Slow, obvious checks that share no code with what they check."""

import torch
from torch import Tensor

from track2view.scenes import World


def ray_blocked(world: World, eye: Tensor, points: Tensor, frame: int, steps: int = 3000) -> Tensor:
    """March from the eye to each point, asking at every step whether it is inside a solid (or outside the enclosure)."""
    blocked = torch.zeros(len(points), dtype=torch.bool)
    share = torch.linspace(0.0, 0.996, steps, dtype=torch.float64)
    for index, point in enumerate(points):
        way = eye + share[:, None] * (point - eye)
        for number, solid in enumerate(world.solids):
            pose = solid.world_from_solid[frame]
            unit = (way - pose[:3, 3]) @ pose[:3, :3] / solid.half_extent
            if solid.shape == "box":
                inside = unit.abs().amax(-1) < 1
            elif solid.shape == "ellipsoid":
                inside = unit.square().sum(-1) < 1
            else:
                inside = (unit[:, 0].square() + unit[:, 2].square() < 1) & (unit[:, 1].abs() < 1)
            blocked[index] |= bool((~inside if number == 0 else inside).any())
    return blocked
