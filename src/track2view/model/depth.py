"""Monocular depth networks of transformers in a local folder, as depth priors: Depth Anything (V2, relative or metric) and Depth Pro."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DepthProConfig, DepthProForDepthEstimation, PreTrainedModel

from track2view.errors import UserError
from track2view.files import read_json
from track2view.model.folders import OFFLINE, check_report, check_weights, loaded, outlined, read_config
from track2view.model.text import fingerprint
from track2view.progress import progress
from track2view.records import Clip, Size
from track2view.trackers.relative_depth import RelativeDepth

NETWORKS: dict[str, tuple[Any, Any]] = {
    "depth_anything": (DepthAnythingConfig, DepthAnythingForDepthEstimation),
    "depth_pro": (DepthProConfig, DepthProForDepthEstimation),
}
ENCODER = "dinov2"
"""The one that these networks have; a folder may name any other, and where its weights are."""
MOST_SIDE, MOST_MULTIPLE = 4096, 64
RESAMPLINGS = {2: "bilinear", 3: "bicubic"}
"""As the library numbers them."""
KEPT_SIDE = 240
"""Short side of the maps that are kept: half of what is tracked at."""
NEAREST_METRES = 0.01
ROOM = 1.5
"""Memory for a network at work, in terms of its weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How a network wants its pictures: the fields of ``preprocessor_config.json`` that make a difference.

    The library's own image processors need torchvision, Depth Pro's in any case.

    Attributes:
        size: (H, W) that pictures are resized to.
        keep_aspect: one side alone is, the one that is changed less; the other follows.
        multiple: of which both sides then are.
        mean, deviation: of the colours, in [0, 1], that are taken off.
    """

    size: Size
    keep_aspect: bool
    multiple: int
    resampling: str
    antialias: bool
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @staticmethod
    def read(folder: Path, *, antialias: bool) -> "Preprocessing":
        """From a folder.

        Raises:
            UserError: a file or a field that is missing or makes no sense, by name.
        """
        path = folder / "preprocessor_config.json"
        if not path.exists():
            raise UserError(f"{path}: missing; it says how large pictures must be")
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise UserError(f"{path}: expected an object of fields, got {type(fields).__name__}")
        size = fields.get("size")
        height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
        if not (isinstance(height, int) and isinstance(width, int) and 1 <= min(height, width) <= max(height, width) <= MOST_SIDE):
            raise UserError(f"{path}: size: expected a height and a width of 1 to {MOST_SIDE}, got {size!r:.60}")
        multiple = fields.get("ensure_multiple_of", 1)
        if not isinstance(multiple, int) or not 1 <= multiple <= MOST_MULTIPLE:
            raise UserError(f"{path}: ensure_multiple_of: expected 1 to {MOST_MULTIPLE}, got {multiple!r:.60}")
        if (resampling := RESAMPLINGS.get(fields.get("resample", 2))) is None:  # pyrefly: ignore
            raise UserError(f"{path}: resample: expected one of {list(RESAMPLINGS)}, got {fields['resample']!r:.60}")
        mean, deviation = (_three(path, fields, name) for name in ("image_mean", "image_std"))
        if min(deviation) <= 0:
            raise UserError(f"{path}: image_std: expected positive numbers, got {deviation}")
        return Preprocessing(
            size=(height, width),
            keep_aspect=bool(fields.get("keep_aspect_ratio", False)),
            multiple=multiple,
            resampling=resampling,
            antialias=antialias,
            mean=mean,
            deviation=deviation,
        )

    def __call__(self, frame: UInt8[Tensor, "3 H W"]) -> Float32[Tensor, "1 3 h w"]:
        """A picture as the network takes it."""
        size = self._fitting(frame.shape[1], frame.shape[2])
        picture = interpolate(frame[None].float() / 255, size=size, mode=self.resampling, antialias=self.antialias).clamp(0, 1)
        return (picture - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[:, None, None]

    def _fitting(self, height: int, width: int) -> Size:
        down, across = self.size[0] / height, self.size[1] / width
        if self.keep_aspect:
            down = across = across if abs(1 - across) < abs(1 - down) else down
        rows, columns = (max(1, round(side / self.multiple)) * self.multiple for side in (down * height, across * width))
        return min(rows, MOST_SIDE), min(columns, MOST_SIDE)


@dataclass(frozen=True)
class NetworkDepth:
    """A depth prior from a folder that ``save_pretrained`` wrote: config.json, preprocessor_config.json, ``*.safetensors``.

    Raises:
        UserError: no such folder, another network, or weights that are not those of its configuration.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise UserError(
                f"--depth-prior: {self.folder}: no such folder; give one of a Depth Anything V2 or Depth Pro model of transformers"
            )
        kind = read_config(self.folder).get("model_type")
        if kind not in NETWORKS:
            raise UserError(f"{self.folder / 'config.json'}: model_type is {kind!r:.60}; depth priors are {' and '.join(NETWORKS)}")
        for name, value in read_config(self.folder).items():
            if isinstance(value, dict) and value.get("model_type", ENCODER) != ENCODER:
                raise UserError(
                    f"{self.folder / 'config.json'}: {name}.model_type is {value['model_type']!r:.60}; it is {ENCODER} in {kind}"
                )
        check_weights(self.folder, self._outline())
        Preprocessing.read(self.folder, antialias=True)

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.resolve().name

    @property
    def fingerprint(self) -> str:
        """Of weights and settings."""
        settings = b"".join((self.folder / f"{each}config.json").read_bytes() for each in ("", "preprocessor_"))
        return fingerprint(self.folder) + hashlib.sha256(settings).hexdigest()

    @torch.inference_mode()
    def look(self, clip: Clip) -> RelativeDepth:
        """Run the network on every frame; it is gone from memory afterwards.

        Raises:
            UserError: weights that are missing or left over, too little memory, or a network that sees nothing.
        """
        kind, needed = read_config(self.folder)["model_type"], 4 * ROOM * sum(each.numel() for each in self._outline().parameters())
        if needed > (free := psutil.virtual_memory().available):
            raise UserError(
                f"{self.folder}: needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: use a smaller model"
            )
        model = self._whole()
        preprocessing = Preprocessing.read(self.folder, antialias=kind == "depth_anything")
        metric = kind == "depth_anything" and model.config.depth_estimation_type == "metric"
        scale = min(1.0, KEPT_SIDE / min(clip.size))
        size = round(clip.size[0] * scale), round(clip.size[1] * scale)
        maps = torch.empty(len(clip), *size)
        for index in progress(range(len(clip)), "depth prior", len(clip)):
            said = loaded(lambda: model(preprocessing(clip.frames[index])).predicted_depth, self.folder)  # noqa: B023
            maps[index] = interpolate(_disparity(said, metric=metric)[None], size=size, mode="bilinear", antialias=True)[0, 0].clamp(min=0)
        if not bool(maps.isfinite().all()) or float(maps.max()) <= 0:
            raise UserError(f"{self.folder}: its network sees nothing in this clip (no depth, or none that is finite)")
        return RelativeDepth(disparity=maps, shifted=kind == "depth_anything" and not metric)

    def _outline(self) -> torch.nn.Module:
        def build(config: dict[str, object]) -> object:
            settings, network = NETWORKS[str(config["model_type"])]
            return network(settings.from_dict(config))

        return outlined(self.folder, build)

    def _whole(self) -> PreTrainedModel:
        network = NETWORKS[str(read_config(self.folder)["model_type"])][1]
        load = lambda: network.from_pretrained(self.folder, use_safetensors=True, output_loading_info=True, **OFFLINE)  # noqa: E731
        model, report = loaded(load, self.folder)
        check_report(report, self.folder)
        return model.float().eval()


def _disparity(said: Float[Tensor, "1 h w"], *, metric: bool) -> Float32[Tensor, "1 h w"]:
    """Inverse depth from what a network calls depth, which is inverse depth already but where it is in metres; Depth Pro's is that of a
    lens as long as the picture is wide, which a scale makes up for."""
    return 1 / said.float().clamp(min=NEAREST_METRES) if metric else said.float()


def _three(path: Path, fields: dict[str, object], name: str) -> tuple[float, float, float]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(each, int | float) and abs(each) < 1e3 for each in value):
        raise UserError(f"{path}: {name}: expected three numbers, got {value!r:.60}")
    return float(value[0]), float(value[1]), float(value[2])
