"""Characters of the text faces that matplotlib ships: the picture, the name, the outline and the properties of each.

Real pairs of four kinds of data, on every machine and offline. They are read from the fonts of the installed matplotlib, whose
licences lie beside them (DejaVu: that of Bitstream Vera, STIX: its own). Nothing of the fonts is part of this package.
"""

import copy
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.ttLib import TTFont
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.tables import Row, Table
from mmssl.draws import hash_text

FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
TEST_FACE = "DejaVuSerif"
"""Held out. Its bold and italic cuts, whose names begin so, are in no split."""

COMMON = "common"
SCRIPTS = {
    **{name.upper(): name for name in ("arabic", "armenian", "braille", "coptic", "cyrillic", "georgian", "greek", "hebrew")},
    **{name.upper(): name for name in ("lao", "latin", "lisu", "nko", "ogham", "tifinagh")},
    "CANADIAN": "canadian aboriginal",
    "OLD": "old italic",
}
"""Scripts by the first word of the names of their characters; the others are `COMMON`: digits, signs, combining marks, symbols."""
HELD_OUT_SCRIPTS = ("armenian", "lao", "tifinagh")
HELD_OUT_CHARACTERS = 8
"""Of the characters of the other scripts one in so many is held out, by a hash of the character. ASCII stays in train."""

SIDE = 32
SIZE = 24
"""Pixels in an em. With `BASELINE` rows above the line, nearly all characters fit; larger ones are drawn smaller."""
BASELINE = 24
ROOM = SIDE - 3
"""Of pixels, so that a margin of one is left on each side wherever the origin, a whole number, comes to lie."""

NUM_POINTS = 128
CURVE = np.linspace(0, 1, 9)[:, None]
"""Places on a curve, for which straight lines stand."""

KINDS = {
    **{"Lu": "capital letter", "Ll": "lowercase letter", "Lt": "title letter", "Lm": "modifier letter", "Lo": "letter"},
    **{"Mn": "mark without width", "Mc": "mark with width", "Me": "enclosing mark"},
    **{"Nd": "digit", "Nl": "number letter", "No": "number"},
    **{"Pc": "connecting punctuation", "Pd": "dash", "Ps": "opening bracket", "Pe": "closing bracket"},
    **{"Pi": "opening quote", "Pf": "closing quote", "Po": "punctuation"},
    **{"Sm": "mathematical symbol", "Sc": "currency sign", "Sk": "modifier symbol", "So": "symbol"},
}
"""Categories of Unicode in words, as captions have them."""

PAIRED = ("image", "text", "points")
PROPERTIES = ("width", "height", "left", "bottom", "ink", "combining", "bidirectional", "mirrored")
ABOUT = ("captions", "category", "script", "character", "face", "same")
COLUMNS = [*PAIRED, *PROPERTIES, *ABOUT]
LABEL = "category"
SPLITS = ("train", "test", "characters", "scripts")


@dataclass(frozen=True, eq=False)
class _Glyphs:
    """All there is to know of n glyphs but their outlines, which are drawn when they are read.

    boxes: of the ink in em, left, bottom, right and top, from the origin on the baseline. widths: advances in em.
    """

    codes: Int[np.ndarray, " n"]
    faces: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    widths: Float[np.ndarray, " n"]
    pictures: UInt8[np.ndarray, "n 32 32"]
    same: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Int[np.ndarray, " k"]) -> "_Glyphs":
        return _Glyphs(*(getattr(self, field.name)[rows] for field in fields(self)))


