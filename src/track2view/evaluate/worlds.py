"""The benchmark of procedural worlds: every view is known exactly, and so are the methods that need that."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from track2view.errors import UserError, check_positive
from track2view.evaluate.benchmark import Case, Frames, Given, Made, Measure, Method, Scores
from track2view.evaluate.followed import follow_errors
from track2view.evaluate.found import FoundCameras, camera_errors
from track2view.evaluate.matched import match_cameras
from track2view.evaluate.procedural import LATENT_STRIDE, Pair, PairTruth, copy_of_source, exact_warp, score_clip, true_pair
from track2view.evaluate.reconstructed import reconstruct_cameras, reconstructed_values
from track2view.generation import as_trained, rendered
from track2view.metrics import flicker, psnr
from track2view.model.diffusion import Track2ViewPipeline
from track2view.pipeline import prepare, refilm
from track2view.records import CameraPath, Clip, Size
from track2view.scenes import Content, make_rig, track_points
from track2view.scenes.rig import CAMERAS, FPS, split_seed
from track2view.warp import exact_renderer

WORLDS = 200
"""Of each kind in the whole benchmark: as many static as dynamic ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldCase(Case):
    """A world, the source camera and the one that is asked for."""

    pair: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Worlds:
    """Procedural worlds with exact truth: the first so many of each kind, of the split that no training sees.

    Attributes:
        static, dynamic: how many worlds in which nothing moves, and in which things do.
        frames, size: of every clip.
        content: what is in the worlds.
    """

    static: int = WORLDS
    dynamic: int = WORLDS
    frames: int = 17
    size: Size = (64, 112)
    content: Content = "solids"

    def __post_init__(self) -> None:
        check_positive(frames=self.frames, height=self.size[0], width=self.size[1])
        for name in ("static", "dynamic"):
            if not 0 <= getattr(self, name) <= WORLDS:
                raise UserError(f"{name}: the benchmark has {WORLDS} such worlds, got {getattr(self, name)!r:.60}")
        if not self.static + self.dynamic:
            raise UserError("static, dynamic: expected one world at least, got none of either")

    @property
    def identity(self) -> Mapping[str, object]:
        """A run may grow in worlds, not change in these."""
        return {"worlds": self.content, "frames": self.frames, "size": list(self.size)}

    @property
    def title(self) -> str:
        """How many of each kind."""
        return f"{self.static} static and {self.dynamic} dynamic worlds"

    @property
    def explained(self) -> str:
        """What is measured, and how."""
        return (
            f"{self.frames} frames of {self.size[0]}×{self.size[1]}, exact truth, test split ({self.content}). "
            "Cameras are found by rendering the known world; “found” is the share of frames in which one could be, and errors are means "
            "over these; AUC counts the others as failed. Of pictures too blurred for that, “roughly” takes cameras that are told to "
            "within a degree. The row of the truth is the floor of each measure. “Seen” are pixels whose place the source shows at the "
            "same time. “Tracks kept” are points of the first frame that are where they truly are, when they are followed by optical flow: "
            "the mean share within 1, 2, 4, 8 and 16 pixels, at a short side of 256."
        )

    @property
    def cases(self) -> tuple[WorldCase, ...]:
        """In order; those of a smaller benchmark are among those of a larger one, whatever their size."""
        numbered = [(False, index) for index in range(self.static)] + [(True, WORLDS + index) for index in range(self.dynamic)]
        return tuple(_case(split_seed("test", index), dynamic, index, self.content) for dynamic, index in numbered)

    def given(self, case: WorldCase) -> Given[PairTruth]:
        """Both views, rendered."""
        truth = true_pair(case.pair, frames=self.frames, size=self.size)
        return Given(
            source=truth.source.colour,
            exact=truth.target.colour,
            fps=Fraction(FPS),
            caption=truth.world.caption,
            parallax=_parallax(truth),
            known=truth,
        )

    def score(self, given: Given[PairTruth], made: Frames) -> Scores:
        """Pictures by what the source shows of them, cameras by rendering, followed points, and flicker that the exact view has not."""
        truth = given.known
        score = score_clip(truth, made)
        alike = [psnr(*each) for each in zip(made, truth.target.colour, truth.seen, strict=True)]
        return Scores(
            values={
                **score.values,
                **follow_errors(truth.world, made, truth.target_camera),
                "seen": score.seen.share,
                "flicker": flicker(made, truth.target.colour),
            },
            by_frame={"rotation": score.rotation_by_frame, "psnr": alike},
        )


def matched(made: Frames, given: Given[PairTruth]) -> dict[str, float]:
    """Camera errors by PnP on the known world, in the same frames as by rendering."""
    truth = given.known
    at = list(range(LATENT_STRIDE, len(made), LATENT_STRIDE))
    found: FoundCameras = match_cameras(truth.world, made, truth.target_camera, at, source=truth.source_camera)
    errors = camera_errors(found, truth.target_camera)
    return {
        "matched": errors.converged,
        "matched_rotation": errors.rotation,
        "matched_translation": errors.translation,
        "matched_auc": errors.auc,
    }


