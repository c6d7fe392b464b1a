"""Draws a pack on a shelf, as seen from a random camera position.

A scene is a pack on a shelf: a backdrop, neighbours, something in the way, and light. A camera pose photographs it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.demo.products import PACK_PX, PRODUCTS, Canvas, Product, bgr, cue_mask, pack_picture

PHOTO_PX = 160  # side of a photo; a larger frame, such as a video's, gets sharper packs and a blur that grows with it

_RAILS = ("F1F3F5", "E03131", "FAB005", "495057", "2F9E44")
_PRICES = ("0.89", "1.29", "1.99", "2.49")
SKINS = (("F1C9A5", "D9A47C", "F9E0CC"), ("C68642", "9F6730", "DDAA77"), ("7A4B2A", "55321A", "A87650"))

_CAMERA_DISTANCE = 2.5  # units; near enough for visible perspective
_LIGHT_CELLS = 8  # light is soft: a coarse grid, enlarged
_MARGIN = 0.15  # room for a pack's shadow, as a share of its side
_BACKDROP = (3.2, 1.9, 1.35)  # width, height, and height above the shelf, in units
_BACKDROP_UNIT_PX = 160
_COVER_GRID_PX = 72  # side of a pack's square where covered cells are counted
_MAX_PACK_HIDDEN = 0.15
_MAX_CUE_HIDDEN = 0.10  # a tenth of what distinguishes a family's packs leaves every digit and letter readable


@dataclass(frozen=True)
class Layer:
    """An image in a scene.

    Attributes:
        picture: `(h, w, 4)` uint8: BGR times opacity, and opacity.
        to_world: `(3, 3)`, from its pixels to the world: one unit is the side of a pack's square, x runs from the
            product's middle to the right, y from the shelf down.
    """

    picture: NDArray[np.uint8]
    to_world: NDArray[np.float64]


@dataclass(frozen=True)
class _Extent:
    """How large a pack is and where in its square it stands, in units."""

    width: float
    height: float
    middle: float
    bottom: float


@dataclass(frozen=True)
class Scene:
    """What stays the same while the camera moves.

    Attributes:
        backdrop: Opaque, and mirrored where it ends.
        layers: In front of it, back to front.
        gain: `(n, n, 3)` float32 over the frame, what the light does to a pixel.
        glare: `(n, n, 3)` float32 over the frame, grey levels that it adds.
        blur: Kernel of defocus and motion.
        noise: Standard deviation of the sensor's noise in grey levels.
    """

    backdrop: Layer
    layers: tuple[Layer, ...]
    gain: NDArray[np.float32]
    glare: NDArray[np.float32]
    blur: NDArray[np.float32]
    noise: float


@dataclass(frozen=True)
class Pose:
    """Where the camera looks: at (x, y) in the world, turned by angles in radians, `zoom` frame sides to a unit."""

    x: float
    y: float
    yaw: float
    pitch: float
    roll: float
    zoom: float

    def towards(self, end: Pose, share: float) -> Pose:
        """The pose at a share, 0 to 1, of the way to another."""
        return Pose(
            *((1 - share) * here + share * there for here, there in zip(astuple(self), astuple(end), strict=True))
        )


def random_scene(product: Product, rng: np.random.Generator, *, frame_px: int) -> Scene:
    """A product's pack between neighbours, before a random shelf, in random light, for frames of a shorter side."""
    sprite_px = PACK_PX if frame_px > PHOTO_PX else PACK_PX // 2
    layers = [_neighbour(product, side, rng.uniform(0.0, 0.12), sprite_px, rng) for side in (-1, 1)]
    layers.append(_pack_layer(product, 0.0, sprite_px))
    obstacle = _random_obstacle(product, sprite_px, rng)
    if obstacle is not None:
        layers.append(obstacle)
    gain, glare = _random_light(rng)
    blur = _random_blur(frame_px, rng)
    return Scene(_backdrop_layer(rng), tuple(layers), gain, glare, blur, rng.uniform(1.0, 7.0))


