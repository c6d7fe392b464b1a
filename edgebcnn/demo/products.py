"""Defines the products of the demo shelf and draws their packs.

Six families of four packs. Inside a family everything is the same but one cue: a percentage, a flavour, or a stripe.
Packs are drawn with OpenCV in a square of 100 x 100 units, x to the right and y down. The lettering is our own, because
OpenCV 4 and 5 draw the same text in different typefaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

PACK_PX = 360

_CANVAS_PX = 2 * PACK_PX  # halved at the end, which smooths what LINE_AA leaves
_UNIT_PX = _CANVAS_PX / 100
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Product:
    """One product of the demo shelf.

    Attributes:
        name: Unique; also the name of its folder of photos.
        gtin: GTIN-13 from the 2xxxxxxxxxxxx range, which GS1 leaves to each shop: no real product is meant.
        coarse: Its family.
        variant: What distinguishes it within its family: the printed text, the number of stripes, or a stripe's colour.
    """

    name: str
    gtin: str
    coarse: str
    variant: str


def gtin_check_digit(digits: str) -> str:
    """The last digit of a GTIN from those before it: `-(3 d_n + d_(n-1) + 3 d_(n-2) + ...) mod 10`.

    Source: GS1 General Specifications, section 7.9.
    """
    weighted = sum(int(digit) * (3, 1)[place % 2] for place, digit in enumerate(reversed(digits)))
    return str(-weighted % 10)


@cache
def pack_picture(product: Product) -> NDArray[np.uint8]:
    """The clean pack on a transparent background.

    Returns:
        `(PACK_PX, PACK_PX, 4)` uint8, BGR and opacity; read-only, because it is kept.
    """
    canvas = Canvas()
    paint = _paint_by_lot if product.coarse == _NO_FAMILY else _FAMILIES[product.coarse].paint
    paint(canvas, product.variant)
    picture = canvas.picture()
    picture.setflags(write=False)
    return picture


@cache
def cue_mask(coarse: str) -> NDArray[np.bool_]:
    """Where the packs of one family differ, `(PACK_PX, PACK_PX)`; the rest of a pack shows only its family.

    For a pack of no family, the mask covers the whole pack.
    """
    if coarse == _NO_FAMILY:
        return np.ones((PACK_PX, PACK_PX), np.bool_)
    pictures = np.stack([pack_picture(product) for product in PRODUCTS if product.coarse == coarse])
    return np.asarray((pictures != pictures[0]).any(axis=(0, 3)))


def other_pack(brand: str) -> Product:
    """A pack of no family, whose colours are drawn by lot, by its brand: capitals of the typeface below."""
    digits = "299999000000"
    return Product("Other-Packs", digits + gtin_check_digit(digits), _NO_FAMILY, brand)


def bgr(colour: str) -> tuple[int, int, int]:
    """OpenCV's colour for a hexadecimal RGB."""
    red, green, blue = bytes.fromhex(colour)
    return blue, green, red


