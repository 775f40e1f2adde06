"""Cameras in glTF 2.0 files (``.glb``, ``.gltf``), as Blender and the web have them, out and in.

Cameras look along -z with y up; the world is ours with y and z turned round, so that a camera at rest is at rest there. A file holds
the lens of a camera, not its changes over time.
"""

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from scipy.spatial.transform import Rotation, Slerp

from track2view.cameras.order import MOST_FRAMES, chosen
from track2view.cameras.raw import DEFAULT_SIZE, OPENCV_FROM_OPENGL, described, lens_in_the_middle, matrices_of, number, tensor
from track2view.errors import UserError, notice
from track2view.files import atomic_path, read_json
from track2view.geometry import rigid
from track2view.records import CameraPath, Size

GLTF = (".glb", ".gltf")
MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", b"JSON", b"BIN\0"
FLOAT, UNSIGNED_BYTE, POINTS = 5126, 5121, 0
OF_TYPE = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
WIDTHS = {"translation": 3, "rotation": 4, "scale": 3}
REST = {"translation": (0.0, 0.0, 0.0), "rotation": (0.0, 0.0, 0.0, 1.0), "scale": (1.0, 1.0, 1.0)}
DEPTH_OF_NODES = 100
LARGEST = 1 << 30


def write_gltf(
    path: Path,
    cameras: Mapping[str, CameraPath],
    points: Float64[np.ndarray, "N 3"] | None = None,
    colours: UInt8[np.ndarray, "N 3"] | None = None,
) -> None:
    """Write animated cameras by name, all in one world, and a cloud of coloured points, as one ``.glb``.

    Of each camera's lens the format holds the first frame's field of view (:func:`left_out` says what is lost).
    """
    file = _Writer()
    for name, camera in cameras.items():
        file.add_camera(name, camera)
    if points is not None:
        file.add_points(points, np.full(points.shape, 128, np.uint8) if colours is None else colours)
    with atomic_path(path) as partial:
        partial.write_bytes(file.whole())


def left_out(camera: CameraPath) -> str:
    """What of a path a glTF does not hold, in words; empty if nothing."""
    if float((camera.intrinsics[:, 1, 1] / camera.intrinsics[0, 1, 1] - 1).abs().max()) > 1 / max(camera.size):
        return "it zooms (a .chan holds that)"
    return lens_in_the_middle(camera)


def read_gltf(file: Path, name: str | None, size: Size | None) -> CameraPath:
    """The path of a camera, and of all that it hangs on: a frame for each of its keys, or for each of its shortest steps.

    Raises:
        UserError: no such camera, one without perspective, or a file that does not hold what it says.
    """
    document, binary = _opened(file)
    return _Reader(file, document, binary).camera(name, size)