def random_pose(product: Product, rng: np.random.Generator) -> Pose:
    """A pose that has the whole of the product's pack in view, more or less from the front."""
    extent = _pack_extent(product)
    return Pose(
        x=rng.uniform(-0.05, 0.05),
        y=-extent.height / 2 + rng.uniform(-0.05, 0.05),
        yaw=rng.uniform(-0.35, 0.35),
        pitch=rng.uniform(-0.25, 0.25),
        roll=rng.uniform(-0.20, 0.20),
        zoom=rng.uniform(0.86, 1.0) / max(extent.width, extent.height),
    )


def photograph(scene: Scene, pose: Pose, *, size_px: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Renders the scene with lens, light and sensor: `(height, width, 3)` uint8 BGR for `(width, height)`."""
    camera = _to_frame(pose, size_px)
    backdrop = camera @ scene.backdrop.to_world
    seen = cv2.warpPerspective(scene.backdrop.picture, backdrop, size_px, borderMode=cv2.BORDER_REFLECT)
    frame = cv2.cvtColor(seen, cv2.COLOR_BGRA2BGR)
    for layer in scene.layers:
        seen = cv2.warpPerspective(layer.picture, camera @ layer.to_world, size_px)
        behind = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(seen, 3)), cv2.COLOR_GRAY2BGR)
        frame = cv2.add(cv2.cvtColor(seen, cv2.COLOR_BGRA2BGR), cv2.multiply(frame, behind, scale=1 / 255))
    lit = cv2.filter2D(frame, -1, scene.blur).astype(np.float32)
    lit *= _over_frame(scene.gain, size_px)
    lit += _over_frame(scene.glare, size_px)
    lit += np.float32(scene.noise) * rng.standard_normal((*lit.shape[:2], 1), np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)


def _to_frame(pose: Pose, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """Homography from the world's plane to a frame: a pinhole camera that the plane turns in front of.

    A point p of the plane, relative to (x, y), is seen at f (R p)_xy / (D + (R p)_z), with R = R_roll R_pitch R_yaw and
    f so that a unit at the distance D is `zoom` frame sides wide.
    """
    (sin_yaw, sin_pitch, sin_roll), (cos_yaw, cos_pitch, cos_roll) = (
        function([pose.yaw, pose.pitch, pose.roll]) for function in (np.sin, np.cos)
    )
    yaw = np.array([[cos_yaw, 0, sin_yaw], [0, 1, 0], [-sin_yaw, 0, cos_yaw]])
    pitch = np.array([[1, 0, 0], [0, cos_pitch, -sin_pitch], [0, sin_pitch, cos_pitch]])
    roll = np.array([[cos_roll, -sin_roll, 0], [sin_roll, cos_roll, 0], [0, 0, 1]])
    plane = (roll @ pitch @ yaw)[:, :2]
    offset = np.array([0, 0, _CAMERA_DISTANCE]) - plane @ (pose.x, pose.y)
    focal_px = pose.zoom * min(size_px) * _CAMERA_DISTANCE
    lens = np.array([[focal_px, 0, (size_px[0] - 1) / 2], [0, focal_px, (size_px[1] - 1) / 2], [0, 0, 1]])
    return np.asarray(lens @ np.column_stack([plane, offset]))


def _over_frame(light: NDArray[np.float32], size_px: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(light, size_px, interpolation=cv2.INTER_LINEAR), np.float32)


def _random_light(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain (brightness, cast, gradient) and glare (haze, one soft spot) on a coarse grid over the frame."""
    cast = rng.uniform(0.72, 1.08) * rng.uniform(0.92, 1.08, 3)
    corners = rng.uniform(0.82, 1.18, (2, 2)).astype(np.float32)
    gradient = cv2.resize(corners, (_LIGHT_CELLS, _LIGHT_CELLS), interpolation=cv2.INTER_LINEAR)
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, _LIGHT_CELLS)])
    spot_x, spot_y, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.10, 0.25)
    spot = rng.uniform(0, 80) * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * radius**2))
    glare = spot + rng.uniform(0, 20)
    return (gradient[..., None] * cast).astype(np.float32), np.repeat(glare[..., None], 3, axis=2).astype(np.float32)


