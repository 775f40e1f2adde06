import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TrueShot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d, max_pool2d

from track2view.cameras import apply_move, parse_move
from track2view.errors import UserError
from track2view.metrics import psnr
from track2view.records import CameraPath, Clip, Queries
from track2view.scenes import render_view, shown_by
from track2view.trackers import SfmTracker
from track2view.trackers.flow import neighbour_flow
from track2view.video import read_clip
from track2view.warp import DenseDepth, WarpRenderer, densify, render
from track2view.warp.neighbours import own_colours
from track2view.warp.splat import splat_disparity, splat_nearest, splat_reference
from track2view.warp.spread import ISLAND_SHARE


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_splatting_equals_the_obvious_way(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.rand(70, 2, generator=random) * torch.tensor([14.0, 12.0]) - 2
    disparity = torch.rand(70, generator=random) * 1.2 - 0.1
    fast, coverage = splat_disparity(pixels, disparity, (8, 10))
    slow, expected = splat_reference(pixels, disparity, (8, 10))
    assert torch.allclose(fast, slow, atol=1e-4)
    assert torch.allclose(coverage, expected, atol=1e-4)


def test_the_nearest_point_wins() -> None:
    pixels = torch.tensor([[2.5, 2.5], [2.5, 2.5], [6.5, 1.5], [1.5, 1.5]])
    winner = splat_nearest(pixels, torch.tensor([0.5, 0.9, 0.3, -1.0]), (4, 8))
    assert int(winner[2, 2]) == 1
    assert int(winner[1, 6]) == 2
    assert int((winner >= 0).sum()) == 2


def test_a_rim_that_just_touches_a_cell_hides_nothing() -> None:
    pixels, disparity = torch.tensor([[2.5, 1.5], [3.47, 1.5]]), torch.tensor([0.3, 0.9])
    found, coverage = splat_disparity(pixels, disparity, (3, 6))
    assert float(found[1, 2]) == pytest.approx(0.3)
    assert float(coverage[1, 2]) == pytest.approx(1.0)
    assert float(found[1, 3]) == pytest.approx(0.9)
    alone, _ = splat_disparity(pixels[1:], disparity[1:], (3, 6))
    assert float(alone[1, 2]) == pytest.approx(0.9), "where nothing else lands, it is what is there"


def exact(shot: TrueShot) -> WarpRenderer:
    return WarpRenderer(shot.clip, DenseDepth.exact(disparity=1 / shot.depth, moving=shot.moving), shot.camera)


def test_the_same_camera_gives_the_same_picture(lively: TrueShot) -> None:
    rendered = exact(lively).render(lively.camera, 11)
    assert psnr(rendered.colour, lively.clip.frames[11]) > 40
    assert float(rendered.seen_now.float().mean()) > 0.99


@pytest.mark.parametrize("move", ["orbit-right:15", "dolly-in:0.3", "pan-left:10", "zoom-in:1.6", "pedestal-up:0.15"])
def test_exact_depth_gives_the_exact_view(lively: TrueShot, move: str) -> None:
    target = apply_move(parse_move(move), lively.camera, float(lively.depth[0].median()))
    renderer = exact(lively)
    for frame in (20, 39):
        truth = render_view(lively.world, target, frame)
        seen = shown_by(lively.world, lively.camera, frame, target, truth.depth)
        rendered = renderer.render(target, frame)
        quality = psnr(rendered.colour, truth.colour, seen)
        assert quality > 26
        assert quality > psnr(lively.clip.frames[frame], truth.colour, seen) + 5
        assert float((rendered.seen_now == seen).float().mean()) > 0.93


@pytest.mark.parametrize("move", ["orbit-right:15", "zoom-in:1.6"])
def test_outlines_do_not_crack(lively: TrueShot, move: str) -> None:
    target = apply_move(parse_move(move), lively.camera, float(lively.depth[0].median()))
    seen = shown_by(lively.world, lively.camera, 39, target, render_view(lively.world, target, 39).depth)
    missed = seen & ~exact(lively).render(target, 39).seen_now
    assert float(missed.float().mean()) < 0.006


def test_holes_are_filled_from_other_times(arc: TrueShot) -> None:
    """Held at the first camera, what has left the picture is still there: it was seen before."""
    held = apply_move(parse_move("static"), arc.camera)
    rendered = exact(arc).render(held, 39)
    truth = render_view(arc.world, held, 39)
    late = rendered.seen & ~rendered.seen_now
    assert float(late.float().mean()) > 0.02
    assert psnr(rendered.colour, truth.colour, late) > 20
    assert float(rendered.seen.float().mean()) > 0.9


def test_outlines_are_as_soft_as_a_lens_draws_them(lively: TrueShot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a surface ends before another that the source shows elsewhere, the edge is new, and the source's own softness is not there."""
    target = apply_move(parse_move("orbit-right:15"), lively.camera, float(lively.depth[0].median()))
    truth = render_view(lively.world, target, 39)
    near, far = (max_pool2d(sign / truth.depth[None], 3, 1, 1)[0] * sign for sign in (1, -1))
    rim = shown_by(lively.world, lively.camera, 39, target, truth.depth) & (near > 1.1 * far)
    soft = exact(lively).render(target, 39)
    monkeypatch.setattr(render, "CUT_ANEW", math.inf)
    hard = exact(lively).render(target, 39)
    assert psnr(soft.colour, truth.colour, rim & soft.seen) > psnr(hard.colour, truth.colour, rim & soft.seen) + 1
    assert torch.equal(soft.seen, hard.seen)
    assert torch.equal(soft.disparity, hard.disparity)
    beside_holes = soft.seen & (soft.colour != hard.colour).any(0) & (max_pool2d((~soft.seen)[None].float(), 3, 1, 1)[0] > 0)
    darker = soft.colour[:, beside_holes].float().mean() / hard.colour[:, beside_holes].float().mean()
    assert float(darker) > 0.93, "what is not seen has no colour to mix with"


def a_square(frames: int = 2) -> tuple[Clip, DenseDepth, CameraPath]:
    """A red square before a green wall five times as far, drawn softly: pixels beside its outline are of both colours."""
    near = torch.zeros(96, 128)
    near[32:64, 48:80] = 1
    soft = torch.from_numpy(cv2.GaussianBlur(near.numpy(), (0, 0), 1.1))
    colour = (torch.stack([soft, 1 - soft, torch.zeros_like(soft)]) * 255).round().to(torch.uint8)
    disparity = (0.2 + 0.8 * near)[::2, ::2].expand(frames, -1, -1)
    matrix = torch.tensor([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]], dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    camera = CameraPath(world_from_camera=poses, intrinsics=matrix.repeat(frames, 1, 1), size=(96, 128), unit="metre")
    depth = DenseDepth.exact(disparity=disparity.contiguous(), moving=torch.zeros(frames, 48, 64, dtype=torch.bool))
    return Clip(frames=colour.expand(frames, -1, -1, -1).contiguous(), fps=Fraction(24)), depth, camera


@pytest.mark.parametrize("way", [-0.15, 0.15])
def test_an_outline_leaves_no_ghost_where_it_was(way: float) -> None:
    clip, depth, camera = a_square()
    target = replace(camera, world_from_camera=camera.world_from_camera.clone())
    target.world_from_camera[:, 0, 3] = way
    renderer = WarpRenderer(clip, depth, camera)
    rendered, still = renderer.render(target, 0), renderer.render(camera, 0)
    wall = rendered.seen & (max_pool2d(rendered.disparity[None], 9, 1, 4)[0] < 0.25)
    wall[:36], wall[60:] = False, False
    assert float((rendered.colour.float() - torch.tensor([0.0, 255.0, 0.0])[:, None, None])[:, wall].abs().max()) < 8
    assert float(rendered.seen.float().mean()) > 0.86, "what is tinged is seen all the same"
    apart = (still.colour.int() - clip.frames[0].int()).abs()
    assert float(apart.max()) <= 1, "where nothing opens, outlines are as they were"


def test_what_an_outline_has_tinged_is_taken_from_a_time_when_it_was_elsewhere() -> None:
    clip, depth, camera = a_square()
    stripes = torch.arange(128) % 2 * 255
    frames = clip.frames.clone()
    frames[:, 2] = stripes.to(torch.uint8)
    frames[1, 0], frames[1, 1] = 0, 255
    gone = DenseDepth.exact(
        disparity=torch.stack([depth.disparity[0], torch.full((48, 64), 0.2)]),
        moving=torch.stack([depth.disparity[0] > 0.5, depth.moving[1]]),
    )
    target = replace(camera, world_from_camera=camera.world_from_camera.clone())
    target.world_from_camera[:, 0, 3] = 0.2
    rendered = WarpRenderer(replace(clip, frames=frames), gone, camera).render(target, 0)
    assert bool(rendered.seen[:, 8:120].all())
    wall = max_pool2d(rendered.disparity[None], 9, 1, 4)[0] < 0.25
    wall[:, :8], wall[:, 120:] = False, False
    assert float((rendered.colour[2].float() - stripes)[wall].abs().max()) < 8


def test_what_is_tinged_has_the_colour_of_its_own_surface() -> None:
    """Three columns of a far surface and three of one still farther; the two between are tinged, each of its own."""
    colour = torch.tensor([0.1, 0.1, 0.1, 0.5, 0.5, 0.9, 0.9, 0.9]).expand(3, 4, 8).clone()
    surface = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]).expand(4, 8)
    clean = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1]).bool().expand(4, 8)
    seen = torch.ones(4, 8, dtype=torch.bool)
    found, then = own_colours(colour, seen, clean, surface, 1)
    assert bool(then.all())
    assert torch.allclose(found[:, :, 3], torch.tensor(0.1))
    assert torch.allclose(found[:, :, 4], torch.tensor(0.9))
    kept, then = own_colours(colour, seen & clean, clean, surface, 1)
    assert torch.equal(kept, colour), "what is not seen is not made up here"
    assert torch.equal(then, clean)