@dataclass
class _Writer:
    """A glTF document and its binary part."""

    binary: bytearray = field(default_factory=bytearray)
    views: list[dict] = field(default_factory=list)
    accessors: list[dict] = field(default_factory=list)
    nodes: list[dict] = field(default_factory=list)
    lenses: list[dict] = field(default_factory=list)
    meshes: list[dict] = field(default_factory=list)
    channels: list[dict] = field(default_factory=list)
    samplers: list[dict] = field(default_factory=list)

    def add_camera(self, name: str, camera: CameraPath) -> None:
        """A node with a lens and, for more than one frame, channels of place and turn."""
        poses = OPENCV_FROM_OPENGL @ camera.world_from_camera @ OPENCV_FROM_OPENGL
        turns = Rotation.from_matrix(poses[:, :3, :3].numpy()).as_quat()
        flips = np.cumprod(np.r_[1.0, np.where((turns[1:] * turns[:-1]).sum(-1) < 0, -1.0, 1.0)])
        values = {"translation": poses[:, :3, 3].numpy(), "rotation": turns * flips[:, None]}
        height, width = camera.size
        view = 2 * np.arctan(height / 2 / float(camera.intrinsics[0, 1, 1]))
        lens = {"yfov": view, "aspectRatio": width / height, "znear": 0.01}
        self.lenses.append({"name": name, "type": "perspective", "perspective": lens})
        self.nodes.append({"name": name, "camera": len(self.lenses) - 1, **{key: each[0].tolist() for key, each in values.items()}})
        if len(camera) == 1:
            return
        times = self.accessor(np.arange(len(camera))[:, None] / (camera.fps or 30.0), "SCALAR", limits=True)
        for key, each in values.items():
            given = self.accessor(each, f"VEC{each.shape[1]}")
            self.samplers.append({"input": times, "output": given, "interpolation": "LINEAR"})
            self.channels.append({"sampler": len(self.samplers) - 1, "target": {"node": len(self.nodes) - 1, "path": key}})

    def add_points(self, points: Float64[np.ndarray, "N 3"], colours: UInt8[np.ndarray, "N 3"]) -> None:
        """A node with a mesh of single points."""
        place = self.accessor(points * [1.0, -1.0, -1.0], "VEC3", limits=True)
        colour = self.accessor(np.concatenate([colours, np.full((len(colours), 1), 255, np.uint8)], axis=1), "VEC4")
        primitive = {"attributes": {"POSITION": place, "COLOR_0": colour}, "mode": POINTS}
        self.meshes.append({"name": "points", "primitives": [primitive]})
        self.nodes.append({"name": "points", "mesh": len(self.meshes) - 1})

    def accessor(self, values: np.ndarray, kind: str, *, limits: bool = False) -> int:
        """The number of an accessor of single floats, or of bytes as shares of one."""
        stored = values if values.dtype == np.uint8 else np.ascontiguousarray(values, "<f4")
        self.views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": stored.nbytes})
        self.binary += stored.tobytes() + bytes(-stored.nbytes % 4)
        own = {"componentType": UNSIGNED_BYTE, "normalized": True} if values.dtype == np.uint8 else {"componentType": FLOAT}
        bounds = {"min": stored.min(0).tolist(), "max": stored.max(0).tolist()} if limits else {}
        self.accessors.append({"bufferView": len(self.views) - 1, "count": len(stored), "type": kind, **own, **bounds})
        return len(self.accessors) - 1

    def whole(self) -> bytes:
        """The file."""
        parts = {
            "accessors": self.accessors,
            "animations": [{"name": "path", "channels": self.channels, "samplers": self.samplers}] if self.channels else [],
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}] if self.binary else [],
            "cameras": self.lenses,
            "meshes": self.meshes,
            "nodes": self.nodes,
        }
        top = {"asset": {"version": "2.0", "generator": "track2view"}, "scene": 0, "scenes": [{"nodes": [*range(len(self.nodes))]}]}
        text = json.dumps({**top, **{name: each for name, each in parts.items() if each}}).encode()
        chunks = [(JSON_CHUNK, text + b" " * (-len(text) % 4)), *([(BINARY_CHUNK, bytes(self.binary))] if self.binary else [])]
        body = b"".join(struct.pack("<I4s", len(each), kind) + each for kind, each in chunks)
        return MAGIC + struct.pack("<II", 2, 12 + len(body)) + body


