"""How pictures of any shape come to one size: resized to cover it and cut at the centre; cameras and paired tracks follow."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.records import CameraPath, PairedTracks, Size, ViewTracks


@dataclass(frozen=True, kw_only=True, slots=True)
class Framing:
    """Resize to ``resized``, then cut ``size`` out of that from (``top``, ``left``).

    Attributes:
        resized: (H, W) of the whole picture, which covers ``size``.
        top, left: pixels of ``resized`` above and left of what is kept.
        size: (H, W) of what is kept.
    """

    resized: Size
    top: int
    left: int
    size: Size

    def __post_init__(self) -> None:
        below, right = self.resized[0] - self.top - self.size[0], self.resized[1] - self.left - self.size[1]
        if min(self.size) < 1 or min(self.top, self.left, below, right) < 0:
            raise UserError(f"Framing: {self.size} from ({self.top}, {self.left}) on lies outside a picture of {self.resized}")

    @staticmethod
    def covering(own: Size, size: Size) -> "Framing":
        """Pictures of ``own`` size at the smallest size that covers ``size``, of which the middle is kept."""
        scale = max(size[0] / own[0], size[1] / own[1])
        height, width = (max(wanted, round(side * scale)) for side, wanted in zip(own, size, strict=True))
        return Framing(resized=(height, width), top=(height - size[0]) // 2, left=(width - size[1]) // 2, size=size)

    def cut(self, frames: UInt8[Tensor, "T 3 h w"]) -> UInt8[Tensor, "T 3 H W"]:
        """What is kept of frames that are resized already."""
        return frames[:, :, self.top : self.top + self.size[0], self.left : self.left + self.size[1]]

    def camera(self, path: CameraPath) -> CameraPath:
        """The cameras of what is kept."""
        return path.resized(self.resized).cropped(self.top, self.left, self.size)

    def pairs(self, pairs: PairedTracks) -> PairedTracks:
        """The tracks in what is kept: as if projected with :meth:`camera`. Entries that fall outside are invalid."""
        return replace(pairs, source=self._view(pairs.source), target=self._view(pairs.target))

    def _view(self, view: ViewTracks) -> ViewTracks:
        whole, kept = (torch.tensor(size, dtype=torch.float64).flip(0) for size in (self.resized, self.size))
        uv = ((view.uv.double() * whole - torch.tensor([self.left, self.top])) / kept).float()
        return replace(view, uv=uv, valid=view.valid & ((uv >= 0) & (uv <= 1)).all(-1))