class GlyphTable(Table):
    """One row for each character of each face.

    image: 32 x 32, grey, black on white. text: the Unicode name in lower case. points: float32 `[128, 3]`, evenly spaced along the
    outline; x and y are in [0, 1] from the lower left corner of the picture, z is 0.

    width, height, left, bottom: of the advance and of the box of the ink, in em. ink: the share of the picture that is black.
    combining, bidirectional, mirrored: as `unicodedata` has them. A table modality reads these columns, and others that are named.

    captions: the name; kind and script, as in "lowercase letter, latin script"; what it is composed of, where that has names, as in
    "latin small letter a, combining grave accent".

    category: the kind of character in the two letters of Unicode. script: see `SCRIPTS`. same: a number that is equal for rows that
    no loss should tell apart, see `look_alikes`.

    split: train: characters and faces for training. test: the characters of train in a face whose family train does not have, but
    for pictures that both have, mostly symbols. characters: characters that train does not have, of scripts that it has. scripts:
    characters of other scripts. The last two are in the faces of train, and leave out what looks exactly like a character of train.
    None: all, some of which are in no split.
    """

    label = LABEL
    index = (*PAIRED, *ABOUT)

    def __init__(self, split: str | None) -> None:
        self._glyphs = _part(split)
        self.columns = COLUMNS

    def __len__(self) -> int:
        return len(self._glyphs)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        readers = {name: _READERS[name] for name in self.columns}
        return [{name: read(self._glyphs, i) for name, read in readers.items()} for i in indices]

    def column(self, name: str) -> list[Any]:
        return [_READERS[name](self._glyphs, i) for i in range(len(self))]

    def select(self, names: Sequence[str]) -> Table:
        table = copy.copy(self)
        table.columns = list(names)
        return table


def _character(glyphs: _Glyphs, row: int) -> str:
    return chr(glyphs.codes[row])


def _picture(glyphs: _Glyphs, row: int) -> Image.Image:
    return Image.fromarray(glyphs.pictures[row])


def _name(glyphs: _Glyphs, row: int) -> str:
    # Tokenizers cut capitals into more pieces, as they have seen few.
    return unicodedata.name(_character(glyphs, row)).lower()


def captions(character: str) -> list[str]:
    """What may be said of a character: its name, its kind and script, and of what it is composed, if it is."""
    said = [unicodedata.name(character).lower(), f"{KINDS[unicodedata.category(character)]}, {script(character)} script"]
    parts = [chr(int(code, 16)) for code in unicodedata.decomposition(character).split() if not code.startswith("<")]
    if parts and all(unicodedata.name(part, "") for part in parts):
        said.append(", ".join(unicodedata.name(part).lower() for part in parts))
    return said


def _outline(glyphs: _Glyphs, row: int) -> Float[np.ndarray, "p 3"]:
    """The outline in the frame of the picture."""
    size, x, y = (part.item() for part in _places(glyphs.boxes[[row]]))
    path = outline(FACES[glyphs.faces[row]], _character(glyphs, row))
    points = np.zeros((NUM_POINTS, 3), np.float32)
    points[:, :2] = (path * size + (x, SIDE - y)) / SIDE
    return points


_READERS: dict[str, Callable[[_Glyphs, int], Any]] = {
    "image": _picture,
    "text": _name,
    "points": _outline,
    "width": lambda glyphs, row: float(glyphs.widths[row]),
    "height": lambda glyphs, row: float(glyphs.boxes[row, 3] - glyphs.boxes[row, 1]),
    "left": lambda glyphs, row: float(glyphs.boxes[row, 0]),
    "bottom": lambda glyphs, row: float(glyphs.boxes[row, 1]),
    "ink": lambda glyphs, row: 1 - float(glyphs.pictures[row].mean()) / 255,
    "combining": lambda glyphs, row: unicodedata.combining(_character(glyphs, row)),
    "bidirectional": lambda glyphs, row: unicodedata.bidirectional(_character(glyphs, row)),
    "mirrored": lambda glyphs, row: bool(unicodedata.mirrored(_character(glyphs, row))),
    "captions": lambda glyphs, row: captions(_character(glyphs, row)),
    "category": lambda glyphs, row: unicodedata.category(_character(glyphs, row)),
    "script": lambda glyphs, row: script(_character(glyphs, row)),
    "character": _character,
    "face": lambda glyphs, row: FACES[glyphs.faces[row]],
    "same": lambda glyphs, row: int(glyphs.same[row]),
}


def script(character: str) -> str:
    """The script of a named character, or `COMMON`."""
    return SCRIPTS.get(unicodedata.name(character).split()[0], COMMON)