class _Reader:
    """A glTF document whose every reference is checked as it is followed."""

    def __init__(self, file: Path, document: dict, binary: bytes | None) -> None:
        self.file, self.document, self.binary = file, document, binary

    def camera(self, name: str | None, size: Size | None) -> CameraPath:
        nodes = self.all("nodes")
        names = [str(each.get("name", f"node{index}")) for index, each in enumerate(nodes)]
        with_lens = [index for index, each in enumerate(nodes) if "camera" in each]
        shared = {names[index] for index in with_lens if [names[other] for other in with_lens].count(names[index]) > 1}
        own = {f"{names[index]}.{index}" if names[index] in shared else names[index]: [index] for index in with_lens}
        if not own:
            raise UserError("holds no camera; export it with cameras and animation")
        node = chosen(own, name)[0]
        focal, size = self._lens(self.one("cameras", nodes[node]["camera"]), size)
        above = self._above(node)
        keys = {each: self._keys(each) for each in above}
        times = _frames([times for own in keys.values() for times, _ in own.values()])
        whole = np.tile(np.eye(4), (len(times), 1, 1))
        for each in above:
            whole = self._moved(nodes[each], keys[each], times) @ whole
        axes = whole[:, :3, :3] / np.linalg.norm(whole[:, :3, :3], axis=1, keepdims=True).clip(min=1e-12)
        posed = rigid(torch.from_numpy(axes), torch.from_numpy(np.ascontiguousarray(whole[:, :3, 3])))
        middle = torch.tensor([focal, focal, size[1] / 2, size[0] / 2], dtype=torch.float64).expand(len(times), 4)
        return CameraPath(
            world_from_camera=OPENCV_FROM_OPENGL @ posed @ OPENCV_FROM_OPENGL,
            intrinsics=matrices_of(middle),
            size=size,
            fps=float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 else None,
        )

    def all(self, kind: str) -> list[dict]:
        found = self.document.get(kind, [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise UserError(f"{kind}: expected a list of objects, got {described(found)}")
        return found

    def one(self, kind: str, index: object) -> dict:
        found = self.all(kind)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(found):
            raise UserError(f"{kind}: has {len(found)}, and number {described(index)} is asked for")
        return found[index]

    def _lens(self, camera: dict, size: Size | None) -> tuple[float, Size]:
        """Focal length in pixels; the picture's height where the size is not given, its width by the file's aspect."""
        lens = camera.get("perspective")
        if camera.get("type") != "perspective" or not isinstance(lens, dict):
            raise UserError(f"a camera of type {described(camera.get('type'))}, which has no perspective")
        view = number(lens.get("yfov"), "yfov")
        if not 0 < view < np.pi:
            raise UserError(f"yfov: expected radians between 0 and π, got {view:g}")
        height, width = size or DEFAULT_SIZE
        if "aspectRatio" in lens:
            aspect = number(lens["aspectRatio"], "aspectRatio")
            if not 1 / 100 < aspect < 100:
                raise UserError(f"aspectRatio: expected a width for a height of 1, got {aspect:g}")
            if size is None:
                width = max(1, round(height * aspect))
            elif abs(aspect * height / width - 1) > 0.01:
                notice(f"{self.file}: its pictures are {aspect:.2f} times as wide as high, these {width / height:.2f}; the height is kept")
        return height / 2 / float(np.tan(view / 2)), (height, width)

    def _above(self, node: int) -> list[int]:
        """The node and all that it hangs on, the nearest first."""
        parents: dict[int, int] = {}
        for index, each in enumerate(self.all("nodes")):
            children = each.get("children", [])
            if not isinstance(children, list):
                raise UserError(f"nodes: children: expected a list, got {described(children)}")
            parents |= {child: index for child in children if isinstance(child, int)}
        chain = [node]
        while chain[-1] in parents:
            chain.append(parents[chain[-1]])
            if len(chain) > DEPTH_OF_NODES:
                raise UserError("nodes: hang on each other in a ring")
        return chain

    def _keys(self, node: int) -> dict[str, tuple[Float64[np.ndarray, "K"], Float64[np.ndarray, "K d"]]]:
        """Times and values of what moves of a node, by the first animation that moves it."""
        found = {}
        for animation in self.all("animations"):
            channels, samplers = animation.get("channels", []), animation.get("samplers", [])
            if not isinstance(channels, list) or not isinstance(samplers, list):
                raise UserError("animations: expected lists of channels and samplers")
            for channel in channels:
                target = channel.get("target", {}) if isinstance(channel, dict) else {}
                if not isinstance(target, dict) or target.get("node") != node or target.get("path") not in WIDTHS:
                    continue
                index = channel.get("sampler")
                if not isinstance(index, int) or not 0 <= index < len(samplers) or not isinstance(samplers[index], dict):
                    raise UserError("animations: a channel without its sampler")
                found.setdefault(target["path"], self._sampled(samplers[index], WIDTHS[target["path"]]))
        return found

    def _sampled(self, sampler: dict, width: int) -> tuple[Float64[np.ndarray, "K"], Float64[np.ndarray, "K d"]]:
        kind = sampler.get("interpolation", "LINEAR")
        if kind != "LINEAR":
            raise UserError(f"animations: interpolation {described(kind)}; export with sampled animation, which is LINEAR")
        times, values = self._numbers(sampler.get("input"), 1)[:, 0], self._numbers(sampler.get("output"), width)
        if not len(times) or len(times) != len(values) or any(later <= earlier for earlier, later in pairwise(times)):
            raise UserError(f"animations: {len(times)} times that should increase, and {len(values)} values for them")
        return times, values

    def _numbers(self, index: object, width: int) -> Float64[np.ndarray, "K d"]:
        """What an accessor of single floats points at."""
        accessor = self.one("accessors", index)
        if accessor.get("componentType") != FLOAT or OF_TYPE.get(str(accessor.get("type"))) != width or "sparse" in accessor:
            raise UserError(f"accessors: expected {width} float(s) a key, got {described(accessor)}")
        view = self.one("bufferViews", accessor.get("bufferView"))
        data = self._buffer(view.get("buffer"))
        start = self._whole(view.get("byteOffset", 0)) + self._whole(accessor.get("byteOffset", 0))
        count, stride = self._whole(accessor.get("count")), self._whole(view.get("byteStride", 4 * width))
        if count and (stride < 4 * width or start + (count - 1) * stride + 4 * width > len(data)):
            raise UserError(f"accessors: {count} keys from byte {start} on, of {len(data)} bytes")
        rows = [struct.unpack_from(f"<{width}f", data, start + stride * key) for key in range(count)]
        return np.asarray(tensor(np.array(rows, np.float64).reshape(count, width), (None, width), "accessors"))

    def _buffer(self, index: object) -> bytes:
        buffer = self.one("buffers", index)
        uri = buffer.get("uri")
        if uri is None:
            if self.binary is None or index != 0:
                raise UserError("buffers: one without a uri, and the file has no binary part")
            return self.binary
        if str(uri).startswith("data:"):
            try:
                return base64.b64decode(str(uri).partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise UserError(f"buffers: uri: {error}") from None
        beside = self.file.parent / Path(unquote(str(uri))).name
        if not beside.is_file():
            raise UserError(f"buffers: {beside.name[:80]} is not beside it")
        return _bytes(beside)

    def _whole(self, value: object) -> int:
        found = number(value, "a number of bytes or keys")
        if found != round(found) or not 0 <= found <= LARGEST:
            raise UserError(f"a number of bytes or keys: expected a whole one, got {found:g}")
        return round(found)

    def _moved(
        self, node: dict, keys: Mapping[str, tuple[np.ndarray, np.ndarray]], times: Float64[np.ndarray, "T"]
    ) -> Float64[np.ndarray, "T 4 4"]:
        """Of a node at each time, from where it hangs."""
        out = np.tile(np.eye(4), (len(times), 1, 1))
        if "matrix" in node and not keys:
            out[:] = np.asarray(tensor(node["matrix"], (16,), "matrix")).reshape(4, 4).T
            return out
        still = {key: np.asarray(tensor(node.get(key, rest), (WIDTHS[key],), key)) for key, rest in REST.items()}
        known = {key: keys.get(key, (times[:1], each[None])) for key, each in still.items()}
        if (np.linalg.norm(known["rotation"][1], axis=1) < 1e-6).any():
            raise UserError("rotation: a quaternion of length 0")
        out[:, :3, :3] = _turned(*known["rotation"], times) * _between(*known["scale"], times)[:, None]
        out[:, :3, 3] = _between(*known["translation"], times)
        return out


def _frames(keys: list[Float64[np.ndarray, "_"]]) -> Float64[np.ndarray, "T"]:
    """Even times from the first key to the last, as near as the nearest keys of one channel."""
    if not keys:
        return np.zeros(1)
    first, last = min(each[0] for each in keys), max(each[-1] for each in keys)
    steps = [float(np.median(np.diff(each))) for each in keys if len(each) > 1]
    if not steps or last <= first:
        return np.full(1, first)
    count = round((last - first) / min(steps)) + 1
    if not 1 < count <= MOST_FRAMES:
        raise UserError(f"animations: {last - first:g} s in steps of {min(steps):g} s are {count} frames; at most {MOST_FRAMES}")
    return np.linspace(first, last, count)


def _between(times: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(asked, times, column) for column in values.T], axis=-1)


def _turned(times: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    turns = Rotation.from_quat(values)
    if len(values) == 1:
        return np.tile(turns.as_matrix(), (len(asked), 1, 1))
    return Slerp(times, turns)(asked.clip(times[0], times[-1])).as_matrix()


def _opened(file: Path) -> tuple[dict, bytes | None]:
    """The document, and the binary part where it is in the same file."""
    whole = _bytes(file)
    if not whole.startswith(MAGIC):
        document = read_json(file)
        if not isinstance(document, dict) or "asset" not in document:
            raise UserError("not a glTF: no asset at its top")
        return document, None
    chunks, place, rest = {}, 0, whole[12:]
    while place + 8 <= len(rest):
        length, kind = struct.unpack_from("<I4s", rest, place)
        if place + 8 + length > len(rest):
            raise UserError(f"is cut off: a part of {length} bytes, and {len(rest) - place - 8} are there")
        chunks.setdefault(kind, rest[place + 8 : place + 8 + length])
        place += 8 + length
    try:
        document = json.loads(chunks.get(JSON_CHUNK, b""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a glTF 2.0 file: {str(error)[:100]}") from None
    if not isinstance(document, dict):
        raise UserError(f"not a glTF: {described(document)} at its top")
    return document, chunks.get(BINARY_CHUNK)


def _bytes(file: Path) -> bytes:
    if (size := file.stat().st_size) > LARGEST:
        raise UserError(f"{file.name[:80]}: {size / 1e9:.1f} GB; {LARGEST / 1e9:.1f} GB at most are read")
    return file.read_bytes()