def test_slopes_between_near_and_far_leave_no_specks(arc: TrueShot) -> None:
    """As tracked depth has them, where a point of them in another view has hardly any others around it."""
    smeared = avg_pool2d((1 / arc.depth)[:, None], 13, 1, 6, count_include_pad=False)[:, 0]
    renderer = WarpRenderer(arc.clip, DenseDepth.exact(disparity=smeared, moving=torch.zeros_like(arc.moving)), arc.camera)
    target = apply_move(parse_move("orbit-right:15", relative_to="first-frame"), arc.camera, float(arc.depth[0].median()))
    rendered = renderer.render(target, 39)
    around = avg_pool2d(rendered.seen[None, None].float(), 7, 1, 3, count_include_pad=False)[0, 0]
    specks = rendered.seen & ~rendered.seen_now & (around < 0.35)
    assert float(specks.float().mean()) < 0.001


def test_the_mask_says_what_nobody_saw(arc: TrueShot) -> None:
    turned = apply_move(parse_move("pan-left:25", relative_to="first-frame"), arc.camera)
    rendered = exact(arc).render(turned, 39)
    assert 0.1 < float((~rendered.seen).float().mean()) < 0.7
    assert bool((rendered.seen | ~rendered.seen_now).all())
    assert float(rendered.colour[:, ~rendered.seen].float().mean()) > 5


