import pickle
import string
import unicodedata
from collections import defaultdict
from functools import cache

import matplotlib
import numpy as np
import pytest
from fontTools.pens.areaPen import AreaPen
from fontTools.pens.perimeterPen import PerimeterPen
from PIL import Image, ImageDraw

from mmssl.data import Source, glyphs
from mmssl.data.bundled import NAMES
from mmssl.data.glyphs import FACES, HELD_OUT_SCRIPTS, SIDE, SPLITS, TEST_FACE, GlyphTable, look_alikes, outline, script
from mmssl_modalities.image import IMAGE
from mmssl_modalities.points import POINTS
from mmssl_modalities.tabular import TABULAR
from mmssl_modalities.text import TEXT

EVERY = 211
"""Of all rows, one in so many is looked at where all would take long."""


def opened(split=None, **options):
    return Source(path="bundled:glyphs", split=split, **options)


@cache
def listed(split, name):
    """A column."""
    return opened(split).cells(name)


def cells(split, name):
    return set(listed(split, name))


@pytest.fixture(scope="module")
def some():
    """Rows of all faces."""
    source = opened()
    return source.rows(range(0, len(source), EVERY))


# Splits


def test_nothing_that_is_held_out_is_in_train():
    train = {name: cells("train", name) for name in ("character", "script", "face", "same")}
    assert cells("test", "face") == {TEST_FACE}
    assert not any(face.startswith(TEST_FACE) for face in train["face"]), "its bold cut is nearly the same picture"
    assert cells("test", "character") <= train["character"], "a new face of known characters"
    pictures = {split: {picture.tobytes() for picture in opened(split)._table._glyphs.pictures} for split in SPLITS}
    assert not pictures["train"] & set().union(*(pictures[split] for split in SPLITS[1:])), "faces share some symbols"
    for split in ("characters", "scripts"):
        assert not cells(split, "character") & train["character"]
        assert not cells(split, "same") & train["same"], "a picture that train has under another name"
        assert cells(split, "face") <= train["face"]
    assert cells("characters", "script") <= train["script"]
    assert cells("scripts", "script") == set(HELD_OUT_SCRIPTS)
    assert not cells("scripts", "script") & train["script"]


def test_no_row_is_in_two_splits():
    rows = [list(zip(listed(split, "face"), listed(split, "character"), strict=True)) for split in SPLITS]
    assert all(len(part) > 1000 for part in rows)
    assert len(set().union(*rows)) == sum(map(len, rows)) < len(opened())
    assert len(opened("train")) > len(opened()) / 2


def test_the_same_characters_are_held_out_whatever_the_version_of_matplotlib():
    """A score means little if another version draws other characters: by the character alone, not by a number of its row."""
    cyrillic = [code for code in range(0x410, 0x450) if chr(code) not in cells("train", "character")]
    assert cyrillic == [0x41B, 0x41D, 0x427, 0x429, 0x438, 0x43D, 0x440]
    assert set(string.printable.strip()) <= cells("train", "character")


def test_opened_twice_it_is_the_same_and_drawn_once(monkeypatch):
    first = opened("test").rows(range(0, 3000, 500))
    glyphs._part.cache_clear()
    glyphs._glyphs.cache_clear()
    again = opened("test").rows(range(0, 3000, 500))
    for one, other in zip(first, again, strict=True):
        assert one["image"].tobytes() == other["image"].tobytes()
        assert np.array_equal(one.pop("points"), other.pop("points"))
        assert one | {"image": None} == other | {"image": None}
    monkeypatch.setattr(glyphs, "_draw", None)
    assert len(opened("train")) == len(opened("train"))


# Rows


def test_a_row():
    row = opened("test").rows([listed("test", "character").index("Ä")])[0]
    image, points, numbers = (
        row.pop("image"),
        row.pop("points"),
        [row.pop(name) for name in ("height", "ink", "bottom", "left", "width")],
    )
    assert (image.mode, image.size) == ("L", (32, 32))
    assert (points.dtype, points.shape) == (np.float32, (128, 3))
    assert numbers == pytest.approx([0.92, 0.13, 0, 0, 0.72], abs=0.05)
    assert row == {
        "text": "latin capital letter a with diaeresis",
        "captions": glyphs.captions("Ä"),
        "combining": 0,
        "bidirectional": "L",
        "mirrored": False,
        "category": "Lu",
        "script": "latin",
        "character": "Ä",
        "face": "DejaVuSerif",
        "same": ord("Ä"),
    }


def test_pictures_have_ink_and_a_margin(some):
    pictures = np.stack([np.asarray(row["image"]) for row in some])
    assert (pictures.min((1, 2)) < 160).all(), "even a dot is dark"
    everything = opened()._table._glyphs.pictures
    assert (everything.min((1, 2)) < 255).all()
    edge = np.ones((SIDE, SIDE), bool)
    edge[1:-1, 1:-1] = False
    assert (everything[:, edge].min(1) < 255).mean() < 0.01, "hinting moves few outlines by a pixel"


