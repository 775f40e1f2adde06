"""Where the new camera goes: named moves, keyframes, and other people's camera files."""

from track2view.cameras.cuts import cut_between, parse_cuts
from track2view.cameras.formats import names_file, read_camera
from track2view.cameras.moves import MOVES, CameraMove, apply_move, is_keyframes, parse_move, read_keyframes
from track2view.cameras.unreal import find_scenes, write_multicam
from track2view.cameras.writers import write_camera

__all__ = [
    "MOVES",
    "CameraMove",
    "apply_move",
    "cut_between",
    "find_scenes",
    "is_keyframes",
    "names_file",
    "parse_cuts",
    "parse_move",
    "read_camera",
    "read_keyframes",
    "write_camera",
    "write_multicam",
]
