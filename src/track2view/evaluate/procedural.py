"""Re-filmed procedural clips against the exact truth: pictures, by what the source shows of them, and cameras.

Also the controls of every table (design section 10) as clips that are scored like any other: the copy of the source, and the warp
with exact depth. A pair is a world seen by two cameras of its rig; what is scored is a clip of the second one, made from the
first one's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from scipy.stats import bootstrap
from torch import Tensor

from track2view.errors import UserError
from track2view.evaluate.found import CameraErrors, camera_errors
from track2view.evaluate.render_compare import estimate_cameras
from track2view.metrics import psnr, ssim
from track2view.metrics.paths import pose_errors
from track2view.records import CameraPath, Size
from track2view.scenes import Content, RenderedViews, World, make_rig, make_training_world, render_path, shown_by
from track2view.warp import exact_renderer

LATENT_STRIDE = 4
RESAMPLES, CONFIDENCE = 9999, 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Which clips: the world's and rig's seed, the names of two of its cameras, "cam01" … "cam10", and what the world holds."""

    seed: int
    source: str
    target: str
    dynamic: bool = True
    content: Content = "solids"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTruth:
    """What a pair's cameras truly see.

    Attributes:
        seen: pixels of the target view that show what the source view shows at the same time; the others are disoccluded.
    """

    pair: Pair
    world: World
    source_camera: CameraPath
    target_camera: CameraPath
    source: RenderedViews
    target: RenderedViews
    seen: Bool[Tensor, "T H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """Likeness to the truth on some pixels of all frames; NaN where there are none.

    Attributes:
        share: of all pixels.
        psnr: of the mean squared error over all these, in dB.
        ssim: mean over all these.
    """

    share: float
    psnr: float
    ssim: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScore:
    """A clip of a pair's target camera against the truth, its first frame, which both cameras share, included.

    Attributes:
        camera: of frames whose camera is found.
        rough: of those, too, that are so blurred that it is found to within a degree alone.
        rotation_by_frame: degrees, of those; NaN for the others and for frames whose camera was not asked for.
    """

    pair: Pair
    everywhere: Fidelity
    seen: Fidelity
    disoccluded: Fidelity
    camera: CameraErrors
    rough: CameraErrors
    rotation_by_frame: tuple[float, ...]

    @property
    def values(self) -> dict[str, float]:
        """All numbers by name."""
        regions = {"": self.everywhere, "_seen": self.seen, "_disoccluded": self.disoccluded}
        pictures = {f"{name}{region}": getattr(each, name) for region, each in regions.items() for name in ("psnr", "ssim")}
        camera = {name: getattr(self.camera, name) for name in CameraErrors.__slots__}
        return {**pictures, **camera, **{f"rough_{name}": getattr(self.rough, name) for name in CameraErrors.__slots__}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over pairs, with its bootstrap interval; NaN where it has none.

    Attributes:
        low, high: the middle 95 % of the means of pairs drawn anew.
        pairs: how many had the number: in the others no camera converged, the path has no length, or no pixel is of the kind.
    """

    mean: float
    low: float
    high: float
    pairs: int


def true_pair(pair: Pair, *, frames: int, size: Size) -> PairTruth:
    """Render what both cameras see.

    Raises:
        UserError: a camera that the rig does not have.
    """
    world = make_training_world(pair.content, pair.seed, frames=frames, dynamic=pair.dynamic)
    rig = make_rig(pair.seed, frames=frames, size=size)
    for name in (pair.source, pair.target):
        if name not in rig:
            raise UserError(f"no camera {name!r} in the rig; it has {', '.join(rig)}")
    source_camera, target_camera = rig[pair.source], rig[pair.target]
    source, target = render_path(world, source_camera), render_path(world, target_camera)
    seen = [shown_by(world, source_camera, frame, target_camera, target.depth[frame]) for frame in range(frames)]
    return PairTruth(
        pair=pair,
        world=world,
        source_camera=source_camera,
        target_camera=target_camera,
        source=source,
        target=target,
        seen=torch.stack(seen),
    )


def copy_of_source(truth: PairTruth) -> UInt8[Tensor, "T 3 H W"]:
    """The control that ignores the commanded camera."""
    return truth.source.colour


def exact_warp(truth: PairTruth) -> UInt8[Tensor, "T 3 H W"]:
    """The control that knows all depth: the weight-free renderer on the source clip, its holes filled in its own way."""
    renderer = exact_renderer(truth.world, truth.source_camera, truth.source)
    return torch.stack([renderer.render(truth.target_camera, frame).colour for frame in range(len(truth.target_camera))])


def score_clip(truth: PairTruth, clip: UInt8[Tensor, "T 3 H W"]) -> PairScore:
    """Score a clip of the target camera; cameras at the frames that end the latent frames of a VAE of stride 4 (4, 8, …).

    Raises:
        UserError: another shape than the truth's.
    """
    if clip.shape != truth.target.colour.shape:
        raise UserError(f"the clip is {list(clip.shape)}, the truth {list(truth.target.colour.shape)}; make both of one size and length")
    at = list(range(LATENT_STRIDE, len(clip), LATENT_STRIDE))
    fit = estimate_cameras(truth.world, clip, truth.target_camera, at, source=truth.source_camera)
    turned, _ = pose_errors(fit.world_from_camera, truth.target_camera.world_from_camera[at])
    by_frame = torch.full((len(clip),), math.nan, dtype=torch.float64)
    by_frame[at] = torch.where(fit.roughly, turned, math.nan)
    return PairScore(
        pair=truth.pair,
        everywhere=_fidelity(clip, truth.target.colour, torch.ones_like(truth.seen)),
        seen=_fidelity(clip, truth.target.colour, truth.seen),
        disoccluded=_fidelity(clip, truth.target.colour, ~truth.seen),
        camera=camera_errors(fit, truth.target_camera),
        rough=camera_errors(replace(fit, converged=fit.roughly), truth.target_camera),
        rotation_by_frame=tuple(by_frame.tolist()),
    )


def score_many(scores: Sequence[PairScore]) -> dict[str, Interval]:
    """Each number's mean over pairs."""
    return {name: interval([each.values[name] for each in scores]) for name in scores[0].values}


def compare_many(scores: Sequence[PairScore], others: Sequence[PairScore]) -> dict[str, Interval]:
    """Each number's mean difference, ``scores`` minus ``others``, of the same pairs.

    Raises:
        UserError: not the same pairs in the same order.
    """
    if [each.pair for each in scores] != [each.pair for each in others]:
        raise UserError("scores to compare: expected the same pairs in the same order")
    return {
        name: interval([one.values[name] - other.values[name] for one, other in zip(scores, others, strict=True)])
        for name in scores[0].values
    }


def _fidelity(clip: UInt8[Tensor, "T 3 H W"], truth: UInt8[Tensor, "T 3 H W"], chosen: Bool[Tensor, "T H W"]) -> Fidelity:
    counts = chosen.sum((1, 2)).tolist()
    alike = [ssim(clip[frame], truth[frame], chosen[frame]) * count for frame, count in enumerate(counts) if count]
    return Fidelity(
        share=sum(counts) / chosen.numel(),
        psnr=psnr(clip, truth, chosen),
        ssim=sum(alike) / sum(counts) if alike else math.nan,
    )


def interval(values: Sequence[float]) -> Interval:
    """Mean and percentile bootstrap (9,999 draws, seed 0) of the values that are no NaN."""
    known = np.array([each for each in values if not math.isnan(each)])
    if len(known) < 2 or not np.isfinite(known).all():
        return Interval(mean=float(known.mean()) if len(known) else math.nan, low=math.nan, high=math.nan, pairs=len(known))
    drawn = bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    )
    low, high = drawn.confidence_interval
    return Interval(mean=float(known.mean()), low=float(low), high=float(high), pairs=len(known))