class Canvas:
    """A pack being drawn; paths and sizes are in units of 1/100 of its side."""

    def __init__(self) -> None:
        self._bgr = np.zeros((_CANVAS_PX, _CANVAS_PX, 3), np.uint8)
        self._opacity = np.zeros((_CANVAS_PX, _CANVAS_PX), np.uint8)

    def body(self, path: str, colour: str) -> None:
        """Fills a part of the silhouette; whatever is drawn outside of it stays invisible."""
        self.fill(path, colour)
        cv2.fillPoly(self._opacity, [_fixed_point(_outline(path) * _UNIT_PX)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)

    def fill(self, path: str, colour: str) -> None:
        """Fills an area with one colour."""
        cv2.fillPoly(self._bgr, [_fixed_point(_outline(path) * _UNIT_PX)], bgr(colour), cv2.LINE_AA, _SUBPIXEL_BITS)

    def fade(self, path: str, top: str, bottom: str) -> None:
        """Fills an area with a colour that turns into another from top to bottom."""
        outline = _outline(path) * _UNIT_PX
        mask = np.zeros((_CANVAS_PX, _CANVAS_PX), np.uint8)
        cv2.fillPoly(mask, [_fixed_point(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        first, last = (int(np.clip(row, 0, _CANVAS_PX)) for row in (outline[:, 1].min(), outline[:, 1].max() + 1))
        ramp = np.linspace(bgr(top), bgr(bottom), last - first)[:, None]
        rows, cover = self._bgr[first:last], mask[first:last, :, None] / np.float32(255)
        rows[:] = rows + cover * (ramp.astype(np.float32) - rows)

    def line(self, path: str, colour: str, width: float) -> None:
        """Draws a line with round ends."""
        self._stroke(_outline(path) * _UNIT_PX, colour, width)

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], colour: str, tilt_deg: int = 0) -> None:
        """Fills an ellipse, turned clockwise by `tilt_deg`."""
        centre_px, radii_px = ((round(x * _UNIT_PX), round(y * _UNIT_PX)) for x, y in (centre, radii))
        cv2.ellipse(self._bgr, centre_px, radii_px, tilt_deg, 0, 360, bgr(colour), cv2.FILLED, cv2.LINE_AA)

    def text(self, text: str, box: tuple[float, float, float, float], colour: str, weight: float = 1.3) -> None:
        """Sets one line of capitals.

        Args:
            text: Characters of the typeface below.
            box: Middle x, middle y, width and height; shorter text keeps its proportions, longer text is condensed.
            colour: Hexadecimal RGB.
            weight: Thickness of the strokes; capitals are six high.
        """
        x, y, width, height = box
        strokes, natural_width = _typeset(text)
        rise = (height - weight * height / (6 + weight)) / 6
        scale = np.array([min(rise * 1.15, (width - weight * rise) / natural_width), rise])
        origin = np.array([x, y]) - scale * (natural_width / 2, 3)
        for stroke in strokes:
            self._stroke((stroke * scale + origin) * _UNIT_PX, colour, weight * float(scale.min()))

    def gain(self, gain: NDArray[np.float32], shine: NDArray[np.float32] | float = 0.0) -> None:
        """Lights the pack: `colour * gain + 255 * shine`, maps that broadcast to `(rows, columns)`."""
        lit = self._bgr * gain[..., None] + np.float32(255) * np.asarray(shine, np.float32)[..., None]
        self._bgr[:] = np.clip(lit, 0, 255)

    def picture(self) -> NDArray[np.uint8]:
        """`(PACK_PX, PACK_PX, 4)` uint8: BGR and opacity."""
        whole = np.dstack([self._bgr, self._opacity])
        return np.asarray(cv2.resize(whole, (PACK_PX, PACK_PX), interpolation=cv2.INTER_AREA), np.uint8)

    def _stroke(self, points_px: NDArray[np.float64], colour: str, width: float) -> None:
        thickness_px = max(1, round(width * _UNIT_PX))
        points = [_fixed_point(points_px)]
        cv2.polylines(self._bgr, points, False, bgr(colour), thickness_px, cv2.LINE_AA, _SUBPIXEL_BITS)


def _paint_milk(pack: Canvas, fat: str) -> None:
    pack.body("10,30 18,13 80,13 90,27 90,95 74,98 10,98", "FDFDFB")
    pack.body("18,13 18,4~1 80,4~1 80,13", "2C6FBB")
    pack.fade("10,30 18,13 80,13 74,30", "2461A8", "3F8AD8")
    pack.line("18,13 80,13", "1B4C88", 0.8)
    pack.fade(_rectangle(10, 30, 64, 68), "FFFFFF", "DCEBF8")
    pack.fill("10,83 20,73 27,79 42,66 55,79 63,74 74,84 74,98 10,98", "7FB2E0")
    pack.fill("35.5,71.6 42,66 48.5,72.4 45,74 42,72 39,74.5", "FFFFFF")
    pack.fade("10,86 30,80~ 52,86~ 74,81 74,98 10,98", "5CB85C", "2F8F46")
    pack.text("ALMA", (42, 38.5, 46, 10), "1B3F7A", 1.5)
    pack.text(f"{fat}%", (42, 57.5, 61, 23), "D6293A", 1.5)
    pack.text("FRESH MILK", (42, 91.5, 40, 5), "FFFFFF", 1.2)
    pack.fade("74,30 90,27 90,95 74,98", "C9D8E8", "9FB6CF")
    pack.fill("74,84 90,79 90,95 74,98", "2E7D44")
    pack.fill("74,30 80,13 90,27", "1F5596")
    pack.line("74,30 74,98", "B7CADF", 0.6)
    pack.gain(_along(x=(10, 74), gain=(0.94, 1.0, 1.0)))


def _paint_yoghurt(pack: Canvas, flavour: str) -> None:
    pack.body("8,15 92,15 81,94~5 50,97~30 19,94~5", "FFF6E4")
    pack.fade("8,15 92,15 81,94 19,94", "FFF9EC", "FFE9C7")
    pack.fill("8,72 30,66~ 50,76~ 72,84~ 92,70 92,98 8,98", "F3A6BE")
    pack.fill("8,80 30,73~ 50,83~ 72,90~ 92,78 92,98 8,98", "E8789B")
    pack.text("LUNKA", (50, 29, 58, 12), "C2255C", 1.7)
    pack.fill(_rectangle(8, 42, 84, 24), "8E1F4F")
    pack.line("8,42 92,42", "F6C445", 1.2)
    pack.line("8,66 92,66", "F6C445", 1.2)
    pack.text(flavour, (50, 54, 62, 18), "FFFFFF", 1.5)
    pack.text("YOGHURT", (50, 86, 34, 5), "FFFFFF", 1.2)
    pack.gain(*_cylinder(10, 90))
    pack.body("50,6 95,6~3 95,16~2 5,16~2 5,6~3 50,6", "D9DEE3")
    pack.fade("50,6 95,6~3 95,12 5,12 5,6~3", "F4F6F8", "C3CAD2")
    pack.fill(_rectangle(5, 12, 90, 4), "AEB6BF")
    pack.line("6,12 94,12", "FFFFFF", 0.7)


def _paint_chips(pack: Canvas, stripes: str) -> None:
    teeth = " ".join(f"{8 + 2 * i},{2.5 + i % 2 * 1.8}" for i in range(43))
    bottom_teeth = " ".join(f"{92 - 2 * i},{97.5 - i % 2 * 1.8}" for i in range(43))
    pack.body(f"{teeth} 88,14~8 91,50~40 88,86~8 {bottom_teeth} 12,86~8 9,50~40 12,14~8", "C81E2B")
    pack.fade(_rectangle(0, 0, 100, 100), "E5383B", "9D0B1C")
    for x, y, tilt_deg in ((31, 83, -18), (69, 83, 18), (50, 80, 4)):
        pack.ellipse((x, y + 0.8), (17.5, 8.2), "A8660B", tilt_deg)
        pack.ellipse((x, y), (17.5, 8.2), "F3BE3E", tilt_deg)
        pack.ellipse((x, y + 0.5), (13.5, 5.6), "FBD668", tilt_deg)
        for right, down in ((-8, -1.5), (-2, 2.5), (3, -2.5), (9, 1.5)):
            pack.ellipse((x + right, y + down), (0.8, 0.8), "C9571A")
    pack.text("TRIKKA", (50.7, 25.7, 72, 15), "7A0614", 2.0)
    pack.text("TRIKKA", (50, 25, 72, 15), "FFFFFF", 1.7)
    for stripe in range(int(stripes)):
        top = 37 + 9 * stripe
        pack.fill(_rectangle(0, top, 100, 5.5), "FFD23F")
    for seam in (4, 6, 8, 92, 94, 96):
        pack.line(f"5,{seam} 95,{seam}", "8E0A18", 0.5)
    pack.gain(*_crinkled())


def _paint_juice(pack: Canvas, flavour: str) -> None:
    pack.body("41,8 59,8 59,15 62,21~ 84,26~ 86,40~ 86,95~5 14,95~5 14,40~ 16,26~ 38,21~ 41,15", "F59E0B")
    pack.fade(_rectangle(14, 18, 72, 79), "FFC65C", "F08A00")
    pack.fill(_rectangle(41, 8, 18, 9), "FFE9BF")
    pack.fade(_rectangle(14, 39, 72, 45), "FFFFFF", "FFF5E0")
    pack.line("14,39 86,39", "3C8D40", 1.6)
    pack.line("14,84 86,84", "3C8D40", 1.6)
    pack.text("VERUNI", (50, 48, 50, 10), "2E7D32", 1.5)
    pack.text(flavour, (50, 67, 63, 19), "C2410C", 1.5)
    pack.text("JUICE", (50, 91, 26, 5), "FFFFFF", 1.2)
    pack.gain(*_cylinder(14, 86))
    pack.body("50,2 61,2~1.5 61,10 39,10 39,2~1.5 50,2", "2E7D32")
    for x in range(41, 61, 3):
        pack.line(f"{x},3.5 {x},9.5", "1B5E20", 0.6)


def _paint_chocolate(pack: Canvas, cocoa: str) -> None:
    pack.body(_rectangle(2, 21, 96, 58), "3B2016")
    pack.fade(_rectangle(8, 21, 84, 58), "4E2A1C", "25120C")
    pack.fill(_rectangle(8, 25, 84, 1), "D4A94E")
    pack.fill(_rectangle(8, 74, 84, 1), "D4A94E")
    for column in range(2):
        for row in range(2):
            left, top = 11 + 10 * column, 43 + 14 * row
            pack.fill(_rectangle(left, top, 9, 13), "6E3D26")
            pack.fade(_rectangle(left + 2, top + 2, 5, 9), "9A5B3A", "7B4529")
    pack.text("NOKTAR", (50, 34.5, 66, 11), "E8C679", 1.4)
    pack.text(f"{cocoa}%", (61.3, 57, 58, 27), "FFF1D6", 1.5)
    pack.gain(_along(y=(21, 79), gain=(0.85, 1.12, 1.0, 0.78)))
    for seam in (2, 92):
        pack.fade(_rectangle(seam, 21, 6, 58), "F3E2B3", "A98537")
        for x in (1.2, 3, 4.8):
            pack.line(f"{seam + x},21 {seam + x},79", "8C6B24", 0.5)


def _paint_soda(pack: Canvas, stripe: str) -> None:
    pack.body("24,5 76,5 84,14~6 84,90~6 76,97 24,97 16,90~6 16,14~6", "0E3A5D")
    pack.fade(_rectangle(16, 5, 68, 92), "1C6E9C", "0A2C49")
    for x, y, radius in ((27, 84, 2.4), (36, 90, 1.6), (70, 88, 2.8), (62, 92, 1.4), (76, 81, 1.5), (47, 88, 1.2)):
        pack.ellipse((x, y), (radius, radius), "5FB3D9")
        pack.ellipse((x - 0.3 * radius, y - 0.3 * radius), (0.4 * radius, 0.4 * radius), "D8F1FC")
    pack.fill("16,64 84,44 84,62 16,82", _STRIPE_COLOURS[stripe])
    pack.text("BRIZLO", (50, 33, 58, 16), "FFFFFF", 1.7)
    pack.gain(*_cylinder(16, 84))
    pack.fill("16,91 84,91 76,97 24,97", "8C97A4")
    pack.line("16.5,91 83.5,91", "D5DBE1", 0.8)
    pack.body("50,2 78,2~3 80,9 20,9 22,2~3 50,2", "8C97A4")
    pack.ellipse((50, 5.2), (27.5, 2.8), "F1F4F6")
    pack.ellipse((50, 5.6), (24.5, 2.0), "B3BCC6")
    pack.ellipse((50, 5.5), (8, 1.2), "E6EAEE")


def _paint_by_lot(pack: Canvas, brand: str) -> None:
    rng = np.random.default_rng(list(brand.encode()))
    colours = ["".join(f"{level:02X}" for level in rng.integers(20, 236, 3)) for _ in range(4)]
    pack.body("15,8~6 85,8~6 90,96~4 10,96~4 15,8~6 85,8~6", colours[0])
    pack.fade("15,8 85,8 88,50 12,50", colours[1], colours[0])
    pack.ellipse((50, 66), (26, 20), colours[2], int(rng.integers(0, 90)))
    pack.fill("50,48 70,84 30,84", colours[3])
    pack.text(brand, (50, 28, 62, 16), "FFFFFF", 1.6)


_STRIPE_COLOURS = {"Red": "E5322D", "Yellow": "FFC91F", "White": "F7F7F2", "Green": "3DBB4C"}


def _rectangle(left: float, top: float, width: float, height: float) -> str:
    return f"{left},{top} {left + width},{top} {left + width},{top + height} {left},{top + height}"


def _along(
    *, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None, gain: tuple[float, ...]
) -> NDArray[np.float32]:
    """Gain that runs evenly through `gain` over a span of x or y, as a row or column of the canvas."""
    first, last = x or y or (0, 100)
    place = np.linspace(0, 100, _CANVAS_PX)
    values = np.asarray(np.interp(place, np.linspace(first, last, len(gain)), gain), np.float32)
    return values[None, :] if x else values[:, None]


def _cylinder(left: float, right: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain and shine of a lit cylinder between two x: dark flanks, one broad and one narrow reflection."""
    across = np.linspace(0, 100, _CANVAS_PX, dtype=np.float32)[None, :]
    across = (across - (left + right) / 2) / ((right - left) / 2)
    gain = 0.58 + 0.45 * np.sqrt(np.clip(1 - 0.95 * across**2, 0, 1))
    shine = 0.20 * np.exp(-(((across + 0.62) / 0.10) ** 2)) + 0.08 * np.exp(-(((across - 0.70) / 0.06) ** 2))
    return gain.astype(np.float32), shine.astype(np.float32)


def _crinkled() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain and shine of an inflated foil bag: a bright middle and soft creases that run in from the seams."""
    y, x = np.mgrid[-1 : 1 : _CANVAS_PX * 1j, -1 : 1 : _CANVAS_PX * 1j].astype(np.float32)
    bulge = 0.72 + 0.36 * np.sqrt(np.clip(1 - 0.9 * x**2, 0, 1)) - 0.10 * y**4
    creases = 0.07 * np.sin(23 * x + 3 * np.sin(4 * y)) * np.abs(y) ** 3
    shine = 0.16 * np.exp(-(((x + 0.55 + 0.08 * np.sin(3 * y)) / 0.09) ** 2)) * (1 - y**2)
    return bulge + creases, shine


@dataclass(frozen=True)
class _Family:
    brand: str
    paint: Callable[[Canvas, str], None]
    variants: tuple[str, ...]


_NO_FAMILY = "Other"
_FAMILIES = {
    "Milk": _Family("Alma", _paint_milk, ("0.5", "1.5", "3.5", "6")),
    "Yoghurt": _Family("Lunka", _paint_yoghurt, ("FIG", "KIWI", "PLUM", "HONEY")),
    "Chips": _Family("Trikka", _paint_chips, ("1", "2", "3", "4")),
    "Juice": _Family("Veruni", _paint_juice, ("APPLE", "CHERRY", "LEMON", "MANGO")),
    "Chocolate": _Family("Noktar", _paint_chocolate, ("50", "64", "78", "99")),
    "Soda": _Family("Brizlo", _paint_soda, tuple(_STRIPE_COLOURS)),
}


def _catalogue() -> tuple[Product, ...]:
    products = []
    for shelf, (coarse, family) in enumerate(_FAMILIES.items(), start=1):
        for place, variant in enumerate(family.variants, start=1):
            digits = f"2{shelf:05}{place:06}"
            name = f"{family.brand}-{coarse}-{variant.capitalize()}"
            products.append(Product(name, digits + gtin_check_digit(digits), coarse, variant))
    return tuple(products)


PRODUCTS: tuple[Product, ...] = _catalogue()

# Strokes of each character, `;` between strokes; capitals are six high and about four wide; `~` rounds a corner.
_TYPEFACE = {
    "A": "0,6 2,0 4,6;.8,4.2 3.2,4.2",
    "B": "0,3 3.7,3~ 3.7,0~ 0,0 0,6 4,6~ 4,3~ 0,3",
    "C": "4,1.7 4,0~ 0,0~ 0,6~ 4,6~ 4,4.3",
    "D": "0,3 0,0 4,0~ 4,6~ 0,6 0,3",
    "E": "3.4,0 0,0 0,6 3.4,6;0,3 3,3",
    "F": "3.4,0 0,0 0,6;0,3 3,3",
    "G": "4,1.7 4,0~ 0,0~ 0,6~ 4,6~ 4,3.2 2.4,3.2",
    "H": "0,0 0,6;4,0 4,6;0,3 4,3",
    "I": "0,0 0,6",
    "J": "3,0 3,6~ 0,6~ 0,4.4",
    "K": "0,0 0,6;3.8,0 0,3.6;1.2,2.6 4,6",
    "L": "0,0 0,6 3.2,6",
    "M": "0,6 0,0 2.4,3.8 4.8,0 4.8,6",
    "N": "0,6 0,0 4,6 4,0",
    "O": "2,0 4,0~ 4,6~ 0,6~ 0,0~ 2,0",
    "P": "0,6 0,0 4,0~ 4,3.5~ 0,3.5",
    "Q": "2,0 4,0~ 4,6~ 0,6~ 0,0~ 2,0;2.6,4.4 4.2,6.4",
    "R": "0,6 0,0 4,0~ 4,3.4~ 0,3.4;2.2,3.4 4.1,6",
    "S": "3.9,1.5 3.9,0~ .1,0~ .1,2.9~ 4,2.9~ 4,6~ 0,6~ 0,4.5",
    "T": "0,0 4,0;2,0 2,6",
    "U": "0,0 0,6~ 4,6~ 4,0",
    "V": "0,0 2,6 4,0",
    "W": "0,0 1.4,6 2.8,1.2 4.2,6 5.6,0",
    "X": "0,0 4,6;4,0 0,6",
    "Y": "0,0 2,3.2 4,0;2,3.2 2,6",
    "Z": "0,0 4,0 0,6 4,6",
    "0": "2,0 4,0~ 4,6~ 0,6~ 0,0~ 2,0",
    "1": "0,1.5 1.7,0 1.7,6",
    "2": "0,1.7 0,0~ 3.8,0~ 3.8,2.6~ 0,6 4,6",
    "3": "0,1.5 0,0~ 3.8,0~ 3.8,2.8~ 1.6,2.8 4,2.8~ 4,6~ 0,6~ 0,4.5",
    "4": "3,6 3,0 0,4.4 4.2,4.4",
    "5": "3.6,0 .3,0 .1,2.5 4,2.2~ 4,6~ 0,6~ 0,4.6",
    "6": "3.8,1.4 3.8,0~ 0,0~ 0,6~ 4,6~ 4,2.5~ 0,2.5~ 0,4",
    "7": "0,0 3.9,0 1.3,6",
    "8": "2,2.8 .2,2.8~ .2,0~ 3.8,0~ 3.8,2.8~ 0,2.8~ 0,6~ 4,6~ 4,2.8~ 2,2.8",
    "9": ".2,4.6 .2,6~ 4,6~ 4,0~ 0,0~ 0,3.5~ 4,3.5~ 4,2",
    "%": ".9,0 1.8,0~ 1.8,2.4~ 0,2.4~ 0,0~ .9,0;4.3,.2 1.3,5.8;4.7,3.6 5.6,3.6~ 5.6,6~ 3.8,6~ 3.8,3.6~ 4.7,3.6",
    ".": "0,6 0,6",
    "-": "0,3 2.4,3",
    " ": "",
}
_LETTER_GAP = 2.3
_SPACE = 0.8


def _typeset(text: str) -> tuple[list[NDArray[np.float64]], float]:
    """Strokes of a line of text in the typeface's units, and its width between stroke centres."""
    strokes: list[NDArray[np.float64]] = []
    pen = 0.0
    for character in text:
        outlines = [_outline(stroke) for stroke in _TYPEFACE[character].split(";") if stroke]
        strokes += [outline + np.array([pen, 0]) for outline in outlines]
        pen += max((float(outline[:, 0].max()) for outline in outlines), default=_SPACE) + _LETTER_GAP
    return strokes, pen - _LETTER_GAP


@cache
def _outline(path: str) -> NDArray[np.float64]:
    """Points of a path such as `0,0 4,0~1 4,6`, `(n, 2)`: `~1` rounds a corner by at most 1, `~` as far as it goes."""
    corners, limits = _parsed(path)
    last = len(corners) - 1
    points = [corners[:1]]
    for i in range(1, last):
        before, corner, after = corners[i - 1 : i + 2]
        # Two rounded corners share the edge between them; an end leaves all of it to its neighbour.
        shares = (1.0 if i == 1 else 0.5, 1.0 if i == last - 1 else 0.5)
        to_before, to_after = before - corner, after - corner
        length = min(
            limits[i], *(s * float(np.hypot(*edge)) for s, edge in zip(shares, (to_before, to_after), strict=True))
        )
        points.append(_arc(corner, length * _unit(to_before), length * _unit(to_after)))
    return np.concatenate([*points, corners[last:]])


def _parsed(path: str) -> tuple[NDArray[np.float64], list[float]]:
    corners, limits = [], []
    for word in path.split():
        place, rounded, limit = word.partition("~")
        corners.append([float(number) for number in place.split(",")])
        limits.append((float(limit) if limit else np.inf) if rounded else 0.0)
    return np.array(corners), limits


def _arc(corner: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds a corner by a conic, a true circle where the corner is square: `start` and `end` are relative to it."""
    if not start.any():
        return corner[None]
    t = np.linspace(0, 1, 13)[:, None]
    weights = (1 - t) ** 2, np.sqrt(2) * t * (1 - t), t**2
    return np.asarray(corner + (weights[0] * start + weights[2] * end) / sum(weights))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / max(float(np.hypot(*vector)), 1e-12))


def _fixed_point(points_px: NDArray[np.float64]) -> NDArray[np.int32]:
    # Pixel centres are at whole numbers in OpenCV, so the canvas begins at -0.5.
    return np.asarray(np.round((points_px - 0.5) * 2**_SUBPIXEL_BITS), np.int32)
