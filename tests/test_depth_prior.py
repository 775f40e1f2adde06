"""Depth priors: alignment and weights on exact planes, real networks of random weights, and whole clips with exact depth misused."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TrueShot
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DepthProConfig, DepthProForDepthEstimation
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from track2view import cache, cli
from track2view.errors import UserError
from track2view.geometry import invert, rigid, rotation_about, unproject
from track2view.model.depth import NetworkDepth, Preprocessing
from track2view.pipeline import Shot, prepare
from track2view.records import CameraPath, Clip, Queries, TrackSet, ViewTracks, horizontal_fov
from track2view.scenes import make_camera, make_world, render_clip
from track2view.trackers import SfmTracker, Tracking, TrackingReport
from track2view.trackers.certainty import CONFIDENT
from track2view.trackers.informed import inform
from track2view.trackers.protocol import guessed_depth
from track2view.trackers.relative_depth import FARTHEST_SHARE, RelativeDepth, align

SIZE, FRAMES, FOCAL = (60, 100), 6, 90.0
SURE, UNSURE = 1e-3, 1e4


def a_camera(turn: float = 0.0, travel: float = 0.0) -> CameraPath:
    """Turns by so many degrees and travels sideways by so much over its frames."""
    share = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    poses = rigid(rotation_about("y", turn * share), travel * share[:, None] * torch.tensor([1.0, 0, 0], dtype=torch.float64))
    matrix = torch.tensor([[FOCAL, 0, 50], [0, FOCAL, 30], [0, 0, 1]], dtype=torch.float64)
    return CameraPath(world_from_camera=poses, intrinsics=matrix.repeat(FRAMES, 1, 1), size=SIZE, unit="metre")


def true_disparity(camera: CameraPath, uv: Float64[Tensor, "T n 2"]) -> Float64[Tensor, "T n"]:
    """Of two walls that meet in a corner 4 metres away: of each pixel that of the nearer."""
    pixels = uv * torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float64)
    rays = (torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(camera.intrinsics).mT) @ camera.world_from_camera[
        :, :3, :3
    ].mT
    walls = [torch.tensor([side, 0.3, 1.0], dtype=torch.float64) for side in (0.9, -0.5)]
    room = [4 - camera.world_from_camera[:, None, :3, 3] @ wall for wall in walls]
    return torch.maximum(*((rays @ wall) / left for wall, left in zip(walls, room, strict=True))).clamp(min=0.02)


def exact(camera: CameraPath) -> Float64[Tensor, "T h w"]:
    """The disparity of every pixel of every frame."""
    v, u = torch.meshgrid((torch.arange(60) + 0.5) / 60, (torch.arange(100) + 0.5) / 100, indexing="ij")
    uv = torch.stack([u, v], -1).reshape(-1, 2).double().expand(FRAMES, -1, -1)
    return true_disparity(camera, uv).reshape(FRAMES, *SIZE)


def tracks_of(camera: CameraPath, *, flat: bool = False, count: int = 300) -> TrackSet:
    """Still points that start in the first frame and in the last, where they are or, as without parallax, all two metres away."""
    uv = torch.from_numpy(np.random.default_rng(0).uniform(0.02, 0.98, (count, 2)))
    query = torch.tensor([0, FRAMES - 1]).repeat(count // 2)
    disparity = true_disparity(camera, uv.expand(FRAMES, -1, -1))[query, torch.arange(count)]
    depth = torch.full_like(disparity, 2.0) if flat else 1 / disparity
    xyz = torch.stack(
        [
            unproject(uv[[each]] * torch.tensor([100.0, 60.0]), depth[[each]], camera.world_from_camera[frame], camera.intrinsics[frame])[0]
            for each, frame in enumerate(query.tolist())
        ]
    )
    seen = torch.ones(FRAMES, count, dtype=torch.bool)
    return TrackSet(
        xyz_world=xyz.float().expand(FRAMES, -1, -1).clone(),
        visible=seen,
        confidence=seen.float() * 0.5,
        query_frame=query,
        moving=torch.zeros(count, dtype=torch.bool),
    )


def said_of(disparity: Float64[Tensor, "T h w"], seed: int, *, shifted: bool) -> RelativeDepth:
    """What a network would say: every frame in a scale, and of another zero, of its own."""
    random = np.random.default_rng(seed)
    scale = torch.from_numpy(random.uniform(0.2, 5.0, len(disparity)) * 10.0 ** random.uniform(-3, 3))[:, None, None]
    shift = torch.from_numpy(random.uniform(-0.9, 3.0, len(disparity)))[:, None, None] * disparity.amin((1, 2), keepdim=True)
    return RelativeDepth(disparity=(scale * (disparity + shift * shifted)).float(), shifted=shifted)


def off(aligned, truth: Float64[Tensor, "T h w"]) -> Float64[np.ndarray, "T p"]:
    """Logarithm of aligned over true disparity, on a grid."""
    v, u = np.meshgrid((np.arange(2, 60, 5) + 0.5) / 60, (np.arange(2, 100, 5) + 0.5) / 100, indexing="ij")
    uv = np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)
    found = np.stack([aligned.at(frame, uv) for frame in range(FRAMES)])
    return np.log(found / truth[:, 2::5, 2::5].flatten(1).numpy())


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), shifted=st.booleans(), turn=st.sampled_from([0.0, 12.0]), travel=st.sampled_from([0.0, 0.4]))
def test_sure_tracks_give_every_frame_its_scale_and_shift(seed: int, *, shifted: bool, turn: float, travel: float) -> None:
    camera = a_camera(turn, travel)
    truth = exact(camera)
    aligned = align(said_of(truth, seed, shifted=shifted), tracks_of(camera), camera, np.full(300, SURE))
    assert np.abs(off(aligned, truth)).max() < 0.02
    assert aligned.deviation < 0.06
    assert aligned.relief_deviation < 0.05


def test_wild_tracks_spoil_nothing() -> None:
    camera = a_camera(travel=0.4)
    truth, tracks = exact(camera), tracks_of(camera)
    wild = torch.arange(300) % 4 == 0
    spoiled = torch.where(wild[:, None], tracks.xyz_world * torch.linspace(0.02, 3.0, 300)[:, None], tracks.xyz_world)
    aligned = align(said_of(truth, 1, shifted=True), replace(tracks, xyz_world=spoiled), camera, np.full(300, SURE))
    assert np.median(np.abs(off(aligned, truth))) < 0.02


@pytest.mark.parametrize("turn", [0.0, 12.0])
def test_without_parallax_scale_is_kept_and_shape_is_the_networks(turn: float) -> None:
    camera = a_camera(turn)
    truth = exact(camera)
    aligned = align(said_of(truth, 2, shifted=False), tracks_of(camera, flat=True), camera, np.full(300, UNSURE))
    apart = off(aligned, truth)
    assert np.ptp(apart) < 0.02, "one scale for all frames"
    at_tracks = np.concatenate([aligned.at(0, np.random.default_rng(0).uniform(0.02, 0.98, (300, 2)).astype(np.float32)[::2])])
    assert np.median(at_tracks) == pytest.approx(0.5, rel=0.1), "what was typical stays"
    assert aligned.deviation == pytest.approx(0.1)


def test_without_parallax_an_unknown_zero_is_where_the_farthest_is_far() -> None:
    camera = a_camera()
    truth = exact(camera)
    aligned = align(said_of(truth, 3, shifted=True), tracks_of(camera, flat=True), camera, np.full(300, UNSURE))
    found = np.exp(off(aligned, truth)) * truth[:, 2::5, 2::5].flatten(1).numpy()
    assert np.ptp(found, axis=0).max() < 0.02 * aligned.typical, "of a camera that stands, frames agree"
    assert np.percentile(found, 1) / aligned.typical == pytest.approx(FARTHEST_SHARE, abs=0.05)
    assert np.median(found) / aligned.typical == pytest.approx(1.0, abs=0.1)
    slope = np.polyfit(truth[0, 2::5, 2::5].flatten().numpy(), found[0], 1)[0]
    assert slope > 0
    assert aligned.relief_deviation == pytest.approx(0.215, abs=0.01)
    assert aligned.variance(np.array([aligned.typical, 2 * aligned.typical], np.float32)) == pytest.approx([0.0094, 0.0194], rel=0.1)


def test_a_frame_that_shows_no_track_goes_by_those_around_it() -> None:
    camera = a_camera()
    truth, tracks = exact(camera), tracks_of(camera)
    visible = tracks.visible.clone()
    visible[3] = False
    said = said_of(truth, 4, shifted=True)
    aligned = align(said, replace(tracks, visible=visible), camera, np.full(300, SURE))
    assert np.abs(off(aligned, truth)[3]).max() < 0.03


def test_a_frame_that_shows_few_tracks_leans_to_those_around_it() -> None:
    """Two tracks that are off by 15 %, of a frame whose neighbours show them all."""
    camera = a_camera()
    truth, tracks = exact(camera), tracks_of(camera)
    visible, xyz = tracks.visible.clone(), tracks.xyz_world.clone()
    visible[3], visible[3, :2] = False, True
    xyz[3, :2] *= 1.15
    said = said_of(truth, 4, shifted=False)
    aligned = align(said, replace(tracks, visible=visible, xyz_world=xyz), camera, np.full(300, SURE))
    assert np.abs(off(aligned, truth)[3]).max() < 0.06


def test_disparities_of_another_length_are_refused() -> None:
    camera = a_camera()
    said = said_of(exact(camera), 5, shifted=True)
    with pytest.raises(UserError, match="the depth prior has 4 frames, the clip has 6"):
        align(replace(said, disparity=said.disparity[:4]), tracks_of(camera), camera, np.full(300, SURE))
    with pytest.raises(UserError, match="negative or not finite"):
        RelativeDepth(disparity=-said.disparity, shifted=True)


def tracked(camera: CameraPath, tracks: TrackSet, deviation: float, path_deviation: float = 0.0) -> Tracking:
    report = TrackingReport(
        tracker="sfm",
        focal_estimated=True,
        horizontal_fov=58.0,
        parallax_degrees=0.1,
        reprojection_pixels=0.1,
        share_lost=0.0,
        share_moving=0.0,
        warnings=(guessed_depth(0.1), "another"),
    )
    sure = np.full(len(tracks.query_frame), deviation)
    return Tracking(tracks=tracks, camera=camera, report=report, depth_deviation=sure, path_deviation=path_deviation)


def told(tracking: Tracking) -> Float64[np.ndarray, "T N"]:
    """Disparity of tracks in every frame."""
    poses, xyz = invert(tracking.camera.world_from_camera), tracking.tracks.xyz_world.double()
    return (1 / (xyz @ poses[:, :3, :3].mT + poses[:, None, :3, 3])[..., 2]).numpy()


def test_tracks_go_by_their_parallax_where_it_is_sure_and_by_the_prior_where_it_is_not() -> None:
    camera = a_camera()
    truth = exact(camera)
    wrong = said_of(truth * (1 + 0.3 * torch.sin(torch.arange(100.0) / 8)), 6, shifted=False)
    sure, _ = inform(tracked(camera, tracks_of(camera), SURE), wrong, "shape")
    assert told(sure) == pytest.approx(told(tracked(camera, tracks_of(camera), SURE)), rel=1e-2)
    assert sure.report.prior_share < 0.05
    flat = tracked(camera, tracks_of(camera, flat=True), UNSURE)
    right, aligned = inform(flat, said_of(truth, 6, shifted=False), "shape")
    apart = np.log(told(right) / told(tracked(camera, tracks_of(camera), SURE)))
    assert np.ptp(apart) < 0.03
    assert right.report.prior_share > 0.99
    assert right.report.depth_prior == "shape"
    assert float(right.tracks.confidence.min()) == pytest.approx(1 / (1 + (aligned.deviation / CONFIDENT) ** 2), abs=0.02)
    assert float(sure.tracks.confidence.min()) == pytest.approx(0.5, abs=0.02), "what parallax told is as sure as before"


def test_in_scene_units_tracks_and_prior_are_of_one_unit() -> None:
    """Tracks two units away come in; the median depth at frame 0 is 1 in what comes out, of the prior too."""
    camera = replace(a_camera(), unit="scene")
    found, aligned = inform(tracked(camera, tracks_of(camera, flat=True), UNSURE), said_of(exact(camera), 6, shifted=False), "shape")
    said = aligned.at(0, np.random.default_rng(0).uniform(0.02, 0.98, (300, 2)).astype(np.float32))
    assert told(found)[0] == pytest.approx(said, rel=0.1)
    assert np.median(1 / told(found)[0]) == pytest.approx(1.0, abs=0.01)


def test_tracks_move_along_the_rays_they_were_asked_along() -> None:
    camera = a_camera(turn=12.0, travel=0.4)
    flat = tracked(camera, tracks_of(camera, flat=True), UNSURE)
    found, _ = inform(flat, said_of(exact(camera), 6, shifted=False), "shape")
    query = flat.tracks.query_frame, torch.arange(300)
    before, after = (ViewTracks.of(each.tracks, each.camera).uv[query] for each in (flat, found))
    assert torch.allclose(before, after, atol=1e-4)
    assert float((told(found)[query] / told(flat)[query]).std()) > 0.1


def test_a_path_that_was_found_and_hardly_travels_leaves_flat_tracks_no_say() -> None:
    camera = a_camera()
    truth = exact(camera)
    flat = tracked(camera, tracks_of(camera, flat=True), 0.03, path_deviation=3.0)
    right, aligned = inform(flat, said_of(truth, 7, shifted=False), "shape")
    assert aligned.path_deviation == 3.0
    assert np.ptp(np.log(told(right) / told(tracked(camera, tracks_of(camera), SURE)))) < 0.05


def test_what_is_equally_sure_meets_in_the_middle() -> None:
    """Tracks two metres away of 0.1 / 0.75 (a deviation is given with some caution), a network that has them anywhere of 0.1."""
    camera = a_camera()
    truth = exact(camera)
    flat = tracks_of(camera, flat=True)
    halfway, aligned = inform(tracked(camera, flat, 0.1 / 0.75, path_deviation=0.0), said_of(truth, 8, shifted=False), "shape")
    said = aligned.at(0, np.random.default_rng(0).uniform(0.02, 0.98, (300, 2)).astype(np.float32))[::2]
    before, after = told(tracked(camera, flat, SURE))[0, ::2], told(halfway)[0, ::2]
    near = np.abs(np.log(said / before)) < 0.15
    share = np.polyfit((said - before)[near], (after - before)[near], 1)[0]
    expected = 0.1**2 / (0.1**2 + aligned.deviation**2)
    assert share == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("deviation", "least", "most"), [(0.85, 0.97, 1.06), (0.02, 0.2, 0.9)])
def test_what_moves_follows_the_prior_as_far_as_the_ground_says_little(deviation: float, least: float, most: float) -> None:
    camera = a_camera()
    truth, tracks = exact(camera), tracks_of(camera)
    moving = torch.arange(300) % 10 == 0
    nearer = torch.linspace(1.0, 0.5, FRAMES)[:, None, None]
    xyz = torch.where(moving[:, None], 1.6 * tracks.xyz_world * torch.ones(FRAMES, 1, 1), tracks.xyz_world)
    tracking = tracked(camera, replace(tracks, xyz_world=xyz, moving=moving), SURE)
    assert tracking.depth_deviation is not None
    tracking = replace(tracking, depth_deviation=np.where(moving.numpy(), deviation, SURE))
    growing = truth.clone()
    uv = np.random.default_rng(0).uniform(0.02, 0.98, (300, 2))[moving.numpy()]
    for u, v in uv:
        growing[:, max(0, int(60 * v) - 1) : int(60 * v) + 2, max(0, int(100 * u) - 1) : int(100 * u) + 2] /= nearer.double()
    found, _ = inform(tracking, said_of(growing, 9, shifted=False), "shape")
    mine = moving.numpy()
    wanted = np.log(1.6) - np.log(nearer.numpy()[:, 0])
    grown = np.median(np.log(told(found)[:, mine] / told(tracking)[:, mine]), axis=1)
    assert least < (grown / wanted.mean()).mean() < most
    assert grown[-1] > grown[0], "it comes nearer"
    still = ~mine
    assert np.median(np.abs(np.log(told(found)[:, still] / told(tracking)[:, still]))) < 5e-3


def test_the_warning_becomes_what_was_done() -> None:
    camera = a_camera()
    flat = tracked(camera, tracks_of(camera, flat=True), UNSURE)
    for shifted in (False, True):
        found, _ = inform(flat, said_of(exact(camera), 10, shifted=shifted), "shape")
        done, other = found.report.warnings
        assert "parallax too low (0.10°) to see depth: it is the depth prior's (shape)" in done
        assert ("22 % longer or shorter" in done) == shifted
        assert other == "another"
    unwarned = replace(flat, report=replace(flat.report, warnings=("another",)))
    found, _ = inform(unwarned, said_of(exact(camera), 10, shifted=True), "shape")
    assert found.report.warnings == ("another",)


@dataclass(frozen=True, kw_only=True)
class TrueShape:
    """A prior that knows: exact depth, small, wavering, every frame in a unit of its own."""

    depth: Tensor
    shifted: bool = False
    name: str = "shape"

    @property
    def fingerprint(self) -> str:
        return f"{self.shifted}"

    def look(self, clip: Clip) -> RelativeDepth:
        small = interpolate(1 / self.depth[:, None], scale_factor=0.5, mode="area")[:, 0].double()
        wavering = 0.03 * torch.randn(len(clip), 1, 3, 5, generator=torch.Generator().manual_seed(0))
        return said_of(small * interpolate(wavering, size=small.shape[1:], mode="bicubic")[:, 0].exp(), 11, shifted=self.shifted)


@pytest.fixture(scope="module")
def tripod() -> tuple[TrueShot, Shot]:
    """Things move before a camera that stands, and a prior knows how far all is."""
    world, camera = make_world(5, frames=9, dynamic=True), make_camera("tripod", 5, frames=9, size=(120, 210))
    clip, depth, solid = render_clip(world, camera)
    true = TrueShot(world=world, camera=camera, clip=clip, depth=depth, solid=solid)
    fov = horizontal_fov(camera.intrinsics[0], camera.size)
    return true, prepare(clip, tracker=SfmTracker(fov=fov), depth_prior=TrueShape(depth=depth), use_cache=False)


def log_errors(true: TrueShot, shot: Shot, frame: int) -> Float64[np.ndarray, "H W"]:
    error = np.log(shot.depth.at(frame, true.clip.size) * true.depth[frame].numpy()).astype(np.float64)
    return error - np.median(error)


def test_a_tripod_clip_has_depth_with_a_prior(tripod: tuple[TrueShot, Shot]) -> None:
    true, shot = tripod
    error = np.stack([log_errors(true, shot, frame) for frame in (2, 4, 7)])
    assert np.median(np.abs(error)) < 0.08
    moving = true.moving[[2, 4, 7]].numpy()
    assert np.median(np.abs(error[moving])) < 0.1
    said = np.stack([shot.depth.deviation_at(frame, true.clip.size) for frame in (2, 4, 7)])
    assert 0.03 < np.median(said) < 0.12, "a network's own deviation, for nothing could tell it"
    assert shot.tracking.report.depth_prior == "shape"
    assert not any("is a guess" in warning for warning in shot.tracking.report.warnings)
    depth = shot.tracking.tracks.xyz_world[0, :, 2][shot.tracking.tracks.visible[0]]
    assert float(depth.median()) == pytest.approx(1.0, abs=0.02), "the unit stays"


def test_a_clip_that_travels_keeps_its_depth_beside_a_prior(arc: TrueShot) -> None:
    clip = replace(arc.clip, frames=interpolate(arc.clip.frames[:27:3], size=(96, 168)))
    queries = Queries.grid([0, 8], 12, 21)
    arc = replace(arc, clip=clip, depth=interpolate(arc.depth[None, :27:3], size=(96, 168))[0])
    without = prepare(clip, queries=queries, use_cache=False)
    given = prepare(clip, queries=queries, depth_prior=TrueShape(depth=arc.depth, shifted=True), use_cache=False)
    errors = [np.median(np.abs([log_errors(arc, shot, frame) for frame in (2, 4, 7)])) for shot in (without, given)]
    assert errors[1] < 1.1 * errors[0]
    assert given.tracking.report.prior_share < 0.5
    assert given.tracking.report.warnings == without.tracking.report.warnings
    assert float((given.depth.moving).float().mean()) < 0.005


def test_what_is_kept_is_kept_by_the_prior() -> None:
    asked = Clip(frames=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), fps=Fraction(1)), SfmTracker(), Queries.grid([0], 1, 1), None, None
    keys = {cache.content_key(*asked, prior) for prior in (None, "a", "b")}
    assert len(keys) == 3


ENCODER = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
SETTINGS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "rescale_factor": 1 / 255}


def depth_anything(folder: Path, kind: str = "relative") -> None:
    config = DepthAnythingConfig(
        backbone_config={**ENCODER, "image_size": 56, "patch_size": 14, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20,
    )
    model = DepthAnythingForDepthEstimation(config)
    torch.nn.init.normal_(model.head.conv3.weight, std=20.0)
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)
    model.save_pretrained(folder)
    DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3, do_pad=False, **SETTINGS
    ).save_pretrained(folder)


def depth_pro(folder: Path) -> None:
    encoder = {**ENCODER, "image_size": 32, "patch_size": 8}
    config = DepthProConfig(
        fusion_hidden_size=8,
        patch_size=32,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8],
        merge_padding_value=1,
        use_fov_model=True,
        image_model_config=encoder,
        patch_model_config=dict(encoder),
        fov_model_config=dict(encoder),
    )
    DepthProForDepthEstimation(config).save_pretrained(folder)
    named = {"image_processor_type": "DepthProImageProcessor", "resample": 2, "size": {"height": 128, "width": 128}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**SETTINGS, **named}))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders as the library writes them, of random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    depth_anything(folder / "relative")
    depth_anything(folder / "metric", "metric")
    depth_pro(folder / "pro")
    return folder


@pytest.fixture
def scraps(arc: TrueShot) -> Clip:
    """Three frames that differ."""
    return replace(arc.clip, frames=arc.clip.frames[::18][:3, :, :120, :200].contiguous())


@pytest.mark.parametrize(("name", "shifted"), [("relative", True), ("metric", False), ("pro", False)])
def test_a_network_of_a_folder_tells_every_frame(networks: Path, scraps: Clip, name: str, *, shifted: bool) -> None:
    prior = NetworkDepth(networks / name)
    seen = prior.look(scraps)
    assert seen.disparity.shape == (3, 120, 200)
    assert seen.shifted == shifted
    assert float(seen.disparity.std((1, 2)).min()) > 0
    alone = prior.look(replace(scraps, frames=scraps.frames[2:])).disparity[0]
    assert torch.allclose(seen.disparity[2], alone)
    assert not torch.allclose(seen.disparity[0], alone)
    assert prior.name == name
    assert prior.look(replace(scraps, frames=interpolate(scraps.frames, size=(360, 600)))).disparity.shape == (3, 240, 400)


def test_metres_become_inverse_metres(networks: Path, scraps: Clip) -> None:
    """Golden: of both networks the same weights, one through a sigmoid times twenty metres."""
    relative, metric = (NetworkDepth(networks / name) for name in ("relative", "metric"))
    model = DepthAnythingForDepthEstimation.from_pretrained(metric.folder).eval()
    pixels = Preprocessing.read(metric.folder, antialias=True)(scraps.frames[0])
    with torch.no_grad():
        metres = model(pixels).predicted_depth
    assert 0 < float(metres.min()) < float(metres.max()) <= 20
    found = metric.look(scraps).disparity[0]
    assert float(found.median()) == pytest.approx(float((1 / metres).median()), rel=0.1)
    assert relative.fingerprint != metric.fingerprint


@pytest.mark.parametrize("size", [(120, 200), (96, 54), (41, 300)])
def test_pictures_are_prepared_as_the_library_does(networks: Path, arc: TrueShot, size: tuple[int, int]) -> None:
    frame = interpolate(arc.clip.frames[:1], size=size)[0]
    theirs = DPTImageProcessorPil.from_pretrained(networks / "relative")(images=frame, return_tensors="pt")["pixel_values"]
    ours = Preprocessing.read(networks / "relative", antialias=True)(frame)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().mean()) < 0.01
    assert float((ours - theirs).abs().max()) < 0.1


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def renamed_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"head.conv1.bias"', b'"head.conv9.bias"'))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, r"--depth-prior: .*relative: no such folder"),
    "no settings": (lambda to: (to / "config.json").unlink(), r"config\.json: missing"),
    "broken settings": (lambda to: (to / "config.json").write_text('{"model_type"'), r"config\.json: cannot be read: not JSON"),
    "another network": (lambda to: edited(to / "config.json", model_type="dpt"), r"model_type is 'dpt'; depth priors are depth_anything"),
    "an encoder elsewhere": (
        lambda to: edited(to / "config.json", backbone_config={"model_type": "timm_backbone", "use_pretrained_backbone": True}),
        r"backbone_config.model_type is 'timm_backbone'; it is dinov2",
    ),
    "pickles": (pickled, r"pytorch_model\.bin, a pickle"),
    "no weights": (lambda to: (to / "model.safetensors").unlink(), r"it has no weights"),
    "too wide": (lambda to: edited(to / "config.json", fusion_hidden_size=10**5), r"config\.json: announces"),
    "cut weights": (
        lambda to: (to / "model.safetensors").write_bytes((to / "model.safetensors").read_bytes()[:-100]),
        r"model\.safetensors: cannot be loaded",
    ),
    "another's weight": (renamed_weight, r"relative: lacks head\.conv1\.bias"),
    "no picture size": (lambda to: (to / "preprocessor_config.json").unlink(), r"preprocessor_config\.json: missing"),
    "huge pictures": (
        lambda to: edited(to / "preprocessor_config.json", size={"height": 10**6, "width": 56}),
        r"size: expected a height and a width of 1 to 4096",
    ),
    "no colours": (lambda to: edited(to / "preprocessor_config.json", image_std=[1, "2", 3]), r"image_std: expected three numbers"),
    "flat colours": (lambda to: edited(to / "preprocessor_config.json", image_std=[1, 0, 3]), r"image_std: expected positive numbers"),
    "odd resampling": (lambda to: edited(to / "preprocessor_config.json", resample=7), r"resample: expected one of \[2, 3\], got 7"),
    "odd multiple": (lambda to: edited(to / "preprocessor_config.json", ensure_multiple_of=0), r"ensure_multiple_of: expected 1 to 64"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_one_line(networks: Path, scraps: Clip, tmp_path: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    folder = Path(shutil.copytree(networks / "relative", tmp_path / "relative"))
    make(folder)
    with pytest.raises(UserError, match=message) as caught:
        NetworkDepth(folder).look(scraps)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_network_that_sees_nothing_is_refused(networks: Path, scraps: Clip, tmp_path: Path) -> None:
    model = DepthAnythingForDepthEstimation.from_pretrained(shutil.copytree(networks / "relative", tmp_path / "blind"))
    torch.nn.init.constant_(model.head.conv3.weight, 0.0)
    torch.nn.init.constant_(model.head.conv3.bias, -1.0)
    model.save_pretrained(tmp_path / "blind")
    with pytest.raises(UserError, match="blind: its network sees nothing in this clip"):
        NetworkDepth(tmp_path / "blind").look(scraps)


def test_a_network_too_large_for_the_memory_is_refused(networks: Path, scraps: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("track2view.model.depth.ROOM", 1e9)
    with pytest.raises(UserError, match=r"relative: needs about .* GB of memory"):
        NetworkDepth(networks / "relative").look(scraps)


@pytest.mark.parametrize("command", [["render", "--camera", "static"], ["track"], ["how-far"]])
def test_the_command_line_refuses_a_bad_folder_before_it_tracks(
    command: list[str], short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("track2view.pipeline.prepare", lambda *_, **__: pytest.fail("it went on"))
    clip = [str(short_file), "orbit-right"] if command == ["how-far"] else [str(short_file)]
    with pytest.raises(SystemExit) as stopped:
        cli.main([command[0], *clip, *command[1:], "--depth-prior", "nowhere"])
    assert stopped.value.code == 2
    (line,) = [each for each in capfd.readouterr().err.splitlines() if each.startswith("track2view:")]
    assert "--depth-prior: nowhere: no such folder" in line


def test_the_command_line_says_what_was_done(networks: Path, short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["render", str(short_file), "--camera", "static", "--out", "run", "--depth-prior", str(networks / "relative")])
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["tracking"]["depth_prior"] == "relative"
    assert 0 <= report["tracking"]["prior_share"] <= 1
    assert math.isfinite(report["depth_nearest"])