def test_a_picture_is_drawn_alone(some):
    """All are drawn on one sheet: nothing of a neighbour is in one."""
    own = opened()._table._glyphs
    for row in some:
        face, code = row["face"], np.array([ord(row["character"])])
        place = np.flatnonzero((own.codes == code) & (own.faces == FACES.index(face)))
        assert np.array_equal(glyphs._draw(face, code, own.boxes[place])[0], np.asarray(row["image"]))


def test_the_outline_lies_around_the_ink(some):
    for row in some:
        points = row["points"]
        assert (points[:, 2] == 0).all()
        assert points.min() >= 0 and points.max() <= 1
        ink = np.asarray(row["image"]) < 250
        near = np.asarray(Image.fromarray(ink).resize((SIDE, SIDE)))
        grown = np.pad(near, 2)
        grown = np.any([grown[i : i + SIDE, j : j + SIDE] for i in range(5) for j in range(5)], 0)
        x, y = (points[:, 0] * SIDE).astype(int).clip(0, SIDE - 1), ((1 - points[:, 1]) * SIDE).astype(int).clip(0, SIDE - 1)
        assert grown[y, x].mean() > 0.99, f"{row['face']} {row['text']}"
        (rows, columns), box = np.nonzero(ink), points[:, :2] * SIDE
        drawn = [columns.min(), SIDE - 1 - rows.max(), columns.max() + 1, SIDE - rows.min()]
        np.testing.assert_allclose([*box.min(0), *box.max(0)], drawn, atol=2.1, err_msg=row["text"])


def test_a_filled_outline_is_the_picture():
    """One contour, in order: a polygon."""
    wanted = [i for i, character in enumerate(listed("train", "character")) if character in "LTVXZCS"]
    assert len(wanted) == 7 * 12
    overlaps = []
    for row in opened("train").rows(wanted):
        sheet = Image.new("L", (SIDE * 8, SIDE * 8), 255)
        corners = [(8 * SIDE * x, 8 * SIDE * (1 - y)) for x, y in row["points"][:, :2].tolist()]
        ImageDraw.Draw(sheet).polygon(corners, fill=0)
        filled = 1 - np.asarray(sheet.reduce(8)) / 255
        ink = 1 - np.asarray(row["image"]) / 255
        overlaps.append(np.minimum(filled, ink).sum() / np.maximum(filled, ink).sum())
    assert min(overlaps) > 0.55, "hinting moves edges by parts of a pixel"
    assert np.mean(overlaps) > 0.8


@pytest.mark.parametrize("character", ["i", "Å", "ﬁ", "░", "⠿", "Ж", "@"])
@pytest.mark.parametrize("face", ["DejaVuSans", "DejaVuSerif"])
def test_points_are_evenly_spaced_along_the_contours_of_fonttools(character, face):
    """Against its pens: perimeter and area of the outline."""
    font = glyphs._font(face)
    shapes = font.getGlyphSet()
    name = font.getBestCmap()[ord(character)]
    perimeter, area, em = PerimeterPen(shapes), AreaPen(shapes), font["head"].unitsPerEm
    shapes[name].draw(perimeter)
    shapes[name].draw(area)
    coordinates, ends, flags = font["glyf"][name].getCoordinates(font["glyf"])
    pieces = glyphs._pieces(np.array(coordinates, float), np.array(ends), np.array(flags) & 1 == 1)
    assert np.linalg.norm(np.diff(pieces, axis=1), axis=2).sum() == pytest.approx(perimeter.value, rel=0.01)
    (x, y), (right, up) = np.moveaxis(pieces[:, :-1], -1, 0), np.moveaxis(np.diff(pieces, axis=1), -1, 0)
    assert (x * up - y * right).sum() / 2 == pytest.approx(area.value, rel=0.02)
    steps = np.linalg.norm(np.diff(outline(face, character), axis=0), axis=1) * em
    assert np.median(steps) <= perimeter.value / 128 * 1.001
    assert (steps > perimeter.value / 128 * 1.001).sum() <= len(ends) - 1, "but from one contour to the next"


def test_names_and_properties_are_those_of_unicode(some):
    for row in some:
        character = row["character"]
        assert unicodedata.lookup(row["text"]) == character
        assert row["category"] == unicodedata.category(character)
        assert row["script"] == script(character)
        assert 0 < row["ink"] < 1
        assert row["height"] > 0
    names = dict(zip(listed(None, "text"), listed(None, "character"), strict=True))
    assert len(names) == len(set(names.values())) > 7000
    assert not {unicodedata.category(character)[0] for character in names.values()} & set("CZ")