# Splits


@cache
def _part(split: str | None) -> _Glyphs:
    glyphs = _glyphs()
    if split is None:
        return glyphs
    codes, places = np.unique(glyphs.codes, return_inverse=True)
    roles = np.array([_role(chr(code)) for code in codes])[places]
    tested = glyphs.faces == FACES.index(TEST_FACE)
    trained = ~np.array([face.startswith(TEST_FACE) for face in FACES])[glyphs.faces]
    train = trained & (roles == "train")
    if split == "train":
        kept = train
    elif split == "test":
        seen = {picture.tobytes() for picture in glyphs.pictures[train]}
        new = np.array([picture.tobytes() not in seen for picture in glyphs.pictures])
        kept = tested & new & np.isin(glyphs.codes, glyphs.codes[train])
    else:
        kept = trained & (roles == split) & ~np.isin(glyphs.same, glyphs.same[roles == "train"])
    return glyphs.take(np.flatnonzero(kept))


def _role(character: str) -> str:
    """The split that a character belongs to in the faces of training."""
    name = script(character)
    if name in HELD_OUT_SCRIPTS:
        return "scripts"
    held_out = name != COMMON and not character.isascii() and hash_text(character) % HELD_OUT_CHARACTERS == 0
    return "characters" if held_out else "train"


def look_alikes(codes: Int[np.ndarray, " n"], pictures: UInt8[np.ndarray, "n h w"]) -> Int[np.ndarray, " n"]:
    """One number for each group of characters that cannot all be told apart by their pictures: the smallest code among them.

    Two characters look alike if one picture of the one equals one of the other, in whatever faces. So do two characters that both
    look like a third, which merges more than it must: a Latin I with the Greek one with a breve, which one of the faces leaves out.
    """
    flat = np.ascontiguousarray(pictures).reshape(len(pictures), -1)
    _, shapes = np.unique(flat.view(f"S{flat.shape[1]}")[:, 0], return_inverse=True)
    same, before = codes, np.full_like(codes, -1)
    while (same != before).any():
        before = same
        for groups in (shapes, codes):
            least = np.full(groups.max() + 1, codes.max())
            np.minimum.at(least, groups, same)
            same = least[groups]
    return same


# Fonts


@cache
def _glyphs() -> _Glyphs:
    parts = [_read(number) for number in range(len(FACES))]
    codes, faces, boxes, widths, pictures = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Glyphs(codes, faces, boxes, widths, pictures, look_alikes(codes, pictures))


def _file(face: str) -> Path:
    import matplotlib  # whose fonts they are

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    if not path.is_file():
        raise FileNotFoundError(
            f"bundled:glyphs needs the fonts that come with matplotlib, and there is no {path}. Some systems package "
            "matplotlib without them: install it from PyPI (pip install matplotlib)"
        )
    return path


def _font(face: str) -> TTFont:
    # From memory: forked workers would share the place in an open file.
    return TTFont(BytesIO(_file(face).read_bytes()), lazy=True)


@cache
def _shapes(face: str) -> tuple[TTFont, dict[int, str]]:
    """A face whose outlines are read, and the names of its glyphs by code."""
    font = _font(face)
    return font, font.getBestCmap()


def _is_visible(character: str) -> bool:
    """Whether a character has a name, and is none of spaces, separators and control characters (some fonts draw these)."""
    return bool(unicodedata.name(character, "")) and unicodedata.category(character)[0] not in "CZ"


