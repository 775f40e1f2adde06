import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st

from track2view.errors import UserError
from track2view.model.latents import LatentGrid, decode, encode


@pytest.fixture(scope="module")
def tiny_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]).eval()


@given(frames=st.integers(1, 200), height=st.integers(16, 2200), width=st.integers(16, 2200))
def test_grids_hold_every_clip_with_little_to_spare(frames: int, height: int, width: int) -> None:
    grid = LatentGrid(frames=frames, size=(height, width))
    assert (grid.padded_frames - 1) % 4 == 0
    assert 0 <= grid.padded_frames - frames < 4
    assert all(side % 16 == 0 and 0 <= side - own < 16 for side, own in zip(grid.padded_size, (height, width), strict=True))
    assert grid.token_grid == (grid.latent_frames, grid.latent_size[0] // 2, grid.latent_size[1] // 2)


def test_wan_at_full_size_has_the_designs_numbers() -> None:
    grid = LatentGrid(frames=81, size=(480, 832))
    assert grid.token_grid == (21, 30, 52)
    assert 21 * 30 * 52 == 32_760


@given(frames=st.integers(1, 9), height=st.integers(16, 40), width=st.integers(16, 40))
def test_padding_is_undone_exactly(frames: int, height: int, width: int) -> None:
    clip = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    grid = LatentGrid(frames=frames, size=(height, width))
    video = grid.padded(clip)
    assert video.shape == (1, 3, grid.padded_frames, *grid.padded_size)
    assert float(video.abs().max()) <= 1
    assert torch.equal(grid.cut(video), clip)


def test_the_corner_of_the_clip_is_its_corner_in_the_padded_picture() -> None:
    grid = LatentGrid(frames=1, size=(20, 40))
    uv = grid.uv_in_padded(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(uv, torch.tensor([[40 / 48, 20 / 32], [0.0, 0.0]]))


@pytest.mark.parametrize(("frames", "size"), [(5, (32, 48)), (17, (30, 41)), (1, (16, 16))])
def test_the_real_vae_class_encodes_to_the_grid_and_back(tiny_vae: AutoencoderKLWan, frames: int, size: tuple[int, int]) -> None:
    grid = LatentGrid(frames=frames, size=size)
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


def test_a_clip_smaller_than_a_token_is_refused() -> None:
    with pytest.raises(UserError, match="16 pixels"):
        LatentGrid(frames=5, size=(8, 64))
