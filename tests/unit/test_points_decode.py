"""Everything that a point cloud may be held in: arrays, dicts, files, meshes."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData, PlyElement

from mmssl.modality import Inputs
from mmssl_modalities.points import PointsProcessor
from mmssl_modalities.points import files as _points_files
from mmssl_modalities.points.files import sample_surface

FILE_FEATURES = {"color": 3, "normal": 3, "intensity": 1}


def cloud(n: int = 100, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def assert_same(a: Inputs, b: Inputs, atol: float = 0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def test_forms_in_memory() -> None:
    raw = cloud().astype(np.float32)
    processor = PointsProcessor()
    expected = processor(raw)
    forms = [
        raw.tolist(),
        [tuple(row) for row in raw.tolist()],
        torch.from_numpy(raw),
        raw.astype(np.float64),
        np.asfortranarray(raw),
    ]
    forms += [{"points": raw}, {"xyz": torch.from_numpy(raw), "label": "chair"}, list(raw), raw.astype(">f4")]
    for form in forms:
        assert_same(processor(form), expected)
    half = torch.from_numpy(raw).bfloat16()
    assert_same(processor(half), processor(half.float()))
    whole = (10 * raw).round()
    assert_same(processor(whole.astype(np.int16)), processor(whole))


def test_features_by_column_and_by_name() -> None:
    raw, colours = cloud(), np.random.default_rng(0).integers(256, size=(100, 3), dtype=np.uint8)
    intensity, normals = np.linspace(0, 1, 100), cloud(seed=1)
    side_by_side = np.concatenate([raw, colours / 255, normals, intensity[:, None]], 1)
    by_number, by_name = PointsProcessor(features=7), PointsProcessor(features=FILE_FEATURES)
    expected = by_number(side_by_side)
    assert expected["points_groups"].shape[2] == 10
    named = {"points": raw, "colors": colours, "normals": normals, "intensity": intensity, "other": "text"}
    deep = named | {"colors": colours.astype(np.uint16) * np.uint16(257)}
    for found in (by_name(side_by_side), by_name(named), by_name(deep), by_name({"points": side_by_side})):
        assert_same(found, expected, 1e-7)
    assert_same(by_number({"points": raw, "features": side_by_side[:, 3:]}), expected)
    own = PointsProcessor(features={"mass": 1})
    assert_same(own({"points": raw, "mass": intensity}), PointsProcessor(features=1)(side_by_side[:, [0, 1, 2, 9]]))
    table = {tuple(row[:3]): row[3:] for row in side_by_side.astype(np.float32).tolist()}
    plain = PointsProcessor(features=7, normalise="none", scale=1.0)(side_by_side)
    for group, center in zip(plain["points_groups"], plain["points_centers"], strict=True):
        assert table[tuple(center.tolist())] == pytest.approx(group[0, 3:].tolist())


def ply_bytes(raw: np.ndarray, *, text: bool = False, order: str = "<", faces: bool = False) -> bytes:
    """A PLY file with colours, normals and intensities derived from the coordinates."""
    kinds = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    kinds += [("nx", "f4"), ("ny", "f4"), ("nz", "f4"), ("intensity", "f4")]
    rows = np.zeros(len(raw), kinds)
    for name, column in zip("xyz", raw.T, strict=True):
        rows[name], rows[f"n{name}"] = column, column
    for number, name in enumerate(("red", "green", "blue")):
        rows[name] = np.arange(len(raw)) % (200 + number)
    rows["intensity"] = np.arange(len(raw)) / len(raw)
    elements = [PlyElement.describe(rows, "vertex")]
    if faces:
        triangles = np.zeros(2, [("vertex_indices", "i4", (3,))])
        elements.append(PlyElement.describe(triangles, "face"))
    stream = BytesIO()
    PlyData(elements, text=text, byte_order=order).write(stream)
    return stream.getvalue()


def las_bytes(raw: np.ndarray, *, compress: bool = False, version: str = "1.4", point_format: int = 7) -> bytes:
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.full(3, 1e-5), np.zeros(3)
    las = laspy.LasData(header)
    las.x, las.y, las.z = raw.T
    las.intensity = np.arange(len(raw), dtype=np.uint16) * 100
    if "red" in header.point_format.dimension_names:
        las.red = las.green = las.blue = np.arange(len(raw), dtype=np.uint16) * 300
    stream = BytesIO()
    las.write(stream, do_compress=compress)
    return stream.getvalue()


def npy_bytes(raw: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, raw)
    return stream.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    stream = BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {
    "npy": npy_bytes,
    "npz": lambda raw: npz_bytes(whatever=raw),
    "npz by name": lambda raw: npz_bytes(points=raw, label=np.array(3)),
    "ply": ply_bytes,
    "ply big-endian": lambda raw: ply_bytes(raw, order=">"),
    "ply text": lambda raw: ply_bytes(raw, text=True),
    "ply with faces": lambda raw: ply_bytes(raw, faces=True),
    "las": las_bytes,
    "las 1.2": lambda raw: las_bytes(raw, version="1.2", point_format=0),
    "laz": lambda raw: las_bytes(raw, compress=True),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_files(kind: str, tmp_path: Path) -> None:
    raw = cloud(80)
    data = FORMATS[kind](raw)
    file = tmp_path / "cloud.anything"
    file.write_bytes(data)
    processor = PointsProcessor(num_groups=80, group_size=1, normalise="none", scale=1.0)
    found = processor(data)
    places = torch.from_numpy(raw)
    assert torch.cdist(places, found["points_centers"].double()).amin(1).max() < 2e-5
    forms: list[Any] = [bytearray(data), memoryview(data), file, str(file), {"bytes": data, "path": None}, {"path": str(file)}]
    for form in forms:
        assert_same(processor(form), found)


def test_features_of_files() -> None:
    raw = cloud(50).round(3)
    processor = PointsProcessor(features=FILE_FEATURES, num_groups=50, group_size=1, normalise="none", scale=1.0)
    points = np.arange(50)
    for data in (ply_bytes(raw), ply_bytes(raw, text=True), ply_bytes(raw, order=">")):
        inputs = processor(data)
        order = torch.cdist(torch.from_numpy(raw), inputs["points_centers"].double()).argmin(1)
        found = inputs["points_groups"][order, 0, 3:].numpy()
        np.testing.assert_allclose(found[:, :3], np.stack([points % (200 + i) for i in range(3)], 1) / 255, atol=1e-6)
        np.testing.assert_allclose(found[:, 3:6], raw, atol=1e-6)
        np.testing.assert_allclose(found[:, 6], points / 50, atol=1e-6)
    processor = PointsProcessor(features={"intensity": 1, "color": 3}, num_groups=50, group_size=1, normalise="none", scale=1.0)
    for compress in (False, True):
        inputs = processor(las_bytes(raw, compress=compress))
        order = torch.cdist(torch.from_numpy(raw), inputs["points_centers"].double()).argmin(1)
        found = inputs["points_groups"][order, 0, 3:].numpy()
        np.testing.assert_allclose(found[:, 0], points * 100 / 65535, atol=1e-6)
        np.testing.assert_allclose(found[:, 2], points * 300 / 65535, atol=1e-6)


def colours_in(processor: PointsProcessor, raw: Any) -> np.ndarray:
    """The largest colour of a cloud, as the model sees it."""
    return processor(raw)["points_groups"][..., 3:].amax().item()


def coloured_las(largest: int, count: int = 30) -> bytes:
    las = laspy.LasData(laspy.LasHeader(version="1.4", point_format=7))
    las.x, las.y, las.z = cloud(count).T
    las.red = las.green = las.blue = np.linspace(0, largest, count).astype(np.uint16)
    stream = BytesIO()
    las.write(stream)
    return stream.getvalue()


def coloured_ply(largest: float, kind: str, *, text: bool = False, count: int = 30) -> bytes:
    rows = np.zeros(count, [(name, "f4") for name in "xyz"] + [(name, kind) for name in ("red", "green", "blue")])
    for name, column in zip("xyz", cloud(count).T, strict=True):
        rows[name] = column
    for name in ("red", "green", "blue"):
        rows[name] = np.linspace(0, largest, count)
    stream = BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], text=text, comments=["made by hand"]).write(stream)
    return stream.getvalue()


def in_memory(largest: float, kind: str) -> dict[str, np.ndarray]:
    return {"points": cloud(30), "color": np.linspace(0, largest, 90).reshape(30, 3).astype(kind)}


BITS_8: dict[str, Any] = {
    "las": coloured_las(255),
    "uint16 in memory": in_memory(255, "uint16"),
    "big-endian": in_memory(255, ">u2"),
    "int64 in memory": in_memory(255, "int64"),
    "npz": npz_bytes(**in_memory(255, "uint16")),
    "uint8": in_memory(255, "uint8"),
    "ply ushort": coloured_ply(255, "u2"),
    "ply int": coloured_ply(255, "i4"),
    "ply float": coloured_ply(255, "f4"),
    "ply double": coloured_ply(255, "f8"),
    "ply text": coloured_ply(255, "f4", text=True),
    "ply uchar": coloured_ply(255, "u1"),
    "ply shares": coloured_ply(1, "f4"),
    "shares": in_memory(1, "float32"),
}


@pytest.mark.parametrize("kind", BITS_8)
def test_colours_of_8_bits_are_known_by_the_whole_data_set(kind: str) -> None:
    processor = PointsProcessor(features={"color": 3})
    assert not processor.fitted
    processor.fit([BITS_8[kind], "no such file.ply", BITS_8[kind]])
    assert processor.fitted
    assert colours_in(processor, BITS_8[kind]) == pytest.approx(1)
    saved = PointsProcessor(**json.loads(json.dumps(processor.settings())))
    assert saved.fitted
    assert colours_in(saved, BITS_8[kind]) == pytest.approx(1)
    told = processor.contents(iter(()))
    assert sum(len(part.odd) for part in told) == int(kind not in ("uint8", "ply uchar", "ply shares", "shares"))


@pytest.mark.parametrize("dark", [coloured_las(200), in_memory(200, "uint16"), coloured_ply(200, "u2"), coloured_ply(200, "f4")])
def test_a_dark_cloud_of_16_bits_next_to_bright_ones_stays_one(dark: Any) -> None:
    bright = coloured_ply(65535, "f4") if isinstance(dark, bytes) and b"float red" in dark[:400] else coloured_las(65535)
    for clouds in ([dark, bright], [bright, dark]):
        processor = PointsProcessor(features={"color": 3})
        processor.fit(clouds)
        assert colours_in(processor, dark) == pytest.approx(200 / 65535, rel=1e-4)
        assert not [odd for part in processor.contents(()) for odd in part.odd if odd.what.startswith("8-bit")]


def test_a_key_sets_the_full_scale() -> None:
    dark = coloured_las(200)
    for full_scale in ({"color": 65535.0}, {"color": {"uint16": 65535.0}}):
        processor = PointsProcessor(features={"color": 3}, full_scale=full_scale)
        assert processor.fitted
        assert colours_in(processor, dark) == pytest.approx(200 / 65535)
    twelve = PointsProcessor(features={"color": 3}, full_scale={"color": 4095.0})
    assert colours_in(twelve, coloured_las(4095)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"full_scale names 'colour', which is none of processor.features by name: color"):
        PointsProcessor(features={"color": 3}, full_scale={"colour": 255.0})


def test_a_cloud_brighter_than_training_is_refused_not_burnt_out() -> None:
    processor = PointsProcessor(features={"color": 3})
    processor.fit([coloured_las(255)])
    with pytest.raises(ValueError, match=r"'color' holds values up to 65535, but no training cloud had one above 255.*full_scale"):
        processor(coloured_las(65535))


def test_a_model_of_before_reads_as_it_did() -> None:
    before = PointsProcessor(features={"color": 3, "intensity": 1}).settings()
    del before["full_scale"]
    processor = PointsProcessor(**before)
    raw = in_memory(255, "uint16") | {"intensity": np.full(30, 100, np.uint16)}
    assert processor(raw)["points_groups"][..., 3:].amax().item() == pytest.approx(255 / 65535)
    assert processor.contents(()) == []


def test_intensities_and_other_features_by_the_same_rule() -> None:
    raw = {"points": cloud(30), "intensity": np.arange(30, dtype=np.uint16), "kind": np.arange(30, dtype=np.uint16)}
    processor = PointsProcessor(features={"intensity": 1, "kind": 1})
    processor.fit([raw])
    found = processor(raw)["points_groups"][..., 3:].flatten(0, 1).amax(0)
    assert found.tolist() == pytest.approx([29 / 255, 29 / 65535])


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "comment",
    [
        b"comment caf\xe9",
        "comment café".encode(),
        b"obj_info \xff\xfe",
        b"comment",
        b"comment end_header",
        b"comment element vertex 99999999999",
    ],
)
def test_comments_of_a_ply_header_are_passed_over(comment: bytes, end: bytes, text: bool) -> None:
    data = coloured_ply(255, "u1", text=text)
    header, body = data.split(b"end_header\n")
    header = header.replace(b"comment made by hand\n", comment + b"\n" + comment + b"\n")
    odd = (header + b"end_header\n").replace(b"\n", end) + body
    assert_same(PointsProcessor(features={"color": 3})(odd), PointsProcessor(features={"color": 3})(data))


BOX = trimesh.creation.box(extents=(4, 2, 1))


@pytest.mark.parametrize("header", ["OFF", "# a comment\nOFF", "COFF"])
def test_a_mesh_is_sampled_on_its_surface(header: str) -> None:
    text = BOX.export(file_type="off").replace("OFF", header, 1)
    processor = PointsProcessor(num_groups=600, group_size=1, mesh_points=600, normalise="none", scale=1.0)
    inputs = processor(text.encode())
    assert_same(processor(text.encode()), inputs)
    points = inputs["points_centers"].double()
    half = torch.tensor([2.0, 1, 0.5], dtype=torch.float64)
    on_face = (points.abs() - half).abs() < 1e-6
    assert on_face.any(1).all()
    areas = torch.tensor([2.0, 4, 8], dtype=torch.float64) * 2
    shares = torch.tensor([on_face[:, axis].double().mean() for axis in range(3)], dtype=torch.float64)
    torch.testing.assert_close(shares, areas / areas.sum(), rtol=0, atol=0.01)


def test_points_on_triangles_are_spread_evenly() -> None:
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    points = sample_surface(corners, np.array([[0, 1, 2], [0, 1, 1]]), 1000)
    assert (points >= 0).all() and (points.sum(1) <= 1 + 1e-12).all() and not points[:, 2].any()
    np.testing.assert_allclose(points.mean(0)[:2], 1 / 3, atol=0.01)
    assert ((points[:, 0] < 0.5) & (points[:, 1] < 0.5)).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(sample_surface(corners, np.array([[0, 0, 1]]), 10), corners)


def test_an_off_file_without_faces_holds_its_points() -> None:
    inputs = PointsProcessor(normalise="none", scale=1.0)(b"OFF\n2 0 0\n0 0 0\n1 2 3\n")
    assert sorted(inputs["points_centers"].tolist()) == [[0, 0, 0], [1, 2, 3]]


def test_what_many_clouds_are() -> None:
    processor = PointsProcessor()
    raw = cloud(4)
    assert len(processor.many(np.stack([raw, raw, raw]))) == 3
    assert len(processor.many(torch.zeros(2, 4, 3))) == 2
    assert processor.many(raw)[0] is raw
    for one in (raw.tolist(), list(raw), {"points": raw}, "cloud.ply", b"ply", Path("cloud.ply")):
        assert len(processor.many(one)) == 1
    for several in ([raw, raw], [raw.tolist(), raw.tolist()], ["a.ply", "b.ply"], [{"points": raw}] * 2, (raw, raw)):
        assert len(processor.many(several)) == 2


@pytest.mark.parametrize(("data", "formats"), [(b"ply\n", "PLY"), (b"LASF", "LAS and LAZ"), (b"OFF\n", "OFF")])
def test_a_missing_library_is_named_with_its_extra(data: bytes, formats: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(_points_files, "import_module", missing)
    with pytest.raises(ImportError, match=rf"reading {formats} files needs \w+: pip install mmssl\[points\]"):
        PointsProcessor()(data)
