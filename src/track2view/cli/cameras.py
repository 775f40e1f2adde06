"""``track2view cameras``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ListCameras:
    """List all camera moves and file formats."""

    def run(self) -> None:
        """Print them."""
        from track2view.cameras import MOVES
        from track2view.cameras.formats import KNOWN

        for name, kind in MOVES.items():
            default = f"{kind.default:g} {kind.unit}" if kind.unit else ""
            print(f"{name:16} {default:32} {kind.help}")
        print(f"\nJoin moves with +, give amounts with a colon: dolly-in:0.4+pan-left:20\nFiles: {KNOWN}; track2view keyframes JSON")


@dataclass(frozen=True, kw_only=True)
class ShowCamera:
    """Draw a camera file's path in 3D to a PNG."""

    file: tyro.conf.Positional[str]
    """Camera file of any format."""
    out: Path | None = None
    """PNG to write; FILE.png in the current folder by default."""

    def run(self) -> None:
        """Draw it."""
        from track2view.cameras import read_camera
        from track2view.overview import draw_camera

        out = self.out or Path(Path(self.file.replace("#", "-")).name).with_suffix(".png")
        camera = read_camera(self.file)
        draw_camera(out, camera, Path(self.file).name)
        print(out)


@dataclass(frozen=True, kw_only=True)
class ConvertCamera:
    """Convert a camera file: B is NAME.json (our own), transforms.json (nerfstudio), NAME.txt (RealEstate10K), NAME.chan (Nuke),
    NAME.glb (glTF: Blender) or a folder (COLMAP)."""

    a: tyro.conf.Positional[str]
    """Camera file of any format."""
    b: tyro.conf.Positional[Path]
    """File or folder to write."""
    size: tuple[int, int] | None = None
    """Height and width of the images, for formats that do not hold them."""

    def run(self) -> None:
        """Read one, write the other."""
        from track2view.cameras import read_camera, write_camera

        camera = read_camera(self.a, self.size)
        write_camera(camera, self.b)
        print(f"{self.b}  ({len(camera)} frames)")


@dataclass(frozen=True, kw_only=True)
class UnpickleCameras:
    """Unpack a RealCam-Vid npz into camera files. It is a pickle and runs whatever code it holds: only for files you trust."""

    file: tyro.conf.Positional[Path]
    """RealCam-Vid npz."""
    out: tyro.conf.Positional[Path]
    """Folder to write to."""

    def run(self) -> None:
        """Unpack it."""
        from track2view.cameras.formats import convert_realcam_pickle

        for path in convert_realcam_pickle(self.file, self.out):
            print(path)


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Camera moves and files."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ListCameras, tyro.conf.subcommand("list")]
        | Annotated[ShowCamera, tyro.conf.subcommand("show")]
        | Annotated[ConvertCamera, tyro.conf.subcommand("convert")]
        | Annotated[UnpickleCameras, tyro.conf.subcommand("unpickle")]
    ]

    def run(self) -> None:
        """Run the subcommand."""
        self.do.run()
