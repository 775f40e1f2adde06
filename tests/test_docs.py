"""What the README and the docs tell people to type, typed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from track2view.cameras import read_keyframes
from track2view.cli import main
from track2view.model.make import new_model
from track2view.records import CameraPath

ROOT = Path(__file__).parents[1]


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


EXAMPLES = [
    ["01_demo.py", "--frames", "12", "--height", "96"],
    ["02_paired_tracks.py"],
    pytest.param(["03_tracks_carry_information.py", "--seconds", "1", "--clips", "2"], marks=pytest.mark.slow),
    pytest.param(["05_the_mini.py", "--steps", "2"], marks=pytest.mark.slow),
]


@pytest.fixture
def workshop(short_file: Path, tmp_path: Path) -> Path:
    """A folder with the clip.mp4 and path.json that the README speaks of."""
    (tmp_path / "clip.mp4").write_bytes(short_file.read_bytes())
    return tmp_path


def test_the_python_of_the_readme_runs(workshop: Path) -> None:
    (code,) = blocks("README.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 5
    done = subprocess.run(
        [sys.executable, "-c", code.replace("short_side=480", "short_side=96")],
        cwd=workshop,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert (workshop / "out" / "orbit" / "output.mp4").exists()


def test_the_commands_of_the_readme_run(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    lines = blocks("README.md", "sh")[1].strip().splitlines()
    assert len(lines) == 6
    for line in reversed(lines):
        if "path.json" in line:
            (workshop / "path.json").write_text((workshop / "out" / "clip" / "source_camera.json").read_text())
            line = line.replace("--size 480 --end 4", "--size 96 --end 4")  # noqa: PLW2901
        typed(line)
    assert (workshop / "out" / "clip-recam-9" / "output.mp4").exists()


def test_the_commands_and_the_python_of_the_models_page_run(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (commands,), (code,) = blocks("docs/model.md", "sh"), blocks("docs/model.md", "python")
    monkeypatch.chdir(workshop)
    for line in commands.strip().splitlines():
        typed(line)
    exec(code.replace("short_side=480", "short_side=96"), {})
    assert (workshop / "out" / "diffusion" / "output.mp4").exists()


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_data_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_model("micro", tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks("docs/data.md", "sh")).strip().splitlines():
        typed(line.replace("BASE", "base").replace("120 208", "64 112").replace("480 832", "48 80").replace("cuda", "cpu"))
    samples = list(tmp_path.glob("out/samples/**/sample.json"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2 + len(samples) > 2
    assert (tmp_path / "out" / "manifest.parquet").exists()
    for code, said in zip(blocks("docs/data.md", "python"), ("[9, 3, 64, 112]", "[9, 3, 96, 160]", "(3, 6, 10)"), strict=True):
        exec(code, {})
        assert said in capsys.readouterr().out


def typed(line: str) -> None:
    """A command as a user types it, without a process of its own: loading the libraries takes longer than the work."""
    program, *arguments = shlex.split(line, comments=True)
    assert program == "track2view"
    main(arguments)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each[0])
def test_examples_run(example: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / example[0]), *example[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    assert "nan" not in done.stdout


def test_the_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text() + (ROOT / "docs/contributing.md").read_text()))
    assert {"demo", "test"} <= named
    for target in named - {"and"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_keyframe_file_of_the_docs_is_read(tmp_path: Path) -> None:
    import torch

    (text,) = blocks("docs/cameras.md", "json")
    json.loads(text)
    (tmp_path / "keys.json").write_text(text)
    poses = torch.eye(4, dtype=torch.float64).repeat(9, 1, 1)
    intrinsics = torch.tensor([[90.0, 0, 50], [0, 90, 40], [0, 0, 1]], dtype=torch.float64).repeat(9, 1, 1)
    path = read_keyframes(tmp_path / "keys.json", CameraPath(world_from_camera=poses, intrinsics=intrinsics, size=(80, 100)))
    assert path.world_from_camera[4, :3, 3].tolist() == pytest.approx([0.1, 0, 0.2])


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert link.startswith("http") or (file.parent / link).exists(), f"{file.name}: {link}"
