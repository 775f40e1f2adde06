"""VBench's imaging quality (arXiv 2311.17982): what MUSIQ (Ke et al., ICCV 2021, arXiv 2108.05997) says of a clip's frames.

A frame is cut into patches at three sizes; a small convolutional stem makes each a token, which knows its place and its size, and one
token that reads them all gives the score. Numbers are those of the published PyTorch weights, which VBench uses: there pictures are
resized by bicubic interpolation.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad, relu, unfold

from track2view.errors import UserError
from track2view.evaluate.benchmark import Frames, Given
from track2view.evaluate.published import MUSIQ, read_weights

FILE = "musiq_spaq_ckpt-358bb6af.pth"
PATCH, GRID, HEADS = 32, 10, 6
LONGER_SIDES = (224, 384)
"""Of the smaller pictures; the third is the frame itself."""
LARGEST = 512
"""VBench's longer side of frames."""
STEM = 64
OF_LAYER = {"norm1": "norm1", "norm2": "norm2", "attention.out": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}
"""Published names in a layer, and torch's."""
AT_ONCE = 4


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose filters have mean 0 and deviation 1; padded so that a stride divides the size, rounded up."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inner, outer, kernel, stride, bias=False)

    def forward(self, input: Float[Tensor, "B i h w"]) -> Float[Tensor, "B o y x"]:  # torch's own name
        """Filtered."""
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return conv2d(_padded(input, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class Bottleneck(nn.Module):
    """A residual unit that widens fourfold."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = StandardisedConv(width, width, 1), StandardisedConv(width, width, 3)
        self.conv3, self.conv_proj = StandardisedConv(width, 4 * width, 1), StandardisedConv(width, 4 * width, 1)
        self.gn1, self.gn2 = nn.GroupNorm(32, width, eps=1e-4), nn.GroupNorm(32, width, eps=1e-4)
        self.gn3, self.gn_proj = nn.GroupNorm(32, 4 * width, eps=1e-4), nn.GroupNorm(32, 4 * width, eps=1e-4)

    def forward(self, pictures: Float[Tensor, "B c h w"]) -> Float[Tensor, "B o h w"]:
        """Of the same size."""
        narrow = relu(self.gn2(self.conv2(relu(self.gn1(self.conv1(pictures))))))
        return relu(self.gn3(self.conv3(narrow)) + self.gn_proj(self.conv_proj(pictures)))


class Musiq(nn.Module):
    """The quality of pictures, 0 … 100, as people would score it.

    Args:
        width: of tokens.
        feed_width: between the layers of a feed-forward part.
        layers: of the transformer.
    """

    def __init__(self, width: int = 384, feed_width: int = 1152, layers: int = 14) -> None:
        super().__init__()
        self.conv_root, self.gn_root = StandardisedConv(3, STEM, 7, stride=2), nn.GroupNorm(32, STEM, eps=1e-6)
        self.block1 = Bottleneck(STEM)
        self.embedding = nn.Linear(4 * STEM * (PATCH // 4) ** 2, width)
        self.positions = nn.Parameter(torch.zeros(GRID**2, width))
        self.sizes = nn.Parameter(torch.zeros(len(LONGER_SIDES) + 1, width))
        self.reader = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, HEADS, feed_width, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width, eps=1e-6), enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, frames: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T"]:
        """Of each of pictures in [0, 255]."""
        pictures = frames / 127.5 - 1
        height, width = pictures.shape[2:]
        tokens = [self.reader.expand(len(frames), -1, -1)]
        for index, longer in enumerate((*LONGER_SIDES, None)):
            ratio = 1 if longer is None else longer / max(height, width)
            size = round(height * ratio), round(width * ratio)
            resized = pictures if longer is None else interpolate(pictures, size, mode="bicubic")
            tokens.append(self._tokens(resized) + self.sizes[index])
        return self.head(self.encoder(torch.cat(tokens, dim=1))[:, 0])[:, 0]

    def _tokens(self, pictures: Float[Tensor, "T 3 h w"]) -> Float[Tensor, "T N D"]:
        rows, columns = (math.ceil(side / PATCH) for side in pictures.shape[2:])
        patches = unfold(_padded(pictures, PATCH, PATCH), PATCH, stride=PATCH).mT.reshape(-1, 3, PATCH, PATCH)
        stem = relu(self.gn_root(self.conv_root(patches)))
        stem = self.block1(max_pool2d(_padded(stem, 3, 2), 3, 2)).permute(0, 2, 3, 1)
        row, column = (interpolate(torch.arange(float(GRID))[None, None], count)[0, 0].long() for count in (rows, columns))
        place = (row[:, None] * GRID + column).flatten()
        return self.embedding(stem.reshape(len(pictures), rows * columns, -1)) + self.positions[place.to(self.positions.device)]


class QualityMeasure:
    """Imaging quality.

    Args:
        folder: holds the weights.

    Raises:
        UserError: what is missing, or does not load.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        file, self.device = folder / FILE, device
        state = read_weights(file, MUSIQ)
        try:
            state, layers = _renamed(state)
            feed_width, width = state["encoder.layers.0.linear1.weight"].shape
            self.network = Musiq(width, feed_width, layers).to(device).eval().requires_grad_(False)
            self.network.load_state_dict(state)
        except (KeyError, RuntimeError, AssertionError) as error:
            raise UserError(f"{file}: no MUSIQ ({' '.join(str(error).split()):.200}); {MUSIQ.remedy}") from None

    @torch.no_grad()
    def __call__(self, made: Frames, given: Given) -> dict[str, float]:
        """It alone."""
        return {"imaging_quality": float(torch.cat([self.network(self._fitted(part)).cpu() for part in made.split(AT_ONCE)]).mean())}

    def _fitted(self, frames: Frames) -> Float[Tensor, "T 3 h w"]:
        """No side longer than VBench's."""
        pictures = frames.to(self.device).float()
        ratio = LARGEST / max(pictures.shape[2:])
        if ratio >= 1:
            return pictures
        size = [int(ratio * side) for side in pictures.shape[2:]]
        return interpolate(pictures, size, mode="bilinear", antialias=True)


def _padded(pictures: Float[Tensor, "B c h w"], kernel: int, stride: int) -> Float[Tensor, "B c y x"]:
    """With as many zeros around as let every stride begin inside; the odd one at the end."""
    missing = [(math.ceil(side / stride) - 1) * stride + kernel - side for side in pictures.shape[2:]]
    (top, left), (bottom, right) = ([each // 2 for each in missing], [each - each // 2 for each in missing])
    return pad(pictures, (left, right, top, bottom))


def _renamed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Published names as torch's own layers have them, and how many layers there are."""
    place = "transformer_encoder."
    own = {name: value for name, value in state.items() if not name.startswith(place)}
    own["positions"] = state[f"{place}posembed_input.position_emb"][0]
    own["sizes"], own["reader"] = state[f"{place}scaleembed_input.scale_emb"], state[f"{place}cls"]
    layers = sum(name.endswith(".mlp.fc1.weight") for name in state)
    for kind in ("weight", "bias"):
        own[f"encoder.norm.{kind}"] = state[f"{place}encoder_norm.{kind}"]
        for layer in range(layers):
            theirs, ours = f"{place}transformer.encoderblock_{layer}.", f"encoder.layers.{layer}."
            own |= {f"{ours}{mine}.{kind}": state[f"{theirs}{name}.{kind}"] for name, mine in OF_LAYER.items()}
            asks = [state[f"{theirs}attention.{name}.{kind}"] for name in ("query", "key", "value")]
            own[f"{ours}self_attn.in_proj_{kind}"] = torch.cat(asks)
    return own, layers
