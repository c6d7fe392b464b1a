"""Simulates a camera above a shelf while people shop, with the true content of each slot.

Two boards of four slots. Packs are taken, put back, swapped for look-alikes and for packs that no model was trained
on; hands reach in, people walk by and stand in the way; the light drifts and is switched; the sensor is noisy. A slot's
truth is a product's name, `empty`, `unknown` or `occluded`, or None while something half covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.demo.products import PRODUCTS, Product, bgr, other_pack
from edgebcnn.demo.scene import SKINS, backdrop, hand_sprite, pack_sprite

EMPTY, UNKNOWN, OCCLUDED = "empty", "unknown", "occluded"

WIDTH_PX, HEIGHT_PX = 640, 480
COLUMNS, ROWS = 4, 2
SLOTS = COLUMNS * ROWS

_ROW_PX, _COLUMN_PX = HEIGHT_PX // ROWS, WIDTH_PX // COLUMNS
_BOARD_PX = 195  # from the top of a row to its board
_PACK_PX = 140
_SLOT_MARGIN_PX = 5  # as a careful person draws a slot around a pack
FOREIGN = ("XOLMI", "BADDU", "QUENT")
_CLEAR_SHARE, _COVERED_SHARE = 0.02, 0.7  # of a slot's area, where an obstacle begins to matter and where it hides it

_TOUCH_S, _PASS_S = 1.0, 2.0  # a hand's way in or out; a person's way through the frame
_STAND_S = 12.0
_BETWEEN_S = 5.0  # from the end of one visit to the start of the next


@dataclass(frozen=True)
class ShelfFrame:
    """A frame of the shelf with its ground truth.

    Attributes:
        index: From 0.
        time_s: Since the start.
        image_bgr: `(HEIGHT_PX, WIDTH_PX, 3)` uint8.
        truth: Of each slot.
    """

    index: int
    time_s: float
    image_bgr: NDArray[np.uint8]
    truth: tuple[str | None, ...]


@dataclass(frozen=True)
class _Visit:
    """Something in front of the shelf for a while; at `change_s` a slot gets another content, where it does."""

    start_s: float
    end_s: float
    sprite: NDArray[np.uint8]
    place: Callable[[float], tuple[float, float]]
    change_s: float = np.inf
    slot: int = 0
    content: str = EMPTY


class WatchedShelf:
    """A shelf, what is expected in each slot, and what happens to it; everything follows from the seed.

    Attributes:
        expected: Product of each slot, row by row.
        duration_s: How long it is watched.
    """

    def __init__(self, *, seed: int = 0, duration_s: float = 60.0, noise: float = 3.0, jpeg_quality: int = 90) -> None:
        self._rng = np.random.default_rng((seed, 77))
        self.duration_s = duration_s
        self._noise, self._jpeg_quality = noise, jpeg_quality
        self._style = int(self._rng.integers(20))
        self._phase = self._rng.uniform(0, 2 * np.pi, 3)
        choice = self._rng.permutation(len(PRODUCTS))[:SLOTS]
        self.expected: tuple[Product, ...] = tuple(PRODUCTS[i] for i in choice)
        self._boxes_px = [_box_px(product.name, slot) for slot, product in enumerate(self.expected)]
        self._at_start = self._first_contents()
        self._visits = self._plan()

    def boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """Left, top, right and bottom of each slot, in shares of the frame."""
        scale = np.array([WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX])
        return tuple(tuple(float(round(share, 4)) for share in box / scale) for box in self._boxes_px)  # type: ignore[misc]

    def fitting(self, slot: int) -> list[str]:
        """Names of the products whose packs are no larger than a slot."""
        return [product.name for product in PRODUCTS if _fits(product.name, slot, self._boxes_px[slot])]

    def toml(self, *, empty_picture: str | None = None, settle_s: float | None = None) -> str:
        """A slots file for it, a shelf per board; with the path of an image of the empty shelf where there is one."""
        lines = ['units = "share"', *([f'empty_picture = "{empty_picture}"'] if empty_picture else [])]
        lines += [f"\n[rules]\nsettle_s = {settle_s}"] if settle_s else []
        for slot, (product, box) in enumerate(zip(self.expected, self.boxes(), strict=True)):
            if slot % COLUMNS == 0:
                lines.append(f'\n[[shelf]]\nname = "Board {slot // COLUMNS + 1}"')
            name = f"{'AB'[slot // COLUMNS]}{slot % COLUMNS + 1}"
            lines.append(f'\n[[shelf.slot]]\nname = "{name}"\nproduct = "{product.name}"\nbox = {list(box)}')
        return "\n".join(lines) + "\n"

    def picture(self, contents: Sequence[str], *, time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The shelf with these contents, names of products, of `FOREIGN` packs or `EMPTY`, in the light of a moment."""
        return self._exposed(self._drawn(contents), time_s, rng)

    def empty_picture(self) -> NDArray[np.uint8]:
        """The shelf without any pack, taken in another light than any frame."""
        return self.picture((EMPTY,) * SLOTS, time_s=-20.0, rng=np.random.default_rng(5))

    def frames(self, *, fps: float = 10.0) -> Iterator[ShelfFrame]:
        """Every frame of the day, each drawn on demand."""
        contents, drawn = list(self._at_start), self._drawn(self._at_start)
        waiting = sorted((visit for visit in self._visits if np.isfinite(visit.change_s)), key=lambda v: v.change_s)
        rng = np.random.default_rng((self._style, 5))
        for index in range(round(self.duration_s * fps)):
            time_s = index / fps
            while waiting and waiting[0].change_s <= time_s:
                visit = waiting.pop(0)
                contents[visit.slot] = visit.content
                drawn = self._drawn(contents)
            scene, cover = drawn.copy(), np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
            for visit in self._visits:
                if visit.start_s <= time_s < visit.end_s:
                    place = visit.place(time_s - visit.start_s)
                    _paste(scene, visit.sprite, place)
                    _paste(cover, np.repeat(visit.sprite[..., 3:], 2, axis=2), place)
            yield ShelfFrame(index, time_s, self._exposed(scene, time_s, rng), self._truth(contents, cover))

    def _truth(self, contents: Sequence[str], cover: NDArray[np.uint8]) -> tuple[str | None, ...]:
        truth: list[str | None] = []
        for content, box in zip(contents, self._boxes_px, strict=True):
            left, top, right, bottom = box.astype(int)
            share = float((cover[max(0, top) : bottom, left:right] > 127).mean())
            seen = UNKNOWN if content in FOREIGN else content
            truth.append(OCCLUDED if share >= _COVERED_SHARE else None if share > _CLEAR_SHARE else seen)
        return tuple(truth)

    # ---- events

    def _first_contents(self) -> tuple[str, ...]:
        contents = [product.name for product in self.expected]
        wrong, empty, foreign = self._rng.permutation(SLOTS)[:3]
        contents[wrong], contents[empty], contents[foreign] = self._another(wrong), EMPTY, self._foreign()
        return tuple(contents)

    def _plan(self) -> list[_Visit]:
        """One visit after another, with contents that follow from what is there."""
        visits: list[_Visit] = []
        contents, start_s = list(self._at_start), _BETWEEN_S
        kinds = ["swap", "pass", "swap", "touch", "swap", "stand"]
        while start_s + 2 * _TOUCH_S + _STAND_S < self.duration_s - _BETWEEN_S:
            kind = kinds[len(visits) % len(kinds)]
            visit = self._person(start_s, stands=kind == "stand") if kind in ("pass", "stand") else None
            if visit is None:
                slot = int(self._rng.integers(SLOTS))
                if kind == "swap":
                    contents[slot] = self._next_content(slot, contents[slot])
                visit = self._hand(start_s, slot, contents[slot])
            visits.append(visit)
            start_s = visit.end_s + _BETWEEN_S
        return visits

    def _next_content(self, slot: int, now: str) -> str:
        right = self.expected[slot].name
        if now != right:
            return right
        return (EMPTY, self._another(slot), self._foreign(), EMPTY, self._another(slot))[self._rng.integers(5)]

    def _another(self, slot: int) -> str:
        """Mostly a look-alike of the family, as people put things back; else any pack that the place has room for."""
        expected = self.expected[slot]
        others = [name for name in self.fitting(slot) if name != expected.name]
        if self._rng.random() < 0.7:
            family = {product.name for product in PRODUCTS if product.coarse == expected.coarse}
            others = [name for name in others if name in family]
        return others[self._rng.integers(len(others))]

    def _foreign(self) -> str:
        return FOREIGN[self._rng.integers(len(FOREIGN))]

    def _hand(self, start_s: float, slot: int, content: str) -> _Visit:
        left, top, right, bottom = self._boxes_px[slot]
        from_right = slot % COLUMNS >= COLUMNS // 2
        sprite = _arm(SKINS[self._rng.integers(len(SKINS))])
        sprite = sprite if from_right else np.ascontiguousarray(sprite[:, ::-1])
        inside = left - 5 if from_right else right + 5 - sprite.shape[1]
        outside = WIDTH_PX if from_right else -sprite.shape[1]
        y = (top + bottom - sprite.shape[0]) / 2

        def place(since_s: float) -> tuple[float, float]:
            share = np.sin(np.pi / 2 * min(1.0, since_s / _TOUCH_S, (2 * _TOUCH_S - since_s) / _TOUCH_S))
            return float(outside + share * (inside - outside)), float(y)

        return _Visit(start_s, start_s + 2 * _TOUCH_S, sprite, place, start_s + _TOUCH_S, slot, content)

    def _person(self, start_s: float, *, stands: bool) -> _Visit:
        sprite = _torso(tuple(int(level) for level in self._rng.integers(40, 200, 3)))
        way = WIDTH_PX + sprite.shape[1]
        stop = self._rng.uniform(0.3, 0.7) * way

        def walks(since_s: float) -> tuple[float, float]:
            return WIDTH_PX - way * since_s / _PASS_S, 0.0

        def stays(since_s: float) -> tuple[float, float]:
            before_s = stop / way * _PASS_S
            walked_s = min(since_s, before_s) + max(0.0, since_s - before_s - _STAND_S)
            sway = 5 * np.sin(2 * np.pi * 0.4 * since_s) if since_s < before_s + _STAND_S / 2 else 0.0
            return WIDTH_PX - way * walked_s / _PASS_S + float(sway), 0.0

        duration_s = _PASS_S + (_STAND_S if stands else 0.0)
        return _Visit(start_s, start_s + duration_s, sprite, stays if stands else walks)

    # ---- rendering

    def _drawn(self, contents: Sequence[str]) -> NDArray[np.uint8]:
        scene = _walls(self._style).copy()
        for slot, content in enumerate(contents):
            if content != EMPTY:
                _paste(scene, *_stood(content, slot))
        return scene

    def _exposed(self, scene: NDArray[np.uint8], time_s: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Light that drifts, leans to one side and is dimmed in the last third; noise; and the camera's JPEG."""
        across = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None, :, None]
        drift = 0.9 + 0.15 * np.sin(2 * np.pi * time_s / 80 + self._phase[0])
        lean = 0.12 * np.sin(2 * np.pi * time_s / 55 + self._phase[1])
        cast = 1 + 0.03 * np.sin(2 * np.pi * time_s / 70 + self._phase[2]) * np.array([1, 0, -1], np.float32)
        dimmed = 0.75 if time_s > 2 / 3 * self.duration_s else 1.0
        lit = scene * (np.float32(drift * dimmed) * (1 + np.float32(lean) * across) * cast.astype(np.float32))
        lit += np.float32(self._noise) * rng.standard_normal((HEIGHT_PX, WIDTH_PX, 1), np.float32)
        _, encoded = cv2.imencode(
            ".jpg", np.clip(lit, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality]
        )
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def _box_px(content: str, slot: int) -> NDArray[np.float64]:
    """Left, top, right and bottom of a pack that stands in a slot, and a little more."""
    sprite, (left, top) = _stood(content, slot)
    rows, columns = (np.flatnonzero((sprite[..., 3] > 220).any(axis=axis)) for axis in (1, 0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) + np.round([left, top, left, top])
    return np.asarray(edges + _SLOT_MARGIN_PX * np.array([-1, -1, 1, 1]))


def _fits(content: str, slot: int, box: NDArray[np.float64]) -> bool:
    pack = _box_px(content, slot) - _SLOT_MARGIN_PX * np.array([-1, -1, 1, 1])
    return bool((pack[2:] - pack[:2] <= box[2:] - box[:2]).all())


def _paste(canvas: NDArray[np.uint8], sprite: NDArray[np.uint8], place: tuple[float, float]) -> None:
    """Puts a premultiplied sprite, whose last channel is opacity, on a canvas of one channel less (or none)."""
    left, top = round(place[0]), round(place[1])
    rows = slice(max(0, top), min(canvas.shape[0], top + sprite.shape[0]))
    columns = slice(max(0, left), min(canvas.shape[1], left + sprite.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    seen = sprite[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    behind = canvas[rows, columns]
    clear = 255 - seen[..., -1].astype(np.uint16)
    colour = seen[..., :-1] if behind.ndim == 3 else seen[..., 0]
    through = behind * (clear[..., None] if behind.ndim == 3 else clear) // 255
    behind[:] = np.minimum(255, colour + through)


@cache
def _walls(style: int) -> NDArray[np.uint8]:
    row = cv2.resize(backdrop(style)[..., :3], (WIDTH_PX, 380), interpolation=cv2.INTER_LINEAR)
    row = row[270 - _BOARD_PX :][:_ROW_PX]
    return np.asarray(np.concatenate([row] * ROWS), np.uint8)


@cache
def _stood(content: str, slot: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The sprite of a pack, as it was put into a slot: a little to one side, a little turned."""
    rng = np.random.default_rng([slot, *content.encode()])
    product = next((product for product in PRODUCTS if product.name == content), None)
    sprite = pack_sprite(product or other_pack(content), _PACK_PX)
    side = sprite.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-2.5, 2.5), rng.uniform(0.93, 1.0))
    sprite = np.asarray(cv2.warpAffine(sprite, turn, (side, side), flags=cv2.INTER_AREA), np.uint8)
    rows = np.flatnonzero((sprite[..., 3] > 220).any(axis=1))
    middle = (slot % COLUMNS + 0.5) * _COLUMN_PX
    board = slot // COLUMNS * _ROW_PX + _BOARD_PX
    return sprite, (middle - side / 2 + rng.uniform(-4, 4), float(board - rows[-1]))


@cache
def _arm(skin: tuple[str, str, str]) -> NDArray[np.uint8]:
    """A hand that comes from the right, and the arm behind it."""
    hand = hand_sprite(skin, _PACK_PX + 10)
    wrist = round(hand.shape[1] * 0.8)  # left of the margin
    return np.ascontiguousarray(np.pad(hand[:, :wrist], ((0, 0), (0, WIDTH_PX), (0, 0)), mode="edge"))


@cache
def _torso(clothes: tuple[int, ...]) -> NDArray[np.uint8]:
    """A person's back, as high as the image."""
    width = 260
    sprite = np.zeros((HEIGHT_PX, width, 4), np.uint8)
    colour = (*clothes, 255)
    cv2.ellipse(sprite, (width // 2, 70), (52, 66), 0, 0, 360, (*bgr("5A4632"), 255), cv2.FILLED)
    cv2.ellipse(sprite, (width // 2, HEIGHT_PX), (width // 2 - 2, HEIGHT_PX - 120), 0, 0, 360, colour, cv2.FILLED)
    folds = 1 + 0.12 * np.sin(np.arange(width) / 13) + 0.08 * np.sin(np.arange(HEIGHT_PX) / 21)[:, None]
    sprite[..., :3] = np.clip(sprite[..., :3] * folds[..., None], 0, 255)
    return sprite
