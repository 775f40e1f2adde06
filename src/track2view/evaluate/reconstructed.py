"""The cameras of a clip of anything, by structure from motion: SIFT and pycolmap's global mapper (GLOMAP), as the paper measures them.

From some 240 lines up. Poses are of one world, whose place, turn and scale nobody knows: compare them with
:func:`track2view.metrics.redirect_errors`. A camera that stands or only turns has no baseline, and is not found.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import pycolmap
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from track2view.errors import UserError
from track2view.evaluate.found import FAR_DEGREES, FoundCameras
from track2view.geometry import invert, rotation_angle
from track2view.metrics.cameras import RedirectErrors, redirect_errors
from track2view.records import CameraPath

OVERLAP = 10
"""A frame is matched with so many that follow it, and as many further on, each twice as far as the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructedErrors:
    """How far reconstructed cameras are from the commanded ones.

    Attributes:
        registered: share of the frames that were reconstructed.
        auc: area under the share of frames whose rotation, in terms of the first registered frame, is within 0 … 5°; what is not
            registered is never within. 0 where fewer than two frames are.
        errors: of the registered frames; None where fewer than two are.
    """

    registered: float
    auc: float
    errors: RedirectErrors | None


def reconstruct_cameras(frames: UInt8[Tensor, "T 3 H W"], intrinsics: Float64[Tensor, "3 3"]) -> FoundCameras:
    """The cameras of a clip, of the frames that the largest reconstruction has.

    Args:
        intrinsics: of all frames; they are believed.

    Raises:
        UserError: fewer than three frames.
    """
    if len(frames) < 3:
        raise UserError(f"a reconstruction needs three frames, the clip has {len(frames)}")
    with _quiet(), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images, database = folder / "images", folder / "database.db"
        images.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(images / f"{number:05d}.png"), frame.permute(1, 2, 0).flip(-1).contiguous().numpy())
        extraction, matching, verification, mapping = _options()
        focal = (intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2])
        pycolmap.extract_features(
            database,
            images,
            camera_mode=pycolmap.CameraMode.SINGLE,
            extraction_options=extraction,
            reader_options=pycolmap.ImageReaderOptions(camera_model="PINHOLE", camera_params=", ".join(f"{each:.9g}" for each in focal)),
            device=pycolmap.Device.cpu,
        )
        pycolmap.match_sequential(
            database,
            matching_options=matching,
            pairing_options=pycolmap.SequentialPairingOptions(overlap=OVERLAP),
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        found = pycolmap.global_mapping(database, images, folder / "models", options=mapping)
        largest = max(found.values(), key=lambda model: model.num_reg_images(), default=None)
    poses, registered = torch.eye(4, dtype=torch.float64).repeat(len(frames), 1, 1), torch.zeros(len(frames), dtype=torch.bool)
    for image in [] if largest is None else map(largest.image, largest.reg_image_ids()):
        number = int(Path(image.name).stem)
        poses[number, :3] = torch.from_numpy(image.cam_from_world().inverse().matrix())
        registered[number] = True
    return FoundCameras(frames=tuple(range(len(frames))), world_from_camera=poses, converged=registered)


def reconstructed_errors(found: FoundCameras, commanded: CameraPath) -> ReconstructedErrors:
    """Compare cameras of an unknown world with the commanded ones, each in terms of its own first registered frame."""
    chosen = found.converged
    share = float(chosen.float().mean())
    if int(chosen.sum()) < 2:
        return ReconstructedErrors(registered=share, auc=0.0, errors=None)
    own, asked = found.world_from_camera[chosen], commanded.world_from_camera[list(found.frames)][chosen]
    turned, wanted = (invert(each[:1]) @ each for each in (own, asked))
    near = (1 - rotation_angle(turned[:, :3, :3].mT @ wanted[:, :3, :3]) / FAR_DEGREES).clamp(min=0)
    return ReconstructedErrors(registered=share, auc=float(near.sum() / len(chosen)), errors=redirect_errors(own, asked))


def reconstructed_values(found: FoundCameras, commanded: CameraPath) -> dict[str, float]:
    """The same by the names that tables have; NaN where there is no such number."""
    errors = reconstructed_errors(found, commanded)
    numbers = {} if errors.errors is None else asdict(errors.errors)
    own = {f"reconstructed_{name}": math.nan if (value := numbers.get(name)) is None else value for name in RedirectErrors.__slots__}
    return {"registered": errors.registered, "reconstructed_auc": errors.auc, **own}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pycolmap's log of every step."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _options() -> tuple[
    pycolmap.FeatureExtractionOptions, pycolmap.FeatureMatchingOptions, pycolmap.TwoViewGeometryOptions, pycolmap.GlobalPipelineOptions
]:
    """Of extraction, matching, verification and mapping, for the same answer every time: seeds alone do not make two runs alike,
    since several threads number images and add up sums in any order."""
    extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
    verification, mapping = pycolmap.TwoViewGeometryOptions(), pycolmap.GlobalPipelineOptions()
    mapper = mapping.mapper
    for part in (extraction, matching, mapping, mapper, mapper.bundle_adjustment.ceres.solver_options):
        part.num_threads = 1
    for part in (verification.ransac, mapping, mapper, mapper.rotation_averaging, mapper.global_positioning, mapper.retriangulation):
        part.random_seed = 0
    mapper.bundle_adjustment.refine_focal_length = False
    mapper.bundle_adjustment.refine_extra_params = False
    return extraction, matching, verification, mapping