@pytest.fixture(scope="module")
def arc_depth(arc: TrueShot) -> DenseDepth:
    tracking = SfmTracker().track(arc.clip, Queries.grid([0, 20, 39], 16, 28), arc.camera)
    assert tracking.flow is not None
    return densify(arc.clip, tracking.flow, tracking.tracks, arc.camera)


def test_tracked_depth_beats_copying(arc: TrueShot, arc_depth: DenseDepth) -> None:
    error = (1 / torch.from_numpy(arc_depth.at(20, arc.clip.size)) / arc.depth[20] - 1).abs()
    assert float(error.median()) < 0.03
    target = apply_move(parse_move("orbit-right"), arc.camera, float(arc.depth[0].median()))
    truth = render_view(arc.world, target, 39)
    seen = shown_by(arc.world, arc.camera, 39, target, truth.depth)
    rendered = WarpRenderer(arc.clip, arc_depth, arc.camera).render(target, 39)
    assert psnr(rendered.colour, truth.colour, seen) > psnr(arc.clip.frames[39], truth.colour, seen) + 4


def test_nothing_moves_in_a_still_scene(arc_depth: DenseDepth) -> None:
    """Flow at outlines drifts firmly; what is soft beside it is still all the same, where it tells its depth."""
    assert float(arc_depth.moving.float().mean()) < 0.002


def test_depth_is_as_far_off_as_it_says(arc: TrueShot, arc_depth: DenseDepth) -> None:
    """Within a factor of two, by the median (at outlines it may be another surface's); and surer where it is nearer to the truth."""
    said = np.stack([arc_depth.deviation_at(frame, arc.clip.size) for frame in (10, 20, 30)])
    true = np.abs([np.log(arc_depth.at(frame, arc.clip.size) * arc.depth[frame].numpy()) for frame in (10, 20, 30)])
    assert 0.5 < np.median(said) / np.median(true) < 2.0
    blocks = [each[:, :192, :336].reshape(3, 12, 16, 14, 24).mean((2, 4)).ravel() for each in (said, true)]
    assert np.corrcoef(np.argsort(np.argsort(blocks[0])), np.argsort(np.argsort(blocks[1])))[0, 1] > 0.2


