"""Worlds like what people film: jointed, seamless, mirrored, and true whatever was done to their pictures."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scenes import check_exactness
from torch import Tensor

from track2view.errors import UserError
from track2view.geometry import project, transform
from track2view.scenes import Solid, World, make_rig, make_training_world, render_view
from track2view.scenes.lifelike import KINDS, make_lifelike_world
from track2view.scenes.takes import FPS, STYLES, Take, film

FRAMES, SIZE = 9, (48, 84)


def taken(name: str, seed: int = 3, **changes: object) -> Take:
    return film(replace(STYLES[name], **changes), seed, frames=FRAMES, size=SIZE)


def named(world: World, name: str) -> list[Solid]:
    return [each for each in world.solids if each.name == name]


def placed(solid: Solid, own: Tensor) -> Tensor:
    """Points of a solid at all times."""
    return transform(solid.world_from_solid, own.expand(len(solid.world_from_solid), -1, -1))


@pytest.mark.parametrize("name", STYLES)
def test_what_is_true_of_a_take_is_exact(name: str) -> None:
    take = taken(name)
    assert len(take.clip) == len(take.camera) == take.world.frames == FRAMES
    check_exactness(take.world, take.camera, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_frames_are_the_same_world_at_more_times(kind: str) -> None:
    few, many = (make_lifelike_world(kind, 5, frames=count, fps=fps) for count, fps in ((4, 10.0), (12, 30.0)))
    assert few.caption == many.caption
    for one, other in zip(few.solids, many.solids, strict=True):
        assert torch.allclose(one.world_from_solid, other.world_from_solid[::3], atol=2e-2), one.name


@pytest.mark.parametrize("kind", ["walking", "sitting", "talking"])
def test_limbs_hang_together_and_feet_are_on_the_ground(kind: str) -> None:
    world = make_lifelike_world(kind, 1, frames=60, fps=30.0)

    def end(what: str, sign: float) -> Tensor:
        """Where a limb begins (-1) or ends (1); its ends are rounded by 0.6 of its radius."""
        (limb,) = named(world, f"person: {what}")
        length = limb.half_extent[1] - 0.6 * limb.half_extent[0]
        return placed(limb, torch.tensor([[0.0, sign * float(length), 0.0]], dtype=torch.float64))[:, 0]

    for side in ("left", "right"):
        assert torch.allclose(end(f"{side} thigh", 1), end(f"{side} shin", -1), atol=1e-9)
        assert torch.allclose(end(f"{side} arm", 1), end(f"{side} forearm", -1), atol=1e-9)
    feet = [each for side in ("left", "right") for each in named(world, f"person: {side} foot")]
    lowest = torch.stack([each.world_from_solid[:, 1, 3] + each.half_extent[1] for each in feet]).amax(0)
    assert float(lowest.abs().max()) < 0.04


def test_who_walks_swings_its_legs_in_step_with_the_way_it_goes() -> None:
    world = make_lifelike_world("walking", 1, frames=90, fps=30.0)
    (pelvis,), feet = named(world, "person: pelvis"), [named(world, f"person: {side} foot")[0] for side in ("left", "right")]
    ahead = pelvis.world_from_solid[:, :3, 2]
    before = [((each.world_from_solid[:, :3, 3] - pelvis.world_from_solid[:, :3, 3]) * ahead).sum(-1) for each in feet]
    assert float(torch.corrcoef(torch.stack(before))[0, 1]) < -0.9
    lower = feet[0].world_from_solid[:, 1, 3] > feet[1].world_from_solid[:, 1, 3]
    along = torch.where(lower, *((each.world_from_solid[:, :3, 3] * ahead).sum(-1) for each in feet)).diff()
    travelled = (pelvis.world_from_solid.diff(dim=0)[:, :3, 3] * ahead[1:]).sum(-1)
    assert float(along.abs().median()) < 0.7 * float(travelled.mean())


@pytest.mark.parametrize(("kind", "name"), [("flag", "flag"), ("curtain", "curtain")])
def test_cloth_bends_but_its_picture_has_no_seams(kind: str, name: str) -> None:
    strips = named(make_lifelike_world(kind, 2, frames=30, fps=30.0), name)
    for one, next_one in pairwise(strips):
        ends = []
        for each, sign in ((one, 1.0), (next_one, -1.0)):
            along = torch.linspace(-0.9, 0.9, 20, dtype=torch.float64) * each.half_extent[1]
            own = torch.stack([sign * each.half_extent[0].expand(20), along, torch.zeros(20, dtype=torch.float64)], dim=-1)
            colour = each.texture.colour(own.float(), own.float().expand(4, -1, -1), torch.full((20,), 1e-3))
            ends.append((placed(each, own), colour))
        assert torch.allclose(ends[0][0], ends[1][0], atol=1e-9)
        assert torch.allclose(ends[0][1], ends[1][1], atol=1e-3)
    turned = torch.stack([each.world_from_solid[:, 0, 0] for each in strips])
    assert float(turned.std(0).mean()) > 0.02
    assert float(turned.std(1).mean()) > 0.02


def test_a_mirror_shows_what_stands_before_it_where_its_image_would_be() -> None:
    take = taken("mirror")
    (glass,) = named(take.world, "mirror")
    camera = take.camera
    normal = -glass.world_from_solid[0, :3, 1]
    eye = camera.world_from_camera[0, :3, 3]
    middle = glass.world_from_solid[0, :3, 3] + glass.half_extent[1] * normal
    toward = torch.nn.functional.normalize(middle - eye, dim=0)
    ball_at = middle + 1.5 * (toward - 2 * (toward @ normal) * normal)
    pose = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    pose[:, :3, 3] = ball_at
    lamp = replace(glass.texture, palette=torch.tensor([[1.0, 0.0, 0.0], *[[0.0] * 3] * 3]))
    ball = Solid(
        name="ball", shape="ellipsoid", half_extent=torch.full((3,), 0.15, dtype=torch.float64), world_from_solid=pose, texture=lamp
    )
    world = replace(take.world, solids=(*take.world.solids, ball))
    view = render_view(world, camera, 0)
    colour = view.colour.float()
    red = (colour[0] > 60) & (colour[1] < 30) & (view.solid == world.solids.index(glass))
    image = ball_at - 2 * ((ball_at - middle) @ normal) * normal
    (expected,), _ = project(image[None], camera.camera_from_world[0], camera.intrinsics[0])
    assert int(red.sum()) >= 4
    found = red.nonzero().double().mean(0).flip(0) + 0.5
    assert float((found - expected).norm()) < 1.0
    dull = replace(world, solids=tuple(replace(each, reflects=0.0) for each in world.solids))
    assert not bool(((render_view(dull, camera, 0).colour[0] > 60) & red).any())


def test_water_moves_in_the_picture_and_nowhere_else() -> None:
    take = taken("water", parallax=0.0, turning=0.0)
    (water,) = named(take.world, "water")
    number = take.world.solids.index(water)
    first, last = (render_view(take.world, take.camera, frame) for frame in (0, FRAMES - 1))
    there = (first.solid == number) & (last.solid == number)
    assert int(there.sum()) > 200
    assert torch.allclose(first.depth[there], last.depth[there], atol=1e-4)
    assert float((first.colour.float() - last.colour.float()).abs().mean(0)[there].mean()) > 2


def test_bare_walls_have_nothing_to_hold_on_to() -> None:
    def contrast(name: str) -> float:
        take = taken(name)
        wall = render_view(take.world, take.camera, 0).solid == 0
        return float(take.clip.frames[0].float().diff(dim=-1)[:, wall[:, 1:] & wall[:, :-1]].abs().median())

    assert contrast("bare-wall") <= 1 < contrast("talking")


def test_the_camera_travels_as_far_as_its_style_says() -> None:
    for name in ("walking", "standing"):
        style, camera = STYLES[name], taken(name).camera
        reach = camera.world_from_camera[:, :3, 3]
        most = torch.rad2deg(torch.atan2((reach.amax(0) - reach.amin(0)).amax(), torch.tensor(style.distance, dtype=torch.float64)))
        assert 0.5 * style.parallax < float(most) < 1.2 * style.parallax


def test_a_lens_zooms_and_nothing_else_moves() -> None:
    focal = taken("zooming").camera.intrinsics[:, 0, 0]
    assert float(focal[-1] / focal[0]) == pytest.approx(1.6)
    assert bool((focal.diff() > 0).all())


def test_little_light_is_dark_and_noisy() -> None:
    still = {"parallax": 0.0, "turning": 0.0}
    bright, dark = (taken("turning", **still, light=light) for light in (1.0, 0.1))
    assert dark.exposure < 0.4
    light, noise = bright.clip.frames.float(), dark.clip.frames.float()
    assert float(noise.mean()) == pytest.approx(dark.exposure * float(light.mean()), rel=0.05)
    assert float(noise.diff(dim=0).std()) > 3 * float(light.diff(dim=0).std())


def test_an_open_shutter_blurs_what_moves_around_the_true_moment() -> None:
    blurred = taken("motion-blurred")
    sharp = render_view(blurred.world, blurred.camera, 4).colour.float()

    def strength(picture: Tensor) -> float:
        return float(picture.diff(dim=-1).abs().mean())

    frame = blurred.clip.frames[4].float()
    assert strength(frame) < 0.97 * strength(sharp)
    others = [render_view(blurred.world, blurred.camera, index).colour.float() for index in (3, 5)]
    assert float((frame - sharp).abs().mean()) < 0.7 * min(float((frame - other).abs().mean()) for other in others)


def test_titles_lie_still_over_all_frames_and_hide_nothing_else() -> None:
    titled, plain = taken("titled"), taken("titled", titled=False)
    assert 0.15 < float(titled.overlay.float().mean()) < 0.5
    assert torch.equal(titled.clip.frames[:, :, ~titled.overlay], plain.clip.frames[:, :, ~titled.overlay])
    bars = titled.clip.frames[:, :, 0]
    assert int(bars.max()) == 0


def test_one_shot_fades_into_another() -> None:
    take = taken("cross-fade")
    assert take.fade == range(4, 7)
    first, second = taken("cross-fade", faded=False), film(replace(STYLES["dog"], parallax=1.0, distance=4.6), 4, frames=FRAMES, size=SIZE)
    assert torch.equal(take.clip.frames[:4], first.clip.frames[:4])
    assert torch.equal(take.clip.frames[7:], second.clip.frames[7:])
    for frame in take.fade:
        both = torch.stack([each.clip.frames[frame].float() for each in (first, second)])
        assert bool(
            (take.clip.frames[frame].float() >= both.amin(0) - 1).all() and (take.clip.frames[frame].float() <= both.amax(0) + 1).all()
        )


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 3_000_000_000), st.integers(1, 10))
def test_the_rigs_of_training_film_them_exactly(seed: int, camera: int) -> None:
    rig = make_rig(seed, frames=9, size=SIZE)
    check_exactness(make_training_world("lifelike", seed, frames=9, dynamic=True), rig[f"cam{camera:02d}"], seed)


def test_training_draws_every_kind_and_its_cameras_stay_in_the_room_and_out_of_things() -> None:
    drawn = set()
    for seed in range(60):
        world = make_training_world("lifelike", seed, frames=FRAMES, dynamic=True)
        drawn |= {kind for kind in set(KINDS) - drawn if make_lifelike_world(kind, seed, frames=1, fps=15.0).caption == world.caption}
        eyes = torch.cat([each.world_from_camera[:, :3, 3] for each in make_rig(seed, frames=FRAMES, size=SIZE).values()])
        time = torch.arange(FRAMES).repeat(10)
        for number, solid in enumerate(world.solids):
            own = transform(torch.linalg.inv(solid.world_from_solid)[time], eyes[:, None])[:, 0] / solid.half_extent
            reach = own.abs().amax(1) if solid.shape == "box" else own.norm(dim=1)
            assert bool((reach < 1).all() if number == 0 else (reach > 1).all()), (seed, solid.name)
    assert drawn == set(KINDS)


def test_what_people_film_stands_still_where_nothing_shall_move() -> None:
    still, moving = (make_training_world("lifelike", 1, frames=FRAMES, dynamic=dynamic) for dynamic in (False, True))
    assert not any(still.moves(index) for index in range(len(still.solids)))
    assert any(moving.moves(index) for index in range(len(moving.solids)))
    assert still.caption == moving.caption
    for one, other in zip(still.solids, moving.solids, strict=True):
        assert torch.equal(one.world_from_solid[-1], other.world_from_solid[0])


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UserError, match="unknown kind of world 'unicorn'; one of walking"):
        make_lifelike_world("unicorn", 0, frames=2, fps=FPS)
