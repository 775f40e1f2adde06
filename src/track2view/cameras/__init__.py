"""Where the new camera goes: named moves, keyframes, and other people's camera files."""

from track2view.cameras.formats import read_camera, write_camera, write_multicam
from track2view.cameras.moves import MOVES, CameraMove, apply_move, parse_move, read_keyframes

__all__ = ["MOVES", "CameraMove", "apply_move", "parse_move", "read_camera", "read_keyframes", "write_camera", "write_multicam"]