def _random_blur(frame_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A tilted Gaussian, round for defocus and long for motion, normalized."""
    scale = frame_px / PHOTO_PX
    along, across = rng.uniform(0.2, 1.2) * scale, rng.uniform(0.2, 0.8) * scale
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(2.5 * max(along, across)))
    x, y = np.meshgrid(*2 * [np.arange(-reach, reach + 1)])
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


# ---- packs and obstacles


def _pack_layer(product: Product, x: float, sprite_px: int) -> Layer:
    extent = _pack_extent(product)
    return _layer(pack_sprite(product, sprite_px), at=(x - extent.middle, -extent.bottom), side=1.0)


def _neighbour(product: Product, side: int, gap: float, sprite_px: int, rng: np.random.Generator) -> Layer:
    """A pack to the left (-1) or right (1); often of the same family, as on a real shelf. A negative gap overlaps."""
    family = [other for other in PRODUCTS if other.coarse == product.coarse]
    choice = family if rng.random() < 0.5 and family else PRODUCTS
    other = choice[rng.integers(len(choice))]
    distance = (_pack_extent(product).width + _pack_extent(other).width) / 2 + gap
    return _pack_layer(other, side * distance, sprite_px)


def _overlapping_neighbour(product: Product, sprite_px: int, rng: np.random.Generator) -> Layer:
    return _neighbour(product, int(rng.choice((-1, 1))), -rng.uniform(0.03, 0.10), sprite_px, rng)


def _random_obstacle(product: Product, sprite_px: int, rng: np.random.Generator) -> Layer | None:
    """In half of the scenes a hand, a price tag or a neighbour in front, where it leaves the cue readable."""
    if rng.random() < 0.5:
        return None
    kinds = (_hand, _tag, _overlapping_neighbour)
    kind = kinds[rng.integers(len(kinds))]
    for _ in range(8):
        obstacle = kind(product, sprite_px, rng)
        if not _hides_too_much(product, obstacle):
            return obstacle
    return None


def _hand(product: Product, sprite_px: int, rng: np.random.Generator) -> Layer:
    """Fingers that reach for the pack from its left or right."""
    extent = _pack_extent(product)
    side = int(rng.choice((-1, 1)))
    skin = SKINS[rng.integers(len(SKINS))]
    x, y = side * (extent.width / 2 - rng.uniform(0.02, 0.16)), -extent.height * rng.uniform(0.25, 1.0)
    return _layer(hand_sprite(skin, sprite_px), at=(x, y - 0.45), side=0.9, mirrored=side < 0)


def _tag(product: Product, sprite_px: int, rng: np.random.Generator) -> Layer:
    """A price tag that stands up from the rail."""
    width = _pack_extent(product).width
    price = _PRICES[rng.integers(len(_PRICES))]
    x, y = rng.uniform(-width / 2 - 0.1, width / 2 - 0.25), -rng.uniform(0.0, 0.16)
    return _layer(_tag_sprite(price, sprite_px), at=(x, y), side=0.36)


def _hides_too_much(product: Product, obstacle: Layer) -> bool:
    extent = _pack_extent(product)
    cells = _COVER_GRID_PX
    to_grid = np.array([[cells, 0, cells * extent.middle - 0.5], [0, cells, cells * extent.bottom - 0.5], [0, 0, 1]])
    opacity = np.ascontiguousarray(obstacle.picture[..., 3])
    covered = cv2.warpPerspective(opacity, to_grid @ obstacle.to_world, (cells, cells)) > 127
    pack, cue = _cover_masks(product)
    return bool(
        (covered & pack).sum() > _MAX_PACK_HIDDEN * pack.sum() or (covered & cue).sum() > _MAX_CUE_HIDDEN * cue.sum()
    )


# ---- images that are drawn once and cached


@cache
def _pack_extent(product: Product) -> _Extent:
    rows, columns = (np.flatnonzero((pack_picture(product)[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
    left, top, right, bottom = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / PACK_PX
    return _Extent(right - left, bottom - top, (left + right) / 2, bottom)


@cache
def _cover_masks(product: Product) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pack and its cue on a coarse grid."""
    pack = pack_picture(product)[..., 3] > 127
    return _coarse(pack), _coarse(cue_mask(product.coarse))


def _coarse(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    size = (_COVER_GRID_PX, _COVER_GRID_PX)
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127)


@cache
def pack_sprite(product: Product, sprite_px: int) -> NDArray[np.uint8]:
    """A product's pack, as `with_shadow` gives it."""
    return with_shadow(pack_picture(product), sprite_px)


@cache
def hand_sprite(skin: tuple[str, str, str], sprite_px: int) -> NDArray[np.uint8]:
    """A hand that reaches to the left, as `with_shadow` gives it; `skin` is one of `SKINS`."""
    light, dark, nail = skin
    canvas = Canvas()
    canvas.body("100,26 60,24~ 46,30~ 46,74~ 62,80~ 100,78", light)
    for top, tip in ((26, 9), (38, 2), (50, 4), (62, 13)):
        canvas.body(f"70,{top} {tip},{top}~ {tip},{top + 11.4}~ 70,{top + 11.4}", light)
    for top, tip in ((26, 9), (38, 2), (50, 4), (62, 13)):
        canvas.line(f"{tip + 7},{top + 11.6} 56,{top + 11.6}", dark, 0.9)
        canvas.line(f"{tip + 20},{top + 3.5} {tip + 20},{top + 8}", dark, 0.6)
        canvas.fill(
            f"{tip + 9},{top + 2.6} {tip + 1.6},{top + 2.6}~ {tip + 1.6},{top + 8.8}~ {tip + 9},{top + 8.8}", nail
        )
    return with_shadow(canvas.picture(), sprite_px)


@cache
def _tag_sprite(price: str, sprite_px: int) -> NDArray[np.uint8]:
    return with_shadow(_tag_picture(price), sprite_px)


@cache
def _tag_picture(price: str) -> NDArray[np.uint8]:
    canvas = Canvas()
    canvas.body("50,2 97,2~4 97,62~4 3,62~4 3,2~4 50,2", "FFFFFF")
    canvas.fill("0,0 100,0 100,15 0,15", "E03131")
    canvas.text(price, (60, 34, 66, 28), "212529", 1.6)
    for x, width in ((9, 1.4), (12, 0.7), (14, 1.6), (17, 0.7), (19.5, 1.4), (22, 0.7)):
        canvas.line(f"{x},23 {x},52", "212529", width)
    return canvas.picture()


def with_shadow(picture: NDArray[np.uint8], sprite_px: int) -> NDArray[np.uint8]:
    """A picture at `sprite_px`, premultiplied, with a soft shadow in a margin of `_MARGIN` of its side."""
    small = cv2.resize(picture, (sprite_px, sprite_px), interpolation=cv2.INTER_AREA)
    margin = round(_MARGIN * sprite_px)
    padded = np.pad(small, ((margin, margin), (margin, margin), (0, 0))).astype(np.float32)
    opacity = padded[..., 3] / 255
    shift = np.array([[1, 0, 0.015 * sprite_px], [0, 1, 0.010 * sprite_px]])
    shadow = cv2.warpAffine(opacity, shift, opacity.shape[::-1])
    shadow = 0.55 * cv2.GaussianBlur(shadow, (0, 0), 0.03 * sprite_px)
    premultiplied = padded[..., :3] * opacity[..., None]
    return np.asarray(np.dstack([premultiplied, 255 * (opacity + (1 - opacity) * shadow)]), np.uint8)


def _layer(sprite: NDArray[np.uint8], *, at: tuple[float, float], side: float, mirrored: bool = False) -> Layer:
    """Puts the top left corner of a sprite's square, `side` wide, at a place in the world."""
    unit_px = sprite.shape[0] / (1 + 2 * _MARGIN)
    step, corner = side / unit_px, (0.5 / unit_px - _MARGIN) * side
    direction = -1 if mirrored else 1
    to_world = [[direction * step, 0, at[0] + direction * corner], [0, step, at[1] + corner], [0, 0, 1]]
    return Layer(sprite, np.array(to_world))


# ---- shelves


def _backdrop_layer(rng: np.random.Generator) -> Layer:
    picture = backdrop(int(rng.integers(len(_WALLS) * len(_RAILS))))
    width, _, shelf = _BACKDROP
    slide = rng.uniform(-0.25, 0.25)
    to_world = [[1 / _BACKDROP_UNIT_PX, 0, slide - width / 2], [0, 1 / _BACKDROP_UNIT_PX, -shelf], [0, 0, 1]]
    return Layer(picture, np.array(to_world))


@cache
def backdrop(style: int) -> NDArray[np.uint8]:
    """A wall, a board and a price rail, `(h, w, 4)` uint8 BGR and opacity."""
    rng = np.random.default_rng(style)
    width_px, height_px, shelf_px = (round(length * _BACKDROP_UNIT_PX) for length in _BACKDROP)
    wall, rail = _WALLS[style // len(_RAILS)], _RAILS[style % len(_RAILS)]
    picture = wall(width_px, height_px, rng) * np.linspace(0.75, 1.0, height_px)[:, None, None]
    px = _BACKDROP_UNIT_PX
    board = np.linspace(0.62, 1.0, round(0.10 * px))[:, None, None] * bgr("D8D5CF")
    picture[shelf_px - round(0.06 * px) :][: len(board)] = board
    top = shelf_px + round(0.04 * px)
    shine = 0.75 + 0.3 * np.sin(np.linspace(0.3, 2.8, round(0.24 * px)))[:, None, None]
    picture[top:][: len(shine)] = shine * bgr(rail)
    picture[top + len(shine) :] = np.linspace(0.10, 0.35, height_px - top - len(shine))[:, None, None] * 255
    picture_u8 = _with_price_tags(np.clip(picture, 0, 255).astype(np.uint8), top + round(0.03 * px), rng)
    return np.asarray(cv2.cvtColor(picture_u8, cv2.COLOR_BGR2BGRA), np.uint8)  # OpenCV warps four channels faster


def _with_price_tags(picture: NDArray[np.uint8], top: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    side = round(0.28 * _BACKDROP_UNIT_PX)
    for left in range(20, picture.shape[1] - side, round(0.62 * _BACKDROP_UNIT_PX)):
        tag = cv2.resize(_tag_picture(_PRICES[rng.integers(len(_PRICES))]), (side, side), interpolation=cv2.INTER_AREA)
        opacity = tag[..., 3:] / np.float32(255)
        place = picture[top : top + side, left : left + side]
        place[:] = place + opacity * (tag[..., :3].astype(np.float32) - place)
    return picture


def _planks(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    grain = cv2.resize(rng.uniform(-1, 1, (height_px, 9)), (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    plank = np.arange(height_px) // 44
    tone = 1 + 0.12 * rng.uniform(-1, 1, plank[-1] + 1)[plank] - 0.45 * (np.arange(height_px) % 44 < 2)
    return np.asarray((tone[:, None] + 0.07 * grain)[..., None] * bgr("A9794C"))


def _perforated_metal(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    wall = np.full((height_px, width_px), 1.0) + 0.015 * rng.standard_normal((height_px, width_px))
    for y in range(12, height_px, 26):
        for x in range(12, width_px, 26):
            cv2.circle(wall, (x, y + 1), 5, 1.12, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(wall, (x, y), 5, 0.5, cv2.FILLED, cv2.LINE_AA)
    return np.asarray(wall[..., None] * bgr("A6ADB4"))


def _painted(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    stains = cv2.resize(rng.uniform(-1, 1, (4, 7)), (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray((1 + 0.06 * stains)[..., None] * bgr("E4DFD3"))


def _cooler(width_px: int, height_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    sheen = cv2.resize(rng.uniform(0.8, 1.0, (3, 5)), (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    seams = np.ones(width_px)
    seams[::36], seams[1::36] = 1.25, 0.7
    return np.asarray((sheen * seams)[..., None] * bgr("5C7F96"))


_WALLS = (_planks, _perforated_metal, _painted, _cooler)
