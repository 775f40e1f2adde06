"""The diffusion renderer as a user meets it: real clips through a micro base, and every way to get it wrong."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Done
from model_support import random_adapter
from safetensors.torch import load_file, save_file
from test_cli import run
from torch import Tensor

from track2view.model import diffusion
from track2view.model.checkpoint import MINI, AdapterRecord
from track2view.model.conditioners.protocol import RenderedView
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.settings import DiffusionSettings
from track2view.records import Clip
from track2view.video import clip_images, read_clip, write_video


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("micro")
    done = run(["model", "new", "micro", out], out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out / "base"), str(out / "adapter")]
    return out


def by_diffusion(model: Path, *more: str | Path) -> list[str | Path]:
    return ["--renderer", "diffusion", "--base", model / "base", "--adapter", model / "adapter", "--steps", "2", *more]


@pytest.mark.parametrize(("frames", "size"), [(17, 96), pytest.param(50, 64, marks=pytest.mark.slow)])
def test_a_real_clip_goes_through(frames: int, size: int, micro: Path, shared: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    part = ["--frames", str(frames), "--size", str(size), "--camera", "orbit-right", "--out", "run"]
    done = within(["render", shared / "bear.mp4", *part, *by_diffusion(micro, "--prompt", "a bear walks")])
    assert done.returncode == 0, done.stderr
    output, source = read_clip(tmp_path / "run/output.mp4"), read_clip(shared / "bear.mp4", short_side=size, frames=frames)
    assert (len(output), output.size, output.fps) == (frames, source.size, source.fps)
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["diffusion"]
    assert (tmp_path / "run/compare.mp4").exists()


@pytest.mark.slow
def test_a_portrait_clip_goes_through_window_by_window(shared: Path, tmp_path: Path) -> None:
    landscape = read_clip(shared / "bear.mp4", short_side=160, frames=30)
    upright = Clip(frames=landscape.frames[:, :, :, 90:190], fps=landscape.fps)
    write_video(tmp_path / "upright.mp4", clip_images(upright), upright.fps)
    made = run(["model", "new", "micro", "model", "--attention", "cached-source", "--rope", "synchronised"], tmp_path)
    assert made.returncode == 0, made.stderr
    options = by_diffusion(tmp_path / "model", "--window", "17", "--memory", "low")
    done = run(["render", "upright.mp4", "--camera", "dolly-in", "--out", "run", *options], tmp_path)
    assert done.returncode == 0, done.stderr
    output = read_clip(tmp_path / "run/output.mp4")
    assert (len(output), output.size) == (30, (160, 100))


def test_seeds_reproduce(micro: Path, short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    for name, seed in (("one", "3"), ("same", "3"), ("other", "4")):
        done = within(["render", short_file, "--camera", "pan-left", "--out", name, *by_diffusion(micro, "--seed", seed)])
        assert done.returncode == 0, done.stderr
    frames = [read_clip(tmp_path / name / "output.mp4").frames for name in ("one", "same", "other")]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_info_and_the_export(micro: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    done = within(["model", "info", micro, "--size", "480", "832", "--tflops", "100"])
    assert done.returncode == 0, done.stderr
    for word in ("2 blocks of width 48", "LoRA rank 4", "segmented", "32,760 tokens", "attention", "conditioner", "at 100 TFLOP/s", "low"):
        assert word in done.stdout
    assert within(["model", "export-comfy", micro / "adapter", "lora.safetensors"]).returncode == 0
    assert all(name.startswith("diffusion_model.blocks.") for name in load_file(tmp_path / "lora.safetensors"))


def rewritten(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_nan(folder: Path) -> None:
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no base folder": (lambda model: shutil.rmtree(model / "base"), [], "base: no such base folder; give a local copy of"),
    "not a Wan model": (
        lambda model: rewritten(model / "base/transformer/config.json", _class_name="CogVideoXTransformer3DModel"),
        [],
        "not a Wan model: its transformer is CogVideoXTransformer3DModel",
    ),
    "an image-to-video base": (
        lambda model: rewritten(model / "base/transformer/config.json", in_channels=36, image_dim=1280),
        [],
        "not a Wan text-to-video model",
    ),
    "no adapter": (lambda model: shutil.rmtree(model / "adapter"), [], "adapter: not an adapter: it has no track2view.json"),
    "an adapter for another width": (
        lambda model: rewritten(model / "adapter/track2view.json", width=1536),
        [],
        "was made for a base of width 1536 (track2view random micro), this base has 48",
    ),
    "a clip too short": (lambda model: None, ["--frames", "4"], "the clip has 4 frames; the diffusion renderer needs at least 5"),
    "not numbers": (lambda model: with_nan(model / "base"), [], "not numbers at step 1 of 2"),
    "a window that no latents fit": (lambda model: None, ["--window", "16"], "window: expected 4k + 1 frames (1, 5, …, 81), got 16"),
    "a captioner that is none": (lambda model: None, ["--captioner", "nowhere"], "nowhere: no captioning model there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, micro: Path, short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    model = Path(shutil.copytree(micro, tmp_path / "model"))
    breaks, options, message = BAD[case]
    breaks(model)
    done = within(["render", short_file, "--camera", "pan-left", "--out", "run", *by_diffusion(model, *options)])
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("track2view:") and "warning" not in line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/output.mp4").exists()


def test_without_a_base_it_is_taken_and_says_what_it_is(short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    done = within(["render", short_file, "--camera", "pan-left", "--renderer", "diffusion", "--out", "run"])
    assert done.returncode == 0, done.stderr
    assert "the mini: trained on procedural worlds" in done.stderr
    assert "made at 64×" in done.stderr
    used = json.loads((tmp_path / "run/run.json").read_text())["settings"]["sampling"]
    assert used["steps"] == AdapterRecord.load(MINI / "adapter/track2view.json").steps < DiffusionSettings().steps
    assert read_clip(tmp_path / "run/output.mp4").frames.shape == read_clip(short_file).frames.shape


def test_an_adapter_that_reads_a_rendered_view_is_given_the_warp(
    micro: Path, short_file: Path, within: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RenderedView] = []
    forward = RenderConditioner.forward
    monkeypatch.setattr(RenderConditioner, "forward", lambda self, tokens, view: given.append(view) or forward(self, tokens, view))
    shutil.copytree(micro / "base", tmp_path / "base")
    random_adapter(tmp_path, RenderConditioner, frames=9)
    done = within(["render", short_file, "--camera", "pan-left:10", *by_diffusion(tmp_path, "--out", "run")])
    assert done.returncode == 0, done.stderr
    assert len(given) == 1
    columns = given[0].shown.mean((0, 2))  # the camera turns left: what it has not seen comes in from that side
    assert float(columns[0].amin()) > 0.9, "both cameras begin alike"
    assert float(columns[-1, 0]) < 0.5
    assert float(columns[-1, -2]) > 0.9
    assert read_clip(tmp_path / "run/output.mp4").frames.shape == read_clip(short_file).frames.shape


def test_tracks_that_nothing_shows_are_said(micro: Path, short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    assert within(["track", short_file, "--out", "tracked"]).returncode == 0
    with np.load(tmp_path / "tracked/tracks.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "blind.npz", **{**arrays, "visible": np.zeros_like(arrays["visible"])})
    given = ["--tracks", "blind.npz", "--source-camera", "tracked/source_camera.json", "--out", "run"]
    done = within(["render", short_file, "--camera", "pan-left", *given, *by_diffusion(micro)])
    assert done.returncode == 2
    assert "no track is visible in the source view" in done.stderr
    assert not (tmp_path / "run/output.mp4").exists()


def test_ctrl_c_keeps_what_the_clip_was_about_to_become(
    micro: Path, short_file: Path, within: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = diffusion.denoise

    def interrupted(*given: object, **options: object) -> Tensor:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return denoise(*given, **options)

    monkeypatch.setattr(diffusion, "denoise", interrupted)
    options = by_diffusion(micro, "--out", "run")
    options[options.index("--steps") + 1] = "100000"
    done = within(["render", short_file, "--camera", "pan-left", *options])
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert "preview.mp4" in done.stdout
    assert len(read_clip(tmp_path / "run/preview.mp4")) == 8
    assert not (tmp_path / "run/output.mp4").exists()