def reconstructed(made: Frames, given: Given[PairTruth]) -> dict[str, float]:
    """Camera errors by a global reconstruction of the clip alone, as the paper measures them."""
    asked = given.known.target_camera
    return reconstructed_values(reconstruct_cameras(made, asked.intrinsics[0]), asked)


CAMERA_MEASURES: Mapping[str, Measure[PairTruth]] = {"matching": matched, "reconstruction": reconstructed}
"""Beside render and compare, at sizes at which they work."""


def shown_truly(case: WorldCase, given: Given[PairTruth]) -> Made:
    """The exact view: what is measured of it is the floor of each measure."""
    return Made(frames=given.known.target.colour)


def copied(case: WorldCase, given: Given[PairTruth]) -> Made:
    """The source as it is: the control that ignores the camera."""
    return Made(frames=copy_of_source(given.known))


def warped_exactly(case: WorldCase, given: Given[PairTruth]) -> Made:
    """The weight-free renderer with exact depth."""
    return Made(frames=exact_warp(given.known))


def warped_as_tracked(case: WorldCase, given: Given[PairTruth]) -> Made:
    """The weight-free renderer with depth by our tracker; the source camera is given, so that both paths are in one world."""
    truth = given.known
    shot = prepare(_source(truth), source_camera=truth.source_camera, use_cache=False)
    return Made(frames=torch.stack([frame.colour for frame in refilm(shot, truth.target_camera)]))


def warped_elsewhere(case: WorldCase, given: Given[PairTruth]) -> Made:
    """The weight-free renderer with exact depth along another camera of the rig: the control that follows the wrong one."""
    truth = given.known
    renderer = exact_renderer(truth.world, truth.source_camera, truth.source)
    return Made(frames=rendered(renderer, _elsewhere(truth)).colour)


METHODS: Mapping[str, Method[WorldCase, PairTruth]] = {
    "truth": shown_truly,
    "copy": copied,
    "shuffled-camera": warped_elsewhere,
    "warp-tracked": warped_as_tracked,
    "warp-exact": warped_exactly,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ByModel:
    """A model, given the world's caption, exact tracks, exact depth where it reads a rendered view, and both cameras.

    Attributes:
        misled: asked for another camera of the rig: the control that tells whether it follows any.
        seed: of its noise.
    """

    pipe: Track2ViewPipeline
    misled: bool = False
    seed: int = 0

    def __call__(self, case: WorldCase, given: Given[PairTruth]) -> Made:
        """The clip, in as many steps and as strongly guided as the adapter asks for."""
        truth, camera = given.known, given.known.source_camera
        settings = as_trained(self.pipe, prompt=given.caption, seed=self.seed)
        queries = self.pipe.queries(len(camera), settings)
        tracks = track_points(truth.world, camera, queries.frame, queries.pixels(camera.size))
        target = _elsewhere(truth) if self.misled else truth.target_camera
        guide = None
        if self.pipe.model.conditioner.reads_rendered:
            guide = rendered(exact_renderer(truth.world, camera, truth.source), target)
        return Made(frames=self.pipe(_source(truth), tracks, camera, target, settings, rendered=guide).frames)


def _case(seed: int, dynamic: bool, index: int, content: Content) -> WorldCase:
    source, target = (f"cam{number + 1:02d}" for number in np.random.default_rng(seed).choice(CAMERAS, 2, replace=False))
    pair = Pair(seed=seed, source=source, target=target, dynamic=dynamic, content=content)
    group = "dynamic" if dynamic else "static"
    return WorldCase(name=f"{group}-{index:03d}-{source}-{target}", group=group, source=source, target=target, pair=pair)


def _parallax(truth: PairTruth) -> float:
    source, target = truth.source_camera.world_from_camera, truth.target_camera.world_from_camera
    apart = (source[:, :3, 3] - target[:, :3, 3]).norm(dim=1)
    depth = truth.source.depth.flatten(1).double().quantile(0.5, dim=1)
    return float((apart / depth).atan().rad2deg().mean())


def _source(truth: PairTruth) -> Clip:
    return Clip(frames=truth.source.colour, fps=Fraction(FPS))


def _elsewhere(truth: PairTruth) -> CameraPath:
    """The path of the rig's next camera, neither the source's nor the one that is asked for."""
    pair = truth.pair
    rig = make_rig(pair.seed, frames=len(truth.target_camera), size=truth.target_camera.size)
    names = list(rig)
    following = names[names.index(pair.target) + 1 :] + names
    return rig[next(name for name in following if name not in (pair.source, pair.target))]
