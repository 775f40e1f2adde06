"""What was never seen: textured like what is seen, at rest in the scene, and never a copy of what moves."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import TrueShot
from torch import Tensor

from track2view.cameras import apply_move, parse_move
from track2view.geometry import inside, project
from track2view.records import CameraPath
from track2view.warp import DenseDepth, WarpRenderer
from track2view.warp.fill import paint, textured

SIZE = (96, 144)


def renderer_of(shot: TrueShot) -> WarpRenderer:
    return WarpRenderer(shot.clip, DenseDepth.exact(disparity=1 / shot.depth, moving=shot.moving), shot.camera)


def turned(shot: TrueShot) -> CameraPath:
    return apply_move(parse_move("orbit-right:15"), shot.camera, float(shot.depth[0].median()))


def detail(picture: Tensor, chosen: Tensor) -> float:
    """How much of a picture is finer than a smooth guess could be."""
    grey = picture.float().mean(0).numpy()
    return float(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 4.0))[chosen.numpy()].mean())


def a_pattern() -> tuple[Tensor, Tensor]:
    """Dark stripes with a red thing before them, and a hole beside it."""
    picture = torch.full((3, *SIZE), 0.6)
    picture[:, :, ::8] = picture[:, :, 1::8] = picture[:, :, 2::8] = 0.2
    picture[:, 30:60, 40:70] = torch.tensor([0.9, 0.0, 0.0])[:, None, None]
    hole = torch.zeros(SIZE, dtype=torch.bool)
    hole[30:60, 70:110] = True
    return picture, hole


def test_texture_goes_on_and_what_moves_is_not_copied() -> None:
    picture, hole = a_pattern()
    still = ~hole
    still[26:64, 36:74] = False
    smooth = paint(picture, still, torch.ones(SIZE))
    filled, found = textured(smooth, still)
    inside = hole & found
    assert float(inside.float().sum() / hole.float().sum()) > 0.9
    assert detail(255 * smooth, hole) < 4
    assert detail(255 * filled, inside) > 0.5 * detail(255 * picture, still)
    red = filled[0] - filled[1:].amax(0)
    assert float(red[inside].max()) < 0.15
    assert torch.equal(filled, textured(smooth, still)[0])


def test_colour_at_large_stays_the_smooth_guess() -> None:
    picture, hole = a_pattern()
    smooth = paint(picture, ~hole, torch.ones(SIZE))
    filled, _ = textured(smooth, ~hole)
    blurred = [cv2.GaussianBlur(each.permute(1, 2, 0).numpy(), (0, 0), 14.0) for each in (smooth, filled)]
    assert float(np.abs(blurred[0] - blurred[1])[hole.numpy()].max()) < 0.06


def test_too_little_to_copy_from_is_left_smooth() -> None:
    picture, _ = a_pattern()
    still = torch.zeros(SIZE, dtype=torch.bool)
    still[:, :20] = True
    smooth = paint(picture, still, torch.ones(SIZE))
    filled, found = textured(smooth, still)
    assert torch.equal(filled, smooth)
    assert not bool(found.any())
    tiny = textured(smooth[:, :8, :8], still[:8, 16:24])
    assert not bool(tiny[1].any())


def test_a_picture_without_holes_is_left_as_it_is() -> None:
    picture, _ = a_pattern()
    filled, found = textured(picture, torch.ones(SIZE, dtype=torch.bool))
    assert torch.equal(filled, picture)
    assert not bool(found.any())


def test_a_smooth_guess_reaches_all_of_a_wide_picture() -> None:
    colour, seen = torch.zeros(3, 40, 160), torch.zeros(40, 160, dtype=torch.bool)
    colour[:, :, :20], seen[:, :20] = 0.7, True
    assert float(paint(colour, seen, torch.ones(40, 160)).min()) > 0.6


def test_the_margin_looks_like_the_scene_and_stays_unseen(lively: TrueShot) -> None:
    renderer, target = renderer_of(lively), turned(lively)
    imagined = renderer.imagine(target)
    plain, made = renderer.render(target, 39), renderer.render(target, 39, imagined)
    assert torch.equal(plain.seen, made.seen)
    assert torch.equal(plain.colour[:, plain.seen], made.colour[:, plain.seen])
    unseen = cv2.erode((~made.seen).numpy().astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    unseen = torch.from_numpy(unseen)
    assert detail(made.colour, unseen) > 1.5 * detail(plain.colour, unseen)


def test_what_is_imagined_rests_in_the_scene(lively: TrueShot) -> None:
    """Before a camera that has come to rest it is the same at all times; so it is however often it is asked for."""
    last = turned(lively)
    target = replace(last, world_from_camera=last.world_from_camera[-1:].expand(40, 4, 4), intrinsics=last.intrinsics[-1:].expand(40, 3, 3))
    renderer = renderer_of(lively)
    imagined = renderer.imagine(target)
    assert len(imagined.xyz) > 100
    (first, shown), (later, _) = imagined.seen_by(target, 10), imagined.seen_by(target, 30)
    assert torch.equal(first, later)
    again = renderer.imagine(target)
    assert torch.equal(again.xyz, imagined.xyz)
    assert torch.equal(again.colour, imagined.colour)
    assert bool(shown.any())
    small = last.resized(imagined.size)
    pixels, _ = project(imagined.xyz.double(), small.camera_from_world[30], small.intrinsics[30])
    column, row = pixels[inside(pixels, imagined.size)].long().T
    assert float(imagined.seen_by(last, 30)[1][row, column].float().mean()) > 0.99


def test_nothing_is_imagined_where_all_is_seen(lively: TrueShot) -> None:
    assert len(renderer_of(lively).imagine(lively.camera).xyz) == 0


def test_a_hole_shows_rather_what_is_behind_and_a_crack_what_is_beside_it() -> None:
    """Between a near red wall and a far blue one."""
    colour, surface, middle = torch.zeros(3, 240, 160), torch.full((240, 160), 2.0), 80
    colour[0, :, :middle], colour[2, :, middle:], surface[:, middle:] = 1.0, 1.0, 1.0
    blue = {}
    for half in (1, 8):
        seen = torch.ones(240, 160, dtype=torch.bool)
        seen[:, middle - half : middle + half] = False
        filled = paint(torch.where(seen, colour, 0.5), seen, torch.where(seen, surface, 0.0))
        assert torch.equal(filled[:, seen], colour[:, seen])
        blue[half] = filled[2, 120, middle - half : middle + half]
    assert float(blue[8].mean()) > 0.57
    assert float(blue[1].mean()) == pytest.approx(0.5, abs=0.02)
