"""How well estimators find cameras: slope, floors, basin, pictures of something else; prints Markdown (docs/benchmarks.md records it).

    python benchmarks/cameras.py rendering                 all parts, at 64×112
    python benchmarks/cameras.py matching slope floors     parts: slope, floors, basin, others (rendering: pairs, too), at 128×224
    python benchmarks/cameras.py matching-large            the same, at 240×416
    python benchmarks/cameras.py reconstruction            floors alone, at 480×832

17 frames of 8 worlds of the validation split, each seen by the pair of cameras that its seed draws; cameras of four frames (all, of a
reconstruction). No constant was chosen on these worlds. "Converged" is what the estimator says; all else is of frames that did.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from scipy.spatial.transform import RigidTransform
from torch import Tensor

from track2view.evaluate import (
    FoundCameras,
    Pair,
    PairScore,
    PairTruth,
    copy_of_source,
    estimate_cameras,
    exact_warp,
    match_cameras,
    reconstruct_cameras,
    reconstructed_errors,
    score_clip,
    score_many,
    true_pair,
)
from track2view.metrics.paths import path_length, pose_errors
from track2view.records import CameraPath, Size
from track2view.scenes import make_rig, make_training_world, render_path, split_seed

FRAMES = 17
AT = [4, 8, 12, 16]
WORLDS = range(8)
DEGREES, CENTIMETRES = (0.1, 0.5, 2.0, 4.0), (1.0, 5.0, 20.0)
BASIN = (4.0, 8.0, 12.0, 16.0, 20.0)
NOISE, QUALITY = 10.0, 50


@dataclass(frozen=True)
class Setting:
    """An estimator, at a size."""

    estimate: Callable[..., FoundCameras]
    size: Size


SETTINGS = {
    "rendering": Setting(estimate_cameras, (64, 112)),
    "matching": Setting(match_cameras, (128, 224)),
    "matching-large": Setting(match_cameras, (240, 416)),
}
RECONSTRUCTED_SIZE = (480, 832)


def main() -> None:
    kind, *chosen = sys.argv[1:]
    if kind == "reconstruction":
        reconstructed_floors()
        return
    parts = {"slope": slope, "slope-degraded": slope_degraded, "floors": floors, "basin": basin, "others": others}
    if kind == "rendering":
        parts["pairs"] = pairs
    for name in chosen or parts:
        parts[name](SETTINGS[kind])
        print(flush=True)


def slope(setting: Setting, degrade: Callable[[Tensor], Tensor] = lambda clip: clip) -> None:
    """What is found of an injected offset, along it."""
    print("| injected | found | standard deviation | converged |\n|---|---|---|---|")
    for unit, injected in (("°", DEGREES), ("cm", CENTIMETRES)):
        pairs_of = []
        for size in injected:
            found, converged = [], []
            for random, truth in truths(setting.size):
                offset = offset_of(random, size, unit)
                clip = render_path(truth.world, moved(truth.target_camera, offset)).colour
                fit = estimate(setting, truth, degrade(clip))
                seen = twists(truth.target_camera, fit) @ offset / offset.norm() * (math.degrees(1) if unit == "°" else 100)
                found += seen[fit.converged].tolist()
                converged += fit.converged.tolist()
            pairs_of += [(size, each) for each in found]
            print(f"| {size:g} {unit} | {np.mean(found):.3f} | {np.std(found):.3f} | {sum(converged)} of {len(converged)} |", flush=True)
        x, y = np.array(pairs_of).T
        print(f"| slope, {unit} | {x @ y / (x @ x):.4f} | | |")


def slope_degraded(setting: Setting) -> None:
    """The same of pictures that are blurred and compressed."""
    slope(setting, lambda clip: each_image(clip, lambda image: compressed(cv2.GaussianBlur(image, (0, 0), 1.0))))


def floors(setting: Setting) -> None:
    """Errors where the clip is of the commanded camera."""
    kinds: dict[str, Callable[[PairTruth, np.random.Generator], Tensor]] = {
        "true": lambda truth, _: truth.target.colour,
        "blurred, σ 1 px": lambda truth, _: each_image(truth.target.colour, lambda image: cv2.GaussianBlur(image, (0, 0), 1.0)),
        "blurred, σ 3 px": lambda truth, _: each_image(truth.target.colour, lambda image: cv2.GaussianBlur(image, (0, 0), 3.0)),
        f"JPEG, quality {QUALITY}": lambda truth, _: each_image(truth.target.colour, compressed),
        f"noise, σ {NOISE:g} of 255": lambda truth, random: each_image(
            truth.target.colour, lambda image: np.clip(image + random.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        ),
        "warp with exact depth": lambda truth, _: exact_warp(truth),
    }
    print("| clip | rotation °: median, 95 %, worst | translation cm | converged |\n|---|---|---|---|")
    for name, clip_of in kinds.items():
        fits = [(truth, estimate(setting, truth, clip_of(truth, random))) for random, truth in truths(setting.size)]
        rotation, centimetres = gathered([(truth.target_camera, fit) for truth, fit in fits])
        print(f"| {name} | {spread(rotation, 3)} | {spread(centimetres, 2)} | {share(fits)} |", flush=True)


def basin(setting: Setting) -> None:
    """Clips of cameras turned away from the commanded one about any axis."""
    print("| turned by | converged | worst error of these, ° | error of the others, ° |\n|---|---|---|---|")
    for degrees in BASIN:
        fits = []
        for random, truth in truths(setting.size):
            camera = moved(truth.target_camera, offset_of(random, degrees, "°"))
            fits.append((camera, estimate(setting, truth, render_path(truth.world, camera).colour)))
        rotation, _ = gathered(fits)
        lost, _ = gathered([(camera, replace(fit, converged=~fit.converged)) for camera, fit in fits])
        print(f"| {degrees:g}° | {share(fits)} | {max(rotation, default=math.nan):.3f} | {spread(lost, 1)} |", flush=True)


def others(setting: Setting) -> None:
    """Clips that are not of the commanded camera at all."""
    print(
        "| clip | truly apart ° | converged | those: found from where it truly is, ° | found from the commanded, ° |\n|---|---|---|---|---|"
    )
    copies, strangers, apart = [], [], []
    for _, truth in truths(setting.size):
        fit = estimate(setting, truth, copy_of_source(truth))
        copies.append((truth, fit))
        between, _ = pose_errors(truth.source_camera.world_from_camera[AT], truth.target_camera.world_from_camera[AT])
        apart += between.tolist()
        seed = truth.pair.seed + 500
        other = true_pair(replace(truth.pair, seed=seed), frames=FRAMES, size=setting.size).target.colour
        strangers.append((truth, estimate(setting, truth, other)))
    wrong, commanded = gathered([(truth.source_camera, fit) for truth, fit in copies])[0], gathered_from_commanded(copies)
    print(f"| the source's | {spread(apart, 1)} | {share(copies)} | {spread(wrong, 3)} | {spread(commanded, 1)} |")
    print(f"| another world's | – | {share(strangers)} | – | {spread(gathered_from_commanded(strangers), 1)} |")


def pairs(setting: Setting) -> None:
    """Scores of the controls, and how long they take."""
    scores: dict[str, list[PairScore]] = {"warp with exact depth": [], "copy of the source": []}
    seconds: dict[str, float] = dict.fromkeys(("truth", *scores), 0.0)
    for index in WORLDS:
        started = time.process_time()
        truth = truth_of(index, setting.size)
        seconds["truth"] += time.process_time() - started
        for name, clip_of in zip(scores, (exact_warp, copy_of_source), strict=True):
            started = time.process_time()
            scores[name].append(score_clip(truth, clip_of(truth)))
            seconds[name] += time.process_time() - started
    names = ("psnr", "psnr_seen", "psnr_disoccluded", "ssim_seen", "rotation", "translation", "converged", "auc")
    print(f"| clip | {' | '.join(names)} | CPU s a pair |\n|{'---|' * (len(names) + 2)}")
    for name, each in scores.items():
        means = score_many(each)
        cells = [f"{means[key].mean:.2f} ({means[key].low:.2f} … {means[key].high:.2f})" for key in names]
        print(f"| {name} | {' | '.join(cells)} | {seconds[name] / len(WORLDS):.1f} |")
    print(f"\nRendering the truth: {seconds['truth'] / len(WORLDS):.1f} CPU s a pair; {torch.get_num_threads()} threads.")


def reconstructed_floors() -> None:
    """Errors of reconstructions of true clips."""
    print("| world | registered | RotErr ° | TransErr, % of the path | CPU s |\n|---|---|---|---|---|")
    for index in WORLDS:
        pair = pair_of(index, dynamic=index % 2 == 1)
        world = make_training_world(pair.content, pair.seed, frames=FRAMES, dynamic=pair.dynamic)
        camera = make_rig(pair.seed, frames=FRAMES, size=RECONSTRUCTED_SIZE)[pair.target]
        clip, started = render_path(world, camera).colour, time.process_time()
        found = reconstructed_errors(reconstruct_cameras(clip, camera.intrinsics[0]), camera)
        seconds, way = time.process_time() - started, path_length(camera)
        errors = found.errors
        percent = "–" if errors is None or errors.translation is None else f"{100 * errors.translation / way:.2f}"
        kind = "dynamic" if pair.dynamic else "static"
        rotation = "–" if errors is None else f"{errors.rotation:.3f}"
        print(f"| {index}, {kind}, {pair.target} | {found.registered:.0%} | {rotation} | {percent} | {seconds:.0f} |", flush=True)


def truths(size: Size) -> Iterator[tuple[np.random.Generator, PairTruth]]:
    for index in WORLDS:
        yield np.random.default_rng(index), truth_of(index, size)


def truth_of(index: int, size: Size) -> PairTruth:
    return true_pair(pair_of(index), frames=FRAMES, size=size)


def pair_of(index: int, *, dynamic: bool = True) -> Pair:
    seed = split_seed("validation", index)
    source, target = (f"cam{number + 1:02d}" for number in np.random.default_rng([seed, 6]).permutation(10)[:2])
    return Pair(seed=seed, source=source, target=target, dynamic=dynamic)


def estimate(setting: Setting, truth: PairTruth, clip: UInt8[Tensor, "T 3 H W"]) -> FoundCameras:
    return setting.estimate(truth.world, clip, truth.target_camera, AT, source=truth.source_camera)


def offset_of(random: np.random.Generator, size: float, unit: str) -> Float64[Tensor, "6"]:
    """A rotation (size in degrees) or translation (in cm) about or along any axis, as exponential coordinates."""
    axis = random.normal(size=3)
    axis = torch.from_numpy(axis / np.linalg.norm(axis))
    none = torch.zeros(3, dtype=torch.float64)
    return torch.cat([axis * math.radians(size), none]) if unit == "°" else torch.cat([none, axis * size / 100])


def moved(camera: CameraPath, offset: Float64[Tensor, "6"]) -> CameraPath:
    """A camera displaced in its own axes."""
    step = torch.from_numpy(RigidTransform.from_exp_coords(offset.numpy()).as_matrix())
    return replace(camera, world_from_camera=camera.world_from_camera @ step)


def twists(camera: CameraPath, fit: FoundCameras) -> Float64[Tensor, "K 6"]:
    """Found offsets, as exponential coordinates in the commanded camera's axes."""
    between = camera.camera_from_world[AT] @ fit.world_from_camera
    return torch.from_numpy(RigidTransform.from_matrix(between.numpy()).as_exp_coords())


