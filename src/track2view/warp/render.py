"""Re-film a clip without weights: every target frame from the source frame of the same time, then from other times."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from track2view.errors import UserError
from track2view.geometry import invert, pixel_centres
from track2view.records import CameraPath, Clip
from track2view.warp.densify import DenseDepth
from track2view.warp.fill import Imagined, complete, paint, textured
from track2view.warp.neighbours import AGREEMENT, agree, agreeing_neighbour, blurred, close_cracks, largest_around, own_colours
from track2view.warp.splat import look, splat_disparity, splat_nearest
from track2view.warp.spread import far_and_near

MAX_SUPERSAMPLING = 3
WIDEST_GAP = 1.35
"""Pixels of the target between points that land beside each other, from which on a surface would have holes: it lands in fewer."""
BACKGROUND_FRAMES = 12
MOVING_MARGIN = 9
LEAST_HOLE = 0.01
CUT_ANEW = 1.0
"""Pixels of the source by which neighbours were apart, from which on the outline between them is not one that the source shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedFrame:
    """One target frame.

    Attributes:
        colour: RGB, complete: what was never seen is painted in.
        seen: pixels whose colour the source shows, at this time or another.
        seen_now: pixels whose colour the source shows at this time.
        disparity: inverse depth of what is seen, in the source camera's unit; elsewhere of no meaning.
        astray: by how many pixels what is seen may lie beside its place (a deviation), for its depth or the lens is not sure; 0 where
            not seen.
    """

    colour: UInt8[Tensor, "3 H W"]
    seen: Bool[Tensor, "H W"]
    seen_now: Bool[Tensor, "H W"]
    disparity: Float32[Tensor, "H W"]
    astray: Float32[Tensor, "H W"]

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """The colour, as pictures are written."""
        return np.ascontiguousarray(self.colour.permute(1, 2, 0).numpy())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Background:
    """Points of the still scene, each seen best in one frame."""

    xyz: Float32[Tensor, "P 3"]
    frame: Int64[Tensor, "P"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gathered:
    """What the clip shows of a target view.

    Attributes:
        picture: colour, how far astray (pixels) and whether it moves.
        surface: disparity.
        seen, seen_now: as of a :class:`RenderedFrame`.
        clean: seen pixels whose colour is their own. What lies beside an outline of the source is tinged by what is before it: there it
            looks right, and anywhere else like the outline's ghost.
    """

    picture: Float32[Tensor, "5 H W"]
    surface: Float32[Tensor, "H W"]
    seen: Bool[Tensor, "H W"]
    seen_now: Bool[Tensor, "H W"]
    clean: Bool[Tensor, "H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Canvas:
    """A target view while it is gathered, pixel by pixel in one row; its tensors are filled in place.

    Attributes:
        surface, picture, seen, clean: as of :class:`_Gathered`.
        around: the largest disparity about each pixel: beside an outline, what is tinged is as it should be.
    """

    path: CameraPath
    frame: int
    surface: Float32[Tensor, "P"]
    around: Float32[Tensor, "P"]
    picture: Float32[Tensor, "5 P"]
    seen: Bool[Tensor, "P"]
    clean: Bool[Tensor, "P"]

    @staticmethod
    def blank(path: CameraPath, frame: int, surface: Float32[Tensor, "H W"], reach: int) -> "_Canvas":
        """Nothing seen yet of what lands as ``surface``."""
        count, device = surface.numel(), surface.device
        return _Canvas(
            path=path,
            frame=frame,
            surface=surface.reshape(-1),
            around=largest_around(surface, reach).reshape(-1),
            picture=torch.zeros(5, count, device=device),
            seen=torch.zeros(count, dtype=torch.bool, device=device),
            clean=torch.zeros(count, dtype=torch.bool, device=device),
        )

    def enter(
        self, where: Int64[Tensor, "n"], colour: Float32[Tensor, "3 n"], beside: Float32[Tensor, "2 n"], own: Bool[Tensor, "n"]
    ) -> None:
        """Pixels that are seen now: their colour, what the picture holds beside it, and whether that colour is their own."""
        self.picture[:3, where], self.picture[3:, where] = colour, beside
        self.seen[where], self.clean[where] = True, own


class WarpRenderer:
    """Renders any number of target paths from one clip with depth.

    Args:
        clip: the source.
        depth: of every frame of it.
        camera: its path.
        device: where to compute; "cpu" or "cuda".
        lens_deviation: of the logarithm of the path's focal length, where that was found and not given.
    """

    def __init__(self, clip: Clip, depth: DenseDepth, camera: CameraPath, device: str = "cpu", lens_deviation: float = 0.0) -> None:
        if not len(clip) == len(depth.disparity) == len(camera):
            raise UserError(f"clip, depth and camera disagree on frames: {len(clip)}, {len(depth.disparity)}, {len(camera)}")
        self.clip, self.depth, self.device = clip, depth, torch.device(device)
        self.camera, self.lens_deviation = camera.resized(clip.size), lens_deviation
        self.rim = -(-clip.size[0] // depth.disparity.shape[1])
        self._view = lru_cache(maxsize=BACKGROUND_FRAMES + 1)(self._load)
        self.background = self._gather_background()

    def render(self, target: CameraPath, frame: int, imagined: Imagined | None = None) -> RenderedFrame:
        """The target view at one time.

        Args:
            imagined: what :meth:`imagine` made up for this path; without it, what was never seen is smooth.
        """
        found = self._gathered(target, frame)
        made_up = None if imagined is None else imagined.seen_by(target, frame)
        colour, clean = own_colours(found.picture[:3], found.seen, found.clean, found.surface, self.rim + 1)
        soft = self._softened(colour, clean, found.surface, target, frame)
        painted = complete(soft, found.seen, clean, found.surface, made_up)
        return RenderedFrame(
            colour=(painted * 255).round().clamp(0, 255).to(torch.uint8).cpu(),
            seen=found.seen.cpu(),
            seen_now=found.seen_now.cpu(),
            disparity=found.surface.cpu(),
            astray=found.picture[3].cpu(),
        )

    def seen(self, target: CameraPath, frame: int) -> Bool[Tensor, "H W"]:
        """Which pixels of the target view the source shows, at this time or another."""
        return self._gathered(target, frame).seen.cpu()

    def imagine(self, target: CameraPath) -> Imagined:
        """What no frame shows and a path does: in its last view, where most of it is, then in its middle one and its first."""
        imagined = Imagined.nothing(target.size, self.device)
        small = target.resized(imagined.size)
        for frame in dict.fromkeys((len(target) - 1, len(target) // 2, 0)):
            found = self._gathered(small, frame)
            made_up, shown = imagined.seen_by(small, frame)
            known = found.clean | shown
            if float((~(found.seen | shown)).float().mean()) < LEAST_HOLE:
                continue
            moves = cv2.dilate(found.picture[4].cpu().numpy(), np.ones((MOVING_MARGIN, MOVING_MARGIN), np.uint8)) > 0.5
            still = known & ~torch.from_numpy(moves).to(self.device)
            colour, copied = textured(paint(torch.where(found.clean, found.picture[:3], made_up), still, found.surface), still)
            new = (copied & ~known).flatten()
            disparity = paint(found.surface[None], still & found.clean, found.surface).flatten()[new].clamp(min=1e-6)
            pose, intrinsics = small.world_from_camera[frame].float().to(self.device), small.intrinsics[frame].float().to(self.device)
            xyz = _lift(pixel_centres(*imagined.size).reshape(-1, 2).to(self.device)[new], disparity, pose, intrinsics)
            imagined = imagined.beside(xyz, colour.flatten(1).T[new])
        return imagined

    def _gathered(self, target: CameraPath, frame: int) -> _Gathered:
        canvas = _Canvas.blank(target, frame, self._land(target, frame), self.rim + 1)
        self._look_back(canvas, frame, torch.arange(len(canvas.surface), device=self.device), canvas.surface)
        seen_now = canvas.seen.clone()
        self._fill_from_other_times(canvas)
        return _Gathered(
            picture=canvas.picture.reshape(5, *target.size),
            surface=canvas.surface.reshape(target.size),
            seen=canvas.seen.reshape(target.size),
            seen_now=seen_now.reshape(target.size),
            clean=canvas.clean.reshape(target.size),
        )

    def _land(self, target: CameraPath, frame: int) -> Float32[Tensor, "H W"]:
        """Disparity in the target of what the source shows at this time; 0 where it shows nothing."""
        matrix, shift = _relate(
            self.camera.world_from_camera[frame],
            self.camera.intrinsics[frame],
            target.world_from_camera[frame],
            target.intrinsics[frame],
            self.device,
        )
        height, width = self.clip.size
        zoom = float(target.intrinsics[frame, 0, 0] / self.camera.intrinsics[frame, 0, 0]) * height / target.size[0]
        _, disparity, _ = self._view(frame)
        middle = torch.tensor([width / 2, height / 2, 1.0], device=self.device)
        approach = float((matrix[2] @ middle + shift[2] * disparity.median()).clamp(min=0.2))
        scale = target.size[0] / height * zoom / approach
        fine = min(MAX_SUPERSAMPLING, max(1, math.ceil(scale - WIDEST_GAP + 1)))
        if fine > 1:
            disparity = torch.from_numpy(
                cv2.resize(disparity.cpu().numpy(), (width * fine, height * fine), interpolation=cv2.INTER_NEAREST)
            ).to(self.device)
        centres = (pixel_centres(height * fine, width * fine) / fine).to(self.device).reshape(-1, 2)
        pixels, landed = _carry(centres, disparity.reshape(-1), matrix, shift)
        coarse = max(1.0, scale / fine / WIDEST_GAP)
        size = math.ceil(target.size[0] / coarse), math.ceil(target.size[1] / coarse)
        shrunk = torch.tensor([size[1] / target.size[1], size[0] / target.size[0]], device=self.device)
        surface = close_cracks(*splat_disparity(pixels * shrunk, landed, size))
        return interpolate(surface[None, None], size=target.size, mode="nearest-exact")[0, 0]

    def _softened(
        self, colour: Float32[Tensor, "3 H W"], seen: Bool[Tensor, "H W"], surface: Float32[Tensor, "H W"], target: CameraPath, frame: int
    ) -> Float32[Tensor, "3 H W"]:
        """Outlines as soft as a lens draws them, where what is beside each other here is apart in the source: there they are cut anew."""
        _, shift = _relate(
            target.world_from_camera[frame],
            target.intrinsics[frame],
            self.camera.world_from_camera[frame],
            self.camera.intrinsics[frame],
            self.device,
        )
        near = largest_around(torch.where(seen, surface, -math.inf))
        far = -largest_around(torch.where(seen, -surface, -math.inf))
        centres = pixel_centres(*target.size).to(self.device)
        apart = (near - far) * (shift[:2] - centres * shift[2]).norm(dim=-1)
        share = blurred(seen[None].float())
        soft = blurred(colour * seen) / share.clamp(min=1e-6)
        outline = seen & (near > far * (1 + AGREEMENT)) & (apart > CUT_ANEW)
        return torch.where(outline, soft, colour)

    def _look_back(self, canvas: _Canvas, source_frame: int, where: Int64[Tensor, "n"], surface: Float32[Tensor, "n"]) -> None:
        """Enter the colour of those target pixels ``where`` whose ``surface`` a source frame indeed shows, and how far they may be
        astray; of those that are seen, but tinged, where it is clean there."""
        source = self.camera.world_from_camera[source_frame], self.camera.intrinsics[source_frame]
        target = canvas.path.world_from_camera[canvas.frame], canvas.path.intrinsics[canvas.frame]
        matrix, shift = _relate(*target, *source, self.device)
        forth, back = _relate(*source, *target, self.device)
        longer = _relate(*source, *target, self.device, longer=math.exp(self.lens_deviation))
        (height, width), across = self.clip.size, canvas.path.size[1]
        centres = torch.stack([where % across, where // across], dim=-1).float() + 0.5
        pixels, expected = _carry(centres, surface, matrix, shift)
        image, disparity, behind_outline = self._view(source_frame)
        grid = (pixels / torch.tensor([width / 2, height / 2], device=self.device) - 1)[None, None]
        sampled = grid_sample(image[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0, :, 0].clamp(0, 1)
        by_lens = (_carry(pixels, expected, *longer)[0] - _carry(pixels, expected, forth, back)[0]).norm(dim=-1)
        by_depth = sampled[3] * surface * (back[:2] - centres * back[2]).norm(dim=-1)
        beside_colour = torch.stack([torch.hypot(by_depth, by_lens), sampled[4]])
        column, row = pixels[:, 0].long().clamp(0, width - 1), pixels[:, 1].long().clamp(0, height - 1)
        inside = (pixels >= 0).all(-1) & (pixels[:, 0] <= width) & (pixels[:, 1] <= height)
        shown, agrees = (surface > 0) & inside, agree(disparity[row, column], expected)
        opened = canvas.around[where] < surface * (1 + AGREEMENT)
        own = ~(opened & behind_outline[row, column])
        good = shown & agrees & (own | ~canvas.seen[where])
        canvas.enter(where[good], sampled[:3, good], beside_colour[:, good], own[good])
        near = (shown & ~agrees).nonzero()[:, 0]
        row, column, agrees = agreeing_neighbour(disparity, row[near], column[near], expected[near])
        own = ~(opened[near] & behind_outline[row, column])
        agrees &= own | ~canvas.seen[where[near]]
        row, column, own, near = row[agrees], column[agrees], own[agrees], near[agrees]
        canvas.enter(where[near], 0.5 * (image[:3, row, column] + sampled[:3, near]), beside_colour[:, near], own)

    def _fill_from_other_times(self, canvas: _Canvas) -> None:
        """Enter in holes the still scene as other frames saw it."""
        if bool(canvas.clean.all()) or not len(self.background.xyz):
            return
        (height, width), frame = canvas.path.size, canvas.frame
        half = (-(-height // 2), -(-width // 2))
        pixels, landed = look(self.background.xyz, canvas.path.world_from_camera[frame], canvas.path.intrinsics[frame])
        winner = splat_nearest(pixels / 2, landed, half)
        filled = winner >= 0
        behind = torch.where(filled, landed[winner.clamp(min=0)], torch.zeros(half, device=self.device))
        behind = close_cracks(behind, filled.float())
        shown_in = torch.where(filled, self.background.frame[winner.clamp(min=0)], torch.full_like(winner, -1))
        hole = (~canvas.clean).nonzero()[:, 0]
        cell = (hole // width) // 2 * half[1] + (hole % width) // 2
        behind = torch.where(canvas.seen[hole], canvas.surface[hole], behind.reshape(-1)[cell])
        shown_in = shown_in.reshape(-1)[cell]
        for other in sorted(shown_in.unique().tolist(), key=lambda each: abs(each - frame)):
            wanted = (shown_in == other) & (behind > 0) & ~canvas.clean[hole]
            if other >= 0 and bool(wanted.any()):
                self._look_back(canvas, other, hole[wanted], behind[wanted])
        filled_now = canvas.seen[hole]
        canvas.surface[hole[filled_now]] = behind[filled_now]

    def _gather_background(self) -> _Background:
        """The still scene from a few frames, each adding only what those before it did not show.

        Slopes between near and far are left out: drawn out in another view, their points would lie scattered in what nobody saw.
        """
        count = len(self.clip)
        keyframes = np.unique(np.linspace(0, count - 1, min(BACKGROUND_FRAMES, count)).round().astype(int)).tolist()
        order = sorted(keyframes, key=lambda each: (each not in (keyframes[0], keyframes[-1]), each))
        height, width = self.clip.size
        half = (-(-height // 2), -(-width // 2))
        centres = (pixel_centres(*half) * 2).reshape(-1, 2).clamp(max=max(self.clip.size)).to(self.device)
        xyz, frames = torch.zeros(0, 3, device=self.device), torch.zeros(0, dtype=torch.int64, device=self.device)
        for key in order:
            moving = cv2.dilate(self.depth.moving_at(key, half).astype(np.uint8), np.ones((MOVING_MARGIN, MOVING_MARGIN), np.uint8))
            found = self.depth.at(key, half)
            far, near = far_and_near(found, 3)
            drawn_out = near > far * (1 + AGREEMENT)
            disparity = torch.from_numpy(found).to(self.device).reshape(-1)
            pixels, landed = look(xyz, self.camera.world_from_camera[key], self.camera.intrinsics[key])
            known, coverage = splat_disparity(pixels / 2, landed, half)
            known = close_cracks(known, coverage).reshape(-1)
            new = torch.from_numpy((moving == 0) & ~drawn_out).to(self.device).reshape(-1)
            new &= (known <= 0) | (disparity > known * (1 + AGREEMENT)) | (disparity < known * (1 - AGREEMENT))
            pose, intrinsics = (
                self.camera.world_from_camera[key].float().to(self.device),
                self.camera.intrinsics[key].float().to(self.device),
            )
            points = _lift(centres[new], disparity[new], pose, intrinsics)
            xyz, frames = torch.cat([xyz, points]), torch.cat([frames, torch.full((len(points),), key, device=self.device)])
        return _Background(xyz=xyz, frame=frames)

    def _load(self, frame: int) -> tuple[Float32[Tensor, "5 h w"], Float32[Tensor, "h w"], Bool[Tensor, "h w"]]:
        """A source frame in [0, 1] with its disparity's deviation and what moves; its disparity; and what lies behind an outline beside
        it, whose colour is in part that of what is before it. ``_view`` keeps the few frames that a target frame draws on."""
        disparity = torch.from_numpy(self.depth.at(frame, self.clip.size)).to(self.device)
        deviation = torch.from_numpy(self.depth.deviation_at(frame, self.clip.size)).to(self.device)
        moving = torch.from_numpy(self.depth.moving_at(frame, self.clip.size)).to(self.device)
        picture = torch.cat([self.clip.frames[frame].to(self.device).float() / 255, deviation[None], moving[None].float()])
        return picture, disparity, largest_around(disparity, self.rim) > disparity * (1 + AGREEMENT)


def _lift(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], pose: Float32[Tensor, "4 4"], intrinsics: Float32[Tensor, "3 3"]
) -> Float32[Tensor, "n 3"]:
    """World points of a camera's pixels."""
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1) @ torch.linalg.inv(intrinsics).T
    return (rays / disparity[:, None]) @ pose[:3, :3].T + pose[:3, 3]


def _relate(
    world_from_a: Tensor, intrinsics_a: Tensor, world_from_b: Tensor, intrinsics_b: Tensor, device: torch.device, longer: float = 1.0
) -> tuple[Float32[Tensor, "3 3"], Float32[Tensor, "3"]]:
    """``M, s`` such that a pixel p of camera a with disparity d lands in b along ``M (p, 1) + s d``, if both lenses were so much longer."""
    stretch = torch.ones(3, 3, dtype=intrinsics_a.dtype)
    stretch[:2, :2] = longer
    intrinsics_a, intrinsics_b = intrinsics_a * stretch, intrinsics_b * stretch
    b_from_a = invert(world_from_b) @ world_from_a
    matrix = intrinsics_b @ b_from_a[:3, :3] @ torch.linalg.inv(intrinsics_a)
    return matrix.float().to(device), (intrinsics_b @ b_from_a[:3, 3]).float().to(device)


def _carry(
    pixels: Float32[Tensor, "n 2"], disparity: Float32[Tensor, "n"], matrix: Float32[Tensor, "3 3"], shift: Float32[Tensor, "3"]
) -> tuple[Float32[Tensor, "n 2"], Float32[Tensor, "n"]]:
    """Where pixels with disparity land, and their disparity there (0 where behind the camera)."""
    homogeneous = pixels @ matrix[:, :2].T + matrix[:, 2] + disparity[:, None] * shift
    front = homogeneous[:, 2] > 1e-4
    scale = 1 / homogeneous[:, 2].clamp(min=1e-4)
    return homogeneous[:, :2] * scale[:, None], torch.where(front, disparity * scale, torch.zeros_like(disparity))
