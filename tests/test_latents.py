import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st

from track2view.errors import UserError
from track2view.model.latents import WAN_STRIDES, LatentGrid, Strides, decode, encode


@pytest.fixture(scope="module")
def tiny_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]).eval()


STRIDES = st.builds(
    Strides, frames=st.sampled_from([1, 2, 4]), pixels=st.sampled_from([2, 4, 8, 16]), patch=st.tuples(st.integers(1, 3), st.integers(1, 3))
)


@given(frames=st.integers(1, 200), height=st.integers(48, 2200), width=st.integers(48, 2200), strides=STRIDES)
def test_grids_hold_every_clip_with_little_to_spare(frames: int, height: int, width: int, strides: Strides) -> None:
    grid = LatentGrid(frames=frames, size=(height, width), strides=strides)
    assert grid.padded_frames == 1 + strides.frames * (grid.latent_frames - 1)
    assert 0 <= grid.padded_frames - frames < strides.frames
    for padded, own, latents, tokens, patch in zip(
        grid.padded_size, (height, width), grid.latent_size, grid.token_grid[1:], strides.patch, strict=True
    ):
        assert padded == latents * strides.pixels == tokens * patch * strides.pixels
        assert 0 <= padded - own < patch * strides.pixels
    assert grid.token_grid[0] == grid.latent_frames


def test_wan_at_full_size_has_the_designs_numbers() -> None:
    grid = LatentGrid(frames=81, size=(480, 832), strides=WAN_STRIDES)
    assert grid.token_grid == (21, 30, 52)
    assert 21 * 30 * 52 == 32_760


@given(frames=st.integers(1, 9), height=st.integers(16, 40), width=st.integers(16, 40))
def test_padding_is_undone_exactly(frames: int, height: int, width: int) -> None:
    clip = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    grid = LatentGrid(frames=frames, size=(height, width), strides=WAN_STRIDES)
    video = grid.padded(clip)
    assert video.shape == (1, 3, grid.padded_frames, *grid.padded_size)
    assert float(video.abs().max()) <= 1
    assert torch.equal(grid.cut(video), clip)


