"""LPIPS (Zhang et al. 2018) of a clip from the exact view, on what the source shows and on the rest: AlexNet's features, weighted.

torchvision has AlexNet's weights but no build for every machine, so the five layers are here, and read its file.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from track2view.errors import UserError
from track2view.evaluate.benchmark import Frames, Given
from track2view.evaluate.procedural import PairTruth
from track2view.evaluate.published import LPIPS, read_weights

BACKBONE, WEIGHTS = "alexnet-owt-7be5be79.pth", "alex.pth"
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pictures in [-1, 1]: ImageNet's, as LPIPS has them."""
WIDTHS = (64, 192, 384, 256, 256)
AFTER = (1, 4, 7, 9, 11)
"""Places in AlexNet after which features are compared."""
AT_ONCE = 16


class Distance(nn.Module):
    """LPIPS of pictures, pixel by pixel.

    Args:
        folder: holds torchvision's AlexNet and LPIPS's own weights of its version 0.1.

    Raises:
        UserError: what is missing, or does not load.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.weights = nn.ParameterList([torch.zeros(1, width, 1, 1) for width in WIDTHS])
        backbone, own = (read_weights(folder / name, LPIPS) for name in (BACKBONE, WEIGHTS))
        try:
            self.features.load_state_dict({k.removeprefix("features."): v for k, v in backbone.items() if k.startswith("features.")})
            self.weights.load_state_dict({str(index): own[f"lin{index}.model.1.weight"] for index in range(len(WIDTHS))})
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{folder}: no LPIPS ({' '.join(str(error).split()):.200}); {LPIPS.remedy}") from None
        self.eval().requires_grad_(False)

    def forward(self, frames: Frames, others: Frames) -> Float[Tensor, "T H W"]:
        """Of each pixel; the mean over a picture is its LPIPS."""
        size = frames.shape[2:]
        found = torch.zeros(len(frames), *size, device=frames.device)
        one, other = self._normalised(frames), self._normalised(others)
        for index, layer in enumerate(self.features):
            one, other = layer(one), layer(other)
            if index in AFTER:
                apart = (_unit(one) - _unit(other)).square() * self.weights[AFTER.index(index)]
                found += interpolate(apart.sum(1, keepdim=True), size, mode="bilinear", align_corners=False)[:, 0]
        return found

    def _normalised(self, frames: Frames) -> Float[Tensor, "T 3 H W"]:
        mean, deviation = (torch.tensor(each, device=frames.device).reshape(3, 1, 1) for each in (MEAN, DEVIATION))
        return (frames.float() / 127.5 - 1 - mean) / deviation


class LpipsMeasure:
    """LPIPS from the exact view: of all pixels, and in procedural worlds of those that the source shows and of the others."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.distance, self.device = Distance(folder).to(device), device

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """Nothing where nobody knows the exact view; NaN where there is no pixel of the kind."""
        if given.exact is None:
            return {}
        pairs = zip(made.split(AT_ONCE), given.exact.split(AT_ONCE), strict=True)
        found = torch.cat([self.distance(own.to(self.device), true.to(self.device)).cpu() for own, true in pairs])
        seen: dict[str, Bool[Tensor, "T H W"]] = {}
        if isinstance(given.known, PairTruth):
            seen = {"_seen": given.known.seen, "_disoccluded": ~given.known.seen}
        return {"lpips": float(found.mean()), **{f"lpips{name}": float(found[chosen].mean()) for name, chosen in seen.items()}}


def _unit(features: Float[Tensor, "T C h w"]) -> Float[Tensor, "T C h w"]:
    """Of length 1 at each place; the small number is LPIPS's."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