def test_scripts():
    assert script("a") == "latin"
    assert script("ᐁ") == "canadian aboriginal"
    assert script("+") == "common"
    assert len(cells(None, "script")) == len({*glyphs.SCRIPTS.values()}) + 1


# Look-alikes


def test_look_alikes_are_those_with_one_picture_and_what_looks_like_one_of_them():
    pictures = np.array([0, 1, 1, 2, 2, 5, 6, 0], np.uint8).reshape(-1, 1, 1)
    #           a, and b in another face; b looks like c, c like d; e; f twice; a again
    codes = np.array([10, 9, 8, 8, 7, 30, 30, 11])
    assert look_alikes(codes, pictures).tolist() == [10, 7, 7, 7, 7, 30, 30, 10]


def test_rows_that_must_not_be_told_apart_have_one_number():
    table = opened()._table._glyphs
    by_character, by_picture = defaultdict(set), defaultdict(set)
    for code, picture, same in zip(table.codes.tolist(), table.pictures, table.same.tolist(), strict=True):
        by_character[code].add(same)
        by_picture[picture.tobytes()].add(same)
    assert all(len(numbers) == 1 for numbers in [*by_character.values(), *by_picture.values()])
    same = dict(zip(listed(None, "character"), listed(None, "same"), strict=True))
    assert same["A"] == same["\N{GREEK CAPITAL LETTER ALPHA}"] == same["\N{CYRILLIC CAPITAL LETTER A}"] == ord("A")
    assert len({same[character] for character in "ABCDabcd019.,"}) == 13
    assert max(np.unique(list(same.values()), return_counts=True)[1]) < 30, "no chain runs through all"


# As data of the toolkit


def test_it_is_known_by_name():
    assert "glyphs" in NAMES
    with pytest.raises(LookupError, match=r"there are breast_cancer, .*, glyphs, .* Did you mean 'glyphs'"):
        Source(path="bundled:glyph")
    with pytest.raises(LookupError, match="bundled:glyphs has no split 'val'; it has train, test, characters, scripts"):
        opened("val")
    assert opened("scripts").parts == ["bundled:glyphs/scripts"]
    assert opened().parts == [f"bundled:glyphs/{split}" for split in SPLITS]


def test_labels():
    labels = opened("train").labels()
    assert (labels.kind, len(labels.names)) == ("classification", 21)
    for split in ("test", "characters", "scripts"):
        assert len(opened(split).labels(like=labels)) == len(opened(split))
    of_script = opened("train", columns={"label": "script"}).labels()
    assert {"latin", "greek", "common"} < set(of_script.names)
    assert len(opened("test", columns={"label": "script"}).labels(like=of_script)) == len(opened("test"))


@pytest.mark.parametrize("label", ["category", "script"])
def test_a_table_reads_no_label_and_no_name(label):
    source = opened("test", columns={"label": label})
    assert source.places(TABULAR) == list(glyphs.PROPERTIES)
    assert opened(columns={"tabular": ["width", "script"]}).places(TABULAR) == ["width", "script"]


@pytest.mark.parametrize("modality", [IMAGE, TEXT, POINTS, TABULAR], ids=lambda modality: modality.name)
def test_every_modality_reads_it(modality):
    source = opened("train", limit=64).only([modality])
    samples = [source.raw(modality, row) for row in source.rows(range(64))]
    assert set(source._table.rows([0])[0]) == set(glyphs.PROPERTIES if modality is TABULAR else [modality.name])
    processor = modality.processor()
    if not processor.fitted:
        processor.fit(samples)
    batch = processor.collate([processor(sample) for sample in samples])
    assert {len(values) for values in batch.values()} == {64}
    assert all(values.isfinite().all() for values in batch.values())


def test_it_goes_to_workers_with_its_own_rows_alone():
    table = GlyphTable("test")
    data = pickle.dumps(table)
    assert len(data) < 1200 * len(table)
    copy = pickle.loads(data)
    assert copy.columns == table.columns
    assert copy.column("text") == table.column("text")
    assert np.array_equal(copy.rows([7])[0]["points"], table.rows([7])[0]["points"])


def test_a_matplotlib_without_fonts_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"bundled:glyphs needs the fonts that come with matplotlib, and there is no .*DejaVuSans.ttf"
    ):
        glyphs._read(0)


def test_captions_say_name_kind_and_parts():
    assert glyphs.captions("à") == [
        "latin small letter a with grave",
        "lowercase letter, latin script",
        "latin small letter a, combining grave accent",
    ]
    assert glyphs.captions("7") == ["digit seven", "digit, common script"]
    assert all(row["captions"][0] == row["text"] for row in opened("test").rows(range(0, 2600, 100)))
    assert {unicodedata.category(character) for character in cells(None, "character")} <= glyphs.KINDS.keys()