def test_the_corner_of_the_clip_is_its_corner_in_the_padded_picture() -> None:
    grid = LatentGrid(frames=1, size=(20, 40), strides=WAN_STRIDES)
    uv = grid.uv_in_padded(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(uv, torch.tensor([[40 / 48, 20 / 32], [0.0, 0.0]]))


@pytest.mark.parametrize(("frames", "size"), [(5, (32, 48)), (17, (30, 41)), (1, (16, 16))])
def test_the_real_vae_class_encodes_to_the_grid_and_back(tiny_vae: AutoencoderKLWan, frames: int, size: tuple[int, int]) -> None:
    grid = LatentGrid(frames=frames, size=size, strides=WAN_STRIDES)
    clip = torch.randint(0, 256, (frames, 3, *size), dtype=torch.uint8)
    latents = encode(tiny_vae, grid.padded(clip))
    assert latents.shape == (1, 16, grid.latent_frames, *grid.latent_size)
    video = decode(tiny_vae, latents)
    assert video.shape == (1, 3, grid.padded_frames, *grid.padded_size)
    assert grid.cut(video).shape == clip.shape


def test_latents_are_normalised_by_the_configs_statistics(tiny_vae: AutoencoderKLWan) -> None:
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    raw = tiny_vae.encode(video).latent_dist.mode()
    mean, deviation = (torch.tensor(tiny_vae.config[name]).reshape(1, 16, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    assert torch.allclose(encode(tiny_vae, video), (raw - mean) / deviation, atol=1e-6)
    assert torch.allclose(decode(tiny_vae, encode(tiny_vae, video)), tiny_vae.decode(raw).sample.clamp(-1, 1), atol=1e-4)


CONFIGS: dict[str, tuple[dict[str, object], Strides]] = {
    "Wan's": ({"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]}, WAN_STRIDES),
    "two stages": (
        {"dim_mult": [1, 2, 4], "temperal_downsample": [True, True], "scale_factor_spatial": 4},
        Strides(frames=4, pixels=4, patch=(2, 2)),
    ),
    "half the time": (
        {"dim_mult": [1, 2, 4], "temperal_downsample": [False, True], "scale_factor_spatial": 4, "scale_factor_temporal": 2},
        Strides(frames=2, pixels=4, patch=(2, 2)),
    ),
    "all the time": (
        {"dim_mult": [1, 1], "temperal_downsample": [False], "scale_factor_spatial": 2, "scale_factor_temporal": 1},
        Strides(frames=1, pixels=2, patch=(2, 2)),
    ),
    "packed": (
        {
            "dim_mult": [1, 1, 1],
            "temperal_downsample": [True, True],
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "is_residual": True,
            "scale_factor_spatial": 8,
        },
        WAN_STRIDES,
    ),
}
WAN_PATCH = {"patch_size": [1, 2, 2]}


def vae_of(kind: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1, **CONFIGS[kind][0]).eval()  # pyrefly: ignore


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("frames", "size"), [(8, (34, 50)), (11, (48, 32))])
def test_strides_read_off_a_vae_are_those_it_has(kind: str, frames: int, size: tuple[int, int]) -> None:
    vae = vae_of(kind)
    strides = Strides.of(vae.config, WAN_PATCH)
    assert strides == CONFIGS[kind][1]
    grid = LatentGrid(frames=frames, size=size, strides=strides)
    latents = encode(vae, grid.padded(torch.randint(0, 256, (frames, 3, *size), dtype=torch.uint8)))
    assert latents.shape == (1, 16, grid.latent_frames, *grid.latent_size)
    assert decode(vae, latents).shape == (1, 3, grid.padded_frames, *grid.padded_size)


@pytest.mark.parametrize("kind", ["half the time", "all the time", "two stages"])
def test_latents_are_of_their_own_frames_whatever_follows(kind: str) -> None:
    vae, frames = vae_of(kind), CONFIGS[kind][1].frames
    video = torch.rand(1, 3, 13, 16, 24) * 2 - 1
    whole = encode(vae, video)
    for latents in range(1, whole.shape[2]):
        assert torch.equal(encode(vae, video[:, :, : 1 + frames * (latents - 1)]), whole[:, :, :latents])


@torch.no_grad()
def test_tiles_of_two_stages_lie_where_the_picture_does() -> None:
    """A tile has its own borders, so that few pixels are the same; but none lies elsewhere, and none is missing."""
    vae = vae_of("two stages")
    vae.tile_sample_min_height = vae.tile_sample_min_width = 64
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = 48
    latents = torch.randn(1, 16, 2, 28, 40)
    whole, tiled = decode(vae, latents), decode(vae, latents, tiled=True)
    assert tiled.shape == whole.shape == (1, 3, 5, 112, 160)
    assert not torch.equal(tiled, whole)
    near = float((tiled - whole).abs().mean())
    assert near < 0.25 * float((tiled - whole.roll(4, dims=-1)).abs().mean())


@pytest.mark.parametrize(
    ("changes", "patch", "message"),
    [
        ({"scale_factor_spatial": 8}, [1, 2, 2], "vae/config.json: scale_factor_spatial: expected 4, which dim_mult comes to, got 8"),
        ({"scale_factor_temporal": 8}, [1, 2, 2], "vae/config.json: scale_factor_temporal: expected 4, .* got 8"),
        ({"scale_factor_spatial": None}, [1, 2, 2], "scale_factor_spatial: expected 4, .* got None"),
        ({"temperal_downsample": [True, True, False]}, [1, 2, 2], "temperal_downsample: expected true or false 2 times"),
        ({"temperal_downsample": [2, 2]}, [1, 2, 2], "temperal_downsample: expected true or false"),
        ({"temperal_downsample": None}, [1, 2, 2], "temperal_downsample: expected true or false"),
        ({"dim_mult": [1, 2, 2, 4], "temperal_downsample": [True] * 3}, [1, 2, 2], "temperal_downsample: 8 frames a latent"),
        ({"dim_mult": 3}, [1, 2, 2], "dim_mult: expected 1 to 8 numbers, got 3"),
        ({"dim_mult": [1] * 5000}, [1, 2, 2], "dim_mult: expected 1 to 8 numbers"),
        ({"patch_size": 0}, [1, 2, 2], "vae/config.json: patch_size: expected a number from 1"),
        ({}, [2, 2, 2], r"transformer/config.json: patch_size: expected one latent frame, rows and columns, got \[2, 2, 2\]"),
        ({}, [1, 2], "transformer/config.json: patch_size"),
        ({}, [1, 0, 2], "transformer/config.json: patch_size"),
        ({}, "122", "transformer/config.json: patch_size"),
    ],
)
def test_configurations_that_contradict_themselves_are_named(changes: dict[str, object], patch: object, message: str) -> None:
    config = {**vae_of("two stages").config, **changes}
    with pytest.raises(UserError, match=message):
        Strides.of(config, {"patch_size": patch})


def test_a_clip_smaller_than_a_token_is_refused() -> None:
    with pytest.raises(UserError, match="a token's 16×16 pixels"):
        LatentGrid(frames=5, size=(8, 64), strides=WAN_STRIDES)
    assert LatentGrid(frames=5, size=(8, 64), strides=Strides(frames=4, pixels=4, patch=(2, 2))).token_grid == (2, 1, 8)
    with pytest.raises(UserError, match="a token's 12×4 pixels"):
        LatentGrid(frames=5, size=(8, 8), strides=Strides(frames=4, pixels=4, patch=(1, 3)))