def _read(number: int) -> tuple[Shaped[np.ndarray, "n ..."], ...]:
    """Codes, face numbers, boxes, widths and pictures of the named characters of a face that have ink."""
    font = _font(FACES[number])  # one of its own: of one whose outlines have been read, fontTools makes the table anew
    em, advances, starts = font["head"].unitsPerEm, font["hmtx"].metrics, font["loca"].locations
    places = {code: font.getGlyphID(name) for code, name in sorted(font.getBestCmap().items()) if _is_visible(chr(code))}
    inked = {code: place for code, place in places.items() if starts[place] < starts[place + 1]}
    codes = np.array(list(inked))
    # A glyph begins with the number of its contours, then its box, in two bytes each. Decoding all of it takes 30 times as long.
    header = np.array([starts[place] // 2 for place in inked.values()])[:, None] + np.arange(1, 5)
    boxes = np.frombuffer(font.getTableData("glyf"), ">i2")[header] / em
    widths = np.array([advances[font.getGlyphName(place)][0] for place in inked.values()]) / em
    return codes, np.full(len(codes), number), boxes, widths, _draw(FACES[number], codes, boxes)


def _places(boxes: Float[np.ndarray, "n 4"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Pixels in an em, and those to the right of and below the picture's corner where the origin lies, for boxes in em.

    The ink is in the middle of its rows, and on a common baseline as far as there is room.
    """
    left, bottom, right, top = boxes.T
    size = np.minimum(SIZE, ROOM // np.maximum(right - left, top - bottom)).astype(np.int64)
    x = np.rint((SIDE - size * (left + right)) / 2).astype(np.int64)
    y = np.clip(BASELINE, np.ceil(size * top + 1), np.floor(size * bottom + SIDE - 1)).astype(np.int64)
    return size, x, y


def _draw(face: str, codes: Int[np.ndarray, " n"], boxes: Float[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 32 32"]:
    """Pictures, drawn below each other on one sheet, in less than half the time of a sheet for each."""
    path, fonts = str(_file(face)), dict[int, ImageFont.FreeTypeFont]()
    sheet = Image.new("L", (SIDE, SIDE * len(codes)), 255)
    draw = ImageDraw.Draw(sheet)
    for row, (code, size, x, y) in enumerate(zip(codes.tolist(), *(part.tolist() for part in _places(boxes)), strict=True)):
        if size not in fonts:
            # The other layout engine needs a library that not everyone has, and adds circles to combining marks.
            fonts[size] = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        draw.text((x, SIDE * row + y), chr(code), fill=0, font=fonts[size], anchor="ls")
    return np.array(sheet).reshape(-1, SIDE, SIDE)


def outline(face: str, character: str) -> Float[np.ndarray, "p 2"]:
    """Points that are evenly spaced along all contours of a character, in em from its origin on the baseline."""
    font, names = _shapes(face)
    glyphs = font["glyf"]
    corners, ends, flags = glyphs[names[ord(character)]].getCoordinates(glyphs)
    pieces = _pieces(np.array(corners, np.float64), np.array(ends), np.array(flags) & 1 == 1)
    lengths = np.linalg.norm(np.diff(pieces, axis=1), axis=2)
    so_far = np.pad(lengths, ((0, 0), (1, 0))).cumsum()  # from one piece to the next it is no way: they touch, or a contour ends
    wanted = (np.arange(NUM_POINTS) + 0.5) / NUM_POINTS * so_far[-1]
    return np.stack([np.interp(wanted, so_far, axis) for axis in pieces.reshape(-1, 2).T], 1) / font["head"].unitsPerEm


def _pieces(
    corners: Float[np.ndarray, "k 2"], ends: Int[np.ndarray, " c"], on_curve: Bool[np.ndarray, " k"]
) -> Float[np.ndarray, "k s 2"]:
    """The way past each corner of TrueType contours, and on to where that of the next begins.

    A corner off the curve bends it between its neighbours, or half way to those that are off it too.
    """
    after = np.arange(1, len(corners) + 1)
    after[ends] = np.append(0, ends[:-1] + 1)
    before = np.argsort(after)
    half_way = (corners + corners[after]) / 2
    on = on_curve[:, None]
    enter = np.where(on, corners, np.where(on[before], corners[before], half_way[before]))
    leave = np.where(on, corners, np.where(on[after], corners[after], half_way))
    bends = (1 - CURVE) ** 2 * enter[:, None] + 2 * CURVE * (1 - CURVE) * corners[:, None] + CURVE**2 * leave[:, None]
    return np.concatenate([bends, enter[after][:, None]], 1)
