"""VBench's motion smoothness (arXiv 2311.17982): how near a clip's odd frames are to what AMT-S makes from their neighbours.

AMT (Li et al., CVPR 2023, arXiv 2304.09790) makes the frame between two: it guesses the flow from there to both, level by level,
each time corrected by how alike the two frames are along it, and blends three such guesses. Names are those of its published weights.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, instance_norm, interpolate, leaky_relu, pad, relu

from track2view.errors import UserError
from track2view.evaluate.benchmark import Frames, Given
from track2view.evaluate.published import AMT, read_weights

FILE = "amt-s.pth"
PYRAMID = (20, 32, 44, 56)
SIDE = 20
"""How many channels go ahead within a residual unit."""
GUESSES = 3
LEVELS, RADIUS = 4, 3
"""How often likeness is halved in size, and how far around a place it is looked at."""
MULTIPLE, LEAST_SIDE = 16, 128
"""Sides are padded to a multiple; in what is smaller than the least side nothing is left of likeness at its coarsest."""

Pictures = Float[Tensor, "_ _ _ _"]
"""Of each its channels, rows and columns."""


class Residual(nn.Module):
    """Convolutions of all channels and of the last ones in turn."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = _activated(width, width), _activated(width, width)
        self.conv2, self.conv4 = _activated(SIDE, SIDE), _activated(SIDE, SIDE)
        self.conv5, self.prelu = nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)

    def forward(self, features: Pictures) -> Pictures:
        """Of the same size."""
        through = features
        for all_of_them, ahead in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            through = all_of_them(through)
            through = torch.cat([through[:, :-SIDE], ahead(through[:, -SIDE:])], dim=1)
        return self.prelu(features + self.conv5(through))


class Bottleneck(nn.Module):
    """A residual unit of the encoder that likeness is of."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(inner, outer // 4, 1), nn.Conv2d(outer // 4, outer, 1)
        self.conv2 = nn.Conv2d(outer // 4, outer // 4, 3, stride, 1)
        self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride)) if stride > 1 else None

    def forward(self, features: Pictures) -> Pictures:
        """Smaller by the stride."""
        through = features
        for layer in (self.conv1, self.conv2, self.conv3):
            through = relu(instance_norm(layer(through)))
        return relu(through + (features if self.downsample is None else instance_norm(self.downsample(features))))


class LikenessEncoder(nn.Module):
    """Features of an eighth of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 7, 2, 3), nn.Conv2d(96, 84, 1)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))

    def forward(self, pictures: Pictures) -> Pictures:
        """Of each picture by itself."""
        return self.conv2(self.layer3(self.layer2(self.layer1(relu(instance_norm(self.conv1(pictures)))))))


class Update(nn.Module):
    """What likeness along the flow so far says about features and flow.

    Args:
        width: of the features.
        times: how much larger than an eighth of the pictures they are.
    """

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, padding=3), nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(84, 68, 3, padding=1)
        self.gru, self.feat_head, self.flow_head = _two(68 + 4 + width, 76), _two(76, width), _two(76, 4)

    def forward(self, features: Pictures, flow: Pictures, likeness: Pictures) -> tuple[Pictures, Pictures]:
        """What is to be added to features and flow, of the features' size; flow and likeness are of an eighth of the pictures'."""
        of_flow = _leaky(self.convf2(_leaky(self.convf1(flow))))
        both = _leaky(self.conv(torch.cat([_leaky(self.convc1(likeness)), of_flow], dim=1)))
        known = self.gru(torch.cat([both, flow, _resized(features, 1 / self.times)], dim=1))
        return _resized(self.feat_head(known), self.times), self.times * _resized(self.flow_head(known), self.times)


