"""What was never seen: texture like what is seen, imagined once for a whole path so that it stays where it is; else a smooth guess."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from track2view.records import CameraPath, Size
from track2view.warp.neighbours import largest_around
from track2view.warp.splat import look, splat_nearest

IMAGINED_SIDE, LEAST_SIDE = 120, 16
LEAST_KNOWN = 0.25
AROUND, BEFORE = 0.1, 0.3
"""How far about a hole, in terms of the picture's height, one looks for what is farthest; and by how much something is nearer that counts
for half of it in what the hole is filled with."""
CRACK = 2
"""Pixels of seen ones around a hole that make it a crack in them, where they meet."""
LARGE = 0.07
"""Deviation of the blur, in terms of the picture's height, beyond which colour is left as it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imagined:
    """Points of the still scene that no frame shows, made up.

    Attributes:
        colour: in [0, 1].
        size: of pictures in which the points lie as densely as pixels.
    """

    xyz: Float32[Tensor, "P 3"]
    colour: Float32[Tensor, "P 3"]
    size: Size

    @staticmethod
    def nothing(size: Size, device: torch.device) -> "Imagined":
        """No points, for pictures of ``size``: these hold as many as are worth imagining."""
        scale = min(1.0, IMAGINED_SIDE / min(size))
        small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        return Imagined(xyz=torch.zeros(0, 3, device=device), colour=torch.zeros(0, 3, device=device), size=small)

    def beside(self, xyz: Float32[Tensor, "n 3"], colour: Float32[Tensor, "n 3"]) -> "Imagined":
        """These points and more."""
        return Imagined(xyz=torch.cat([self.xyz, xyz]), colour=torch.cat([self.colour, colour]), size=self.size)

    def seen_by(self, target: CameraPath, frame: int) -> tuple[Float32[Tensor, "3 h w"], Bool[Tensor, "h w"]]:
        """How a camera sees the points, at ``size``, and which pixels show one."""
        small = target.resized(self.size)
        if not len(self.xyz):
            return torch.zeros(3, *self.size, device=self.xyz.device), torch.zeros(self.size, dtype=torch.bool, device=self.xyz.device)
        pixels, landed = look(self.xyz, small.world_from_camera[frame], small.intrinsics[frame])
        winner = splat_nearest(pixels, landed, self.size)
        return self.colour[winner.clamp(min=0)].permute(2, 0, 1), winner >= 0


def complete(
    colour: Float32[Tensor, "3 H W"],
    seen: Bool[Tensor, "H W"],
    clean: Bool[Tensor, "H W"],
    surface: Float32[Tensor, "H W"],
    imagined: tuple[Float32[Tensor, "3 h w"], Bool[Tensor, "h w"]] | None = None,
) -> Float32[Tensor, "3 H W"]:
    """A picture without holes: what is imagined of them, and a smooth guess at the rest.

    Args:
        clean: seen pixels whose colour is to be trusted; the others' is the smooth guess, whatever is imagined.
    """
    painted = paint(colour, clean, surface)
    if imagined is None or bool(seen.all()):
        return painted
    made_up, shown = imagined
    share = interpolate(shown[None, None].float(), size=seen.shape, mode="bilinear", align_corners=False)[0]
    total = interpolate((made_up * shown)[None], size=seen.shape, mode="bilinear", align_corners=False)[0]
    return torch.where(seen, painted, (total + (1 - share) * painted).clamp(0, 1))


def textured(smooth: Float32[Tensor, "3 H W"], still: Bool[Tensor, "H W"]) -> tuple[Float32[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
    """A picture that is right where ``still`` and smooth elsewhere, with the texture of the one in the other, and where that was found.

    Texture is copied in patches that fit, found by OpenCV's shift maps (He and Sun, Statistics of Patch Offsets for Image Completion,
    ECCV 2012), which now and then leave some out; colour stays what it was at large, for patches that fit at their rim may not fit in.
    """
    if bool(still.all()) or float(still.float().mean()) < LEAST_KNOWN or min(still.shape) < LEAST_SIDE:
        return smooth, torch.zeros_like(still)
    before = smooth.permute(1, 2, 0).cpu().numpy()
    lab = cv2.cvtColor((before * 255).round().astype(np.uint8), cv2.COLOR_RGB2LAB)
    copied = np.zeros_like(lab)
    cv2.xphoto.inpaint(lab, still.cpu().numpy().astype(np.uint8) * 255, copied, cv2.xphoto.INPAINT_SHIFTMAP)
    found = (copied != 0).any(-1)
    after = np.where(found[..., None], cv2.cvtColor(copied, cv2.COLOR_LAB2RGB).astype(np.float32) / 255, before)
    reach = len(before) * LARGE
    out = torch.from_numpy(after + cv2.GaussianBlur(before - after, (0, 0), reach)).clamp(0, 1)
    return out.permute(2, 0, 1).to(smooth.device), torch.from_numpy(found).to(still.device) & ~still


def paint(colour: Float32[Tensor, "c H W"], seen: Bool[Tensor, "H W"], surface: Float32[Tensor, "H W"]) -> Float32[Tensor, "c H W"]:
    """Fill what was never seen by a pyramid of averages: cracks with all that is beside them, wider holes with what is farthest there,
    for these open behind things, not before."""
    if bool(seen.all()):
        return colour
    beside = seen.float()
    behind = beside / (1 + ((surface / _farthest_around(surface, seen) - 1) / BEFORE) ** 2)
    crack = -largest_around(-largest_around(beside, CRACK), CRACK) > 0
    return torch.where(seen, colour, torch.where(crack, _averaged(colour, beside), _averaged(colour, behind)))


def _averaged(colour: Float32[Tensor, "c H W"], weight: Float32[Tensor, "H W"]) -> Float32[Tensor, "c H W"]:
    """Weighted averages of what is near, ever broader where that has little weight."""
    levels = [(colour * weight, weight[None])]
    while max(levels[-1][1].shape[-2:]) > 1:
        total, amount = levels[-1]
        levels.append((_halved(total), _halved(amount)))
    filled = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for total, amount in reversed(levels[:-1]):
        coarse = interpolate(filled[None], size=total.shape[-2:], mode="bilinear", align_corners=False)[0]
        trust = (amount / (amount + 0.02)).clamp(0, 1)
        filled = trust * total / amount.clamp(min=1e-6) + (1 - trust) * coarse
    return filled


def _farthest_around(surface: Float32[Tensor, "H W"], seen: Bool[Tensor, "H W"]) -> Float32[Tensor, "H W"]:
    """The least disparity that is seen about each pixel."""
    reach = max(1, round(AROUND * surface.shape[0]))
    return (-largest_around(torch.where(seen, -surface, -torch.inf), reach)).clamp(min=1e-6)


def _halved(image: Float32[Tensor, "c H W"]) -> Float32[Tensor, "c h w"]:
    return avg_pool2d(image[None], 2, ceil_mode=True, count_include_pad=False)[0]
