"""What was seen comes back as it was: a generator tints what it should keep, so its colours are fitted to the warp's, and the warp's own
pixels put over it."""

import torch
from jaxtyping import Bool, Float32, UInt8
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import avg_pool2d

from track2view.model.diffusion import Rendered

CELL = 8
"""Side in pixels of what colours are compared over: details may lie a little beside their place."""
RIDGE = 0.02
"""Squared colour (summed over cells) that a fit needs to see before it turns or stretches colours, not only shifts them."""
AROUND = 5
"""Side of the square of seen pixels, about the nearest one, by which a hole's pixel goes on."""
FEATHER = 6.0
"""Pixels into a hole over which what is left of a difference at its rim fades, to 1/e."""


def given_back(made: UInt8[Tensor, "T 3 H W"], rendered: Rendered) -> UInt8[Tensor, "T 3 H W"]:
    """A generated video whose seen pixels are the warp's, exactly, and whose other pixels go on from these."""
    frames = zip(made.float() / 255, rendered.colour, rendered.shown, strict=True)
    return torch.stack([_given_back(picture, colour, seen) for picture, colour, seen in frames])


def fitted(picture: Float32[Tensor, "3 H W"], colour: Float32[Tensor, "3 H W"], seen: Bool[Tensor, "H W"]) -> Float32[Tensor, "3 H W"]:
    """A picture in the colours of another, by the affine map of RGB that brings it nearest where ``seen``, cell by cell."""
    share = avg_pool2d(seen[None].float(), CELL, ceil_mode=True, count_include_pad=False)[0]
    whole = share == 1
    if not bool(whole.any()):
        return picture
    mine, wanted = (avg_pool2d(each, CELL, ceil_mode=True, count_include_pad=False)[:, whole].double() for each in (picture, colour))
    middle, goal = mine.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    ridge = RIDGE * torch.eye(3, dtype=torch.float64)
    turned = torch.linalg.solve((mine - middle) @ (mine - middle).T + ridge, (mine - middle) @ (wanted - goal).T + ridge).T
    return (torch.einsum("ij,jhw->ihw", turned, picture.double() - middle[..., None]) + goal[..., None]).float()


def _given_back(picture: Float32[Tensor, "3 H W"], warped: UInt8[Tensor, "3 H W"], seen: Bool[Tensor, "H W"]) -> UInt8[Tensor, "3 H W"]:
    if not bool(seen.any()):
        return _as_bytes(picture)
    colour = warped.float() / 255
    toned = fitted(picture, colour, seen)
    share = avg_pool2d(seen[None].float(), AROUND, 1, AROUND // 2)
    left = avg_pool2d((colour - toned) * seen, AROUND, 1, AROUND // 2) / share.clamp(min=1e-6)
    distance, (row, column) = distance_transform_edt(~seen.numpy(), return_indices=True)  # pyrefly: ignore
    fading = torch.exp((1 - torch.from_numpy(distance).float()) / FEATHER)
    return torch.where(seen, warped, _as_bytes(toned + left[:, row, column] * fading))


def _as_bytes(picture: Float32[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    return (picture * 255).round().clamp(0, 255).to(torch.uint8)