class Interpolator(nn.Module):
    """AMT-S: the frame in the middle of two."""

    def __init__(self) -> None:
        super().__init__()
        self.feat_encoder = LikenessEncoder()
        inner = (3, *PYRAMID)
        self.encoder = nn.ModuleDict(
            {
                f"pyramid{level}": nn.Sequential(_activated(inner[level - 1], own, 2), _activated(own, own))
                for level, own in enumerate(PYRAMID, 1)
            }
        )
        first, second, third, fourth = PYRAMID
        self.decoder4, self.decoder3 = _decoder(2 * fourth, 1, third + 4), _decoder(3 * third, 4, second + 4)
        self.decoder2, self.decoder1 = _decoder(3 * second, 4, first + 4), _decoder(3 * first, 4, 8 * GUESSES)
        self.update4, self.update3, self.update2 = Update(third, 1), Update(second, 2), Update(first, 4)
        wide = 6 * GUESSES
        self.comb_block = nn.Sequential(nn.Conv2d(3 * GUESSES, wide, 3, 1, 1), nn.PReLU(wide), nn.Conv2d(wide, 3, 3, 1, 1))

    def forward(self, before: Float[Tensor, "B 3 h w"], after: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 h w"]:
        """Of colours in [0, 1]; sides are multiples of 16, of 128 pixels at least."""
        mean = torch.cat([before, after], dim=2).mean((1, 2, 3), keepdim=True)
        pictures = torch.cat([before, after]) - mean.repeat(2, 1, 1, 1)
        likeness = _Likeness(*self.feat_encoder(pictures).chunk(2))
        pyramid, smaller = [], pictures
        for level in self.encoder.values():
            smaller = level(smaller)
            pyramid.append(smaller.chunk(2))
        middle = torch.full_like(pyramid[3][0][:, :1], 0.5)
        flow, features = self.decoder4["convblock"](torch.cat([*pyramid[3], middle], dim=1)).tensor_split([4], dim=1)
        flow, features = _corrected(self.update4, likeness, flow, features)
        for decoder, update, there in ((self.decoder3, self.update3, pyramid[2]), (self.decoder2, self.update2, pyramid[1])):
            change, finer = _decoded(decoder, there, flow, features).tensor_split([4], dim=1)
            flow, features = _corrected(update, likeness, change + 2 * _resized(flow, 2), finer)
        change, mask, extra = _decoded(self.decoder1, pyramid[0], flow, features).tensor_split([4 * GUESSES, 5 * GUESSES], dim=1)
        flows = change.unflatten(1, (2, GUESSES, 2)) + 2 * _resized(flow, 2).unflatten(1, (2, 1, 2))
        from_before, from_after = (
            _along(each[:, None].expand(-1, GUESSES, -1, -1, -1).flatten(0, 1), way.flatten(0, 1)).unflatten(0, (-1, GUESSES))
            for each, way in zip(pictures.chunk(2), flows.unbind(1), strict=True)
        )
        weight = mask.sigmoid()[:, :, None]
        guesses = weight * from_before + (1 - weight) * from_after + mean[:, None] + extra.unflatten(1, (GUESSES, 3))
        return (guesses.mean(1) + self.comb_block(guesses.flatten(1, 2))).clamp(0, 1)


class MotionMeasure:
    """Motion smoothness.

    Args:
        folder: holds the weights.

    Raises:
        UserError: what is missing, or does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.network, self.device = Interpolator().to(device).eval().requires_grad_(False), device
        try:
            self.network.load_state_dict(read_weights(folder / FILE, AMT, "state_dict"))
        except RuntimeError as error:
            raise UserError(f"{folder / FILE}: no AMT-S ({' '.join(str(error).split()):.200}); {AMT.remedy}") from None

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """It alone, in percent; NaN for fewer than three frames, and for frames too small for the network (below 128 pixels)."""
        missing = [-side % MULTIPLE for side in made.shape[2:]]
        if len(made) < 3 or min(side + more for side, more in zip(made.shape[2:], missing, strict=True)) < LEAST_SIDE:
            return {"motion_smoothness": math.nan}
        (top, left), (bottom, right) = ([each // 2 for each in missing], [each - each // 2 for each in missing])
        kept = pad(made[::2].to(self.device).float() / 255, (left, right, top, bottom), mode="replicate")
        height, width = made.shape[2:]
        apart = []
        for before, after, true in zip(kept[:-1], kept[1:], made[1::2], strict=False):
            found = self.network(before[None], after[None])[0, :, top : top + height, left : left + width]
            apart.append(float(((255 * found).cpu().to(torch.uint8).float() - true.float()).abs().mean()))
        return {"motion_smoothness": 100 * (1 - sum(apart) / len(apart) / 255)}


class _Likeness:
    """Of every place in one picture to every place in the other, from fine to coarse, looked up around where a flow leads."""

    def __init__(self, before: Pictures, after: Pictures) -> None:
        batch, channels, *self.size = before.shape
        alike = before.flatten(2).mT @ after.flatten(2) / math.sqrt(channels)
        self.levels = []
        for way in (alike, alike.mT):
            finest = way.reshape(-1, 1, *self.size)
            levels = [finest]
            while len(levels) < LEVELS:
                levels.append(avg_pool2d(levels[-1], 2))
            self.levels.append(levels)
        rows, columns = (torch.arange(side, device=before.device, dtype=before.dtype) for side in self.size)
        self.places = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(batch, -1, -1, -1)
        offset = torch.arange(-RADIUS, RADIUS + 1, device=before.device, dtype=before.dtype)
        # the first index goes along x: so the published weights have it
        self.around = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)

    def along(self, flow: Pictures) -> Pictures:
        """Twice the flow from the middle, for a point goes through it on a line from one picture to the other."""
        found = []
        for levels, way in zip(self.levels, (flow[:, 2:], flow[:, :2]), strict=True):
            centre = (self.places + 2 * way).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
            for level, alike in enumerate(levels):
                limits = torch.tensor(alike.shape[:1:-1], device=flow.device) - 1
                looked = grid_sample(alike, 2 * (centre / 2**level + self.around) / limits - 1, align_corners=True)
                found.append(looked.reshape(len(flow), *self.size, -1).permute(0, 3, 1, 2))
        return torch.cat(found, dim=1)


def _corrected(update: Update, likeness: _Likeness, flow: Pictures, features: Pictures) -> tuple[Pictures, Pictures]:
    coarse = _resized(flow, 1 / update.times) / update.times
    more_features, more_flow = update(features, coarse, likeness.along(coarse))
    return flow + more_flow, features + more_features


def _decoded(decoder: nn.ModuleDict, pyramid: tuple[Pictures, Pictures], flow: Pictures, features: Pictures) -> Pictures:
    there = [_along(each, way) for each, way in zip(pyramid, flow.chunk(2, dim=1), strict=True)]
    return decoder["convblock"](torch.cat([features, *there, flow], dim=1))


def _along(pictures: Pictures, flow: Float[Tensor, "B 2 h w"]) -> Pictures:
    """Each pixel from where its flow leads, at most to the border."""
    height, width = flow.shape[2:]
    y, x = (torch.linspace(-1, 1, side, device=flow.device) for side in (height, width))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    share = 2 * flow.permute(0, 2, 3, 1) / torch.tensor([width - 1, height - 1], device=flow.device)
    return grid_sample(pictures, grid + share, padding_mode="border", align_corners=True)


def _resized(features: Pictures, times: float) -> Pictures:
    return features if times == 1 else interpolate(features, scale_factor=times, mode="bilinear")


def _leaky(features: Pictures) -> Pictures:
    return leaky_relu(features, 0.1)


def _activated(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.PReLU(outer))


def _two(inner: int, outer: int) -> nn.Sequential:
    """Two convolutions; between them there are 76 channels."""
    return nn.Sequential(nn.Conv2d(inner, 76, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(76, outer, 3, padding=1))


def _decoder(width: int, more: int, outer: int) -> nn.ModuleDict:
    """To twice the size."""
    return nn.ModuleDict(
        {"convblock": nn.Sequential(_activated(width + more, width), Residual(width), nn.ConvTranspose2d(width, outer, 4, 2, 1))}
    )