def test_a_clip_without_motion_gets_flat_depth() -> None:
    picture = torch.randint(0, 255, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip = Clip(frames=picture.repeat(6, 1, 1, 1), fps=Fraction(10))
    tracking = SfmTracker().track(clip, Queries.grid([0], 6, 8))
    depth = densify(clip, neighbour_flow(clip), tracking.tracks, tracking.camera)
    assert float(depth.disparity.std() / depth.disparity.mean()) < 0.05
    assert not bool(depth.moving.any())


def test_lengths_must_agree(arc: TrueShot) -> None:
    with pytest.raises(UserError, match="disagree on frames"):
        WarpRenderer(
            replace(arc.clip, frames=arc.clip.frames[:5]), DenseDepth.exact(disparity=1 / arc.depth, moving=arc.moving), arc.camera
        )


@pytest.mark.gpu
def test_cuda_renders_what_the_cpu_renders(lively: TrueShot) -> None:
    depth = DenseDepth.exact(disparity=1 / lively.depth, moving=lively.moving)
    target = apply_move(parse_move("orbit-right"), lively.camera, float(lively.depth[0].median()))
    pictures = [WarpRenderer(lively.clip, depth, lively.camera, device).render(target, 20).colour for device in ("cpu", "cuda")]
    assert psnr(*pictures) > 40


def a_card_before_a_bare_wall(frames: int = 16) -> tuple[Clip, torch.Tensor]:
    """A textured square that sinks before a wall with nothing on it, between a far and a near strip that pass; and where it is."""
    random = torch.Generator().manual_seed(0)

    def pattern(height: int, width: int) -> torch.Tensor:
        cells = torch.randint(0, 255, (3, height // 4, width // 4), generator=random)
        return cells.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)

    far, near, card = pattern(40, 320), pattern(40, 320), pattern(32, 32)
    pictures, where = torch.full((frames, 3, 160, 240), 120, dtype=torch.uint8), torch.zeros(frames, 160, 240, dtype=torch.bool)
    for frame in range(frames):
        pictures[frame, :, :40], pictures[frame, :, 120:] = far[..., frame : 240 + frame], near[..., 3 * frame : 240 + 3 * frame]
        top = 42 + 3 * frame
        pictures[frame, :, top : top + 32, 100:132] = card
        where[frame, top : top + 32, 100:132] = True
    return Clip(frames=pictures, fps=Fraction(24)), where


def test_what_moves_ends_where_its_texture_does() -> None:
    """On a wall with nothing to follow, flow is what is beside it: that says little of what moves there."""
    clip, where = a_card_before_a_bare_wall()
    tracking = SfmTracker().track(clip, Queries.grid([0, 8, 15], 16, 24))
    depth = densify(clip, neighbour_flow(clip), tracking.tracks, tracking.camera)
    for frame in (4, 8, 12):
        found = torch.from_numpy(depth.moving_at(frame, clip.size))
        assert float((found & where[frame]).sum() / where[frame].sum()) > 0.9
        assert float((found & ~where[frame]).sum() / where[frame].sum()) < 3, "it was eight times its size"


def test_one_body_is_at_one_depth(shared: Path) -> None:
    """A man turns and stretches his arm before a camera that hardly moves: what is seen of him for moments would be near or far."""
    clip = read_clip(shared / "taxi.mp4", short_side=240)
    clip = replace(clip, frames=clip.frames[:24], audio=None)
    tracking = SfmTracker().track(clip, Queries.grid([0, 20, 23], 24, 32))
    assert tracking.flow is not None
    disparity = densify(clip, tracking.flow, tracking.tracks, tracking.camera).at(23, clip.size)
    near, far = np.percentile(disparity[72:204, 213:264], [95, 5])
    assert near / far < 1.1, "it was 1.7"


def test_moving_and_still_parts_are_things_not_specks(lively: TrueShot) -> None:
    clip = replace(lively.clip, frames=lively.clip.frames[::3])
    tracking = SfmTracker().track(clip, Queries.grid([0, 13], 16, 28))
    assert tracking.flow is not None
    depth = densify(clip, tracking.flow, tracking.tracks, tracking.camera)
    for frame in range(0, 14, 2):
        for mask in (depth.moving[frame], ~depth.moving[frame]):
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.numpy().astype(np.uint8), connectivity=4)
            assert stats[1:, cv2.CC_STAT_AREA].min(initial=9999) >= ISLAND_SHARE * mask.numel()
        specks = np.abs(cv2.medianBlur(depth.disparity[frame].numpy(), 3) / depth.disparity[frame].numpy() - 1) > 0.08
        assert specks.mean() < 1e-3