def gathered(fits: list[tuple[CameraPath, FoundCameras]]) -> tuple[list[float], list[float]]:
    """Degrees and centimetres from where the cameras truly are, of what converged."""
    degrees, centimetres = [], []
    for camera, fit in fits:
        rotation, translation = pose_errors(fit.world_from_camera, camera.world_from_camera[AT])
        degrees += rotation[fit.converged].tolist()
        centimetres += (100 * translation[fit.converged]).tolist()
    return degrees, centimetres


def gathered_from_commanded(fits: list[tuple[PairTruth, FoundCameras]]) -> list[float]:
    return gathered([(truth.target_camera, fit) for truth, fit in fits])[0]


def spread(values: list[float], digits: int) -> str:
    return ", ".join(f"{each:.{digits}f}" for each in np.percentile(values, [50, 95, 100])) if values else "–"


def share(fits: list) -> str:
    converged = torch.cat([fit.converged for _, fit in fits])
    return f"{int(converged.sum())} of {len(converged)}"


def each_image(clip: UInt8[Tensor, "T 3 H W"], change: Callable[[np.ndarray], np.ndarray]) -> UInt8[Tensor, "T 3 H W"]:
    images = [np.ascontiguousarray(change(np.ascontiguousarray(each.permute(1, 2, 0).numpy()))) for each in clip]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def compressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_COLOR)


if __name__ == "__main__":
    main()
