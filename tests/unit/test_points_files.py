"""Clouds and meshes in files: what was written is what is read, and what is neither is named."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import plyfile
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data import Source
from mmssl.modality import find
from mmssl_modalities.points.decode import read_cloud
from mmssl_modalities.points.plain import _lzf

POINTS = find("points")
RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(40, 3)).astype(np.float32)
COLOURS = RNG.integers(0, 256, (40, 3)).astype(np.uint8)
BOX = trimesh.creation.box(extents=(4, 2, 1))
BALL = trimesh.creation.icosphere(subdivisions=3)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unscaled(part: str, values: np.ndarray, of_ply: bool, name: str) -> np.ndarray:
    """Features as they are stored."""
    return values.astype(np.float64)


def points(path: str | bytes, features: dict[str, int] | int = 0, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    return read_cloud(path, features, count, 100_000, unscaled)


def pcd(form: str) -> bytes:
    """A cloud with colours, one of whose rays met nothing."""
    kind = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4")])
    rows = np.zeros(41, kind)
    for i, name in enumerate("xyz"):
        rows[name][:40], rows[name][40] = CLOUD[:, i], np.nan
    packed = (COLOURS[:, 0].astype(np.uint32) << 16) | (COLOURS[:, 1].astype(np.uint32) << 8) | COLOURS[:, 2]
    rows["rgb"][:40] = packed.view(np.float32)
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 41\nHEIGHT 1\nPOINTS 41\n"
    head += f"DATA {form}\n"
    if form == "ascii":
        return head.encode() + "\n".join(" ".join(f"{v:.9g}" for v in row.tolist()) for row in rows).encode()
    if form == "binary":
        return head.encode() + rows.tobytes()
    columns = b"".join(rows[name].tobytes() for name in rows.dtype.names)
    runs = [columns[i : i + 32] for i in range(0, len(columns), 32)]
    content = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return head.encode() + struct.pack("<II", len(content), len(columns)) + content


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_round_trip_of_pcd(form: str) -> None:
    Path("a.PCD").write_bytes(pcd(form))
    found, colours = points("a.PCD", {"color": 3})
    np.testing.assert_array_equal(found.astype(np.float32), CLOUD)
    np.testing.assert_array_equal(colours, COLOURS)


def test_runs_that_repeat_are_unpacked() -> None:
    assert _lzf(bytes([2, 97, 98, 99, (2 << 5), 2, (7 << 5), 3, 0]), 3 + 4 + 12) == b"abcabca" + b"a" * 12


@pytest.mark.parametrize("form", ["{} {} {}", "{},{},{}", "{};{};{}", "{}\t{}\t{}"])
@pytest.mark.parametrize("suffix", ["xyz", "txt", "pts"])
def test_round_trip_of_text(form: str, suffix: str) -> None:
    lines = [form.format(*map(float, point)) for point in CLOUD]
    head = {"xyz": ["# a comment"], "txt": [], "pts": ["40"]}[suffix]
    Path(f"a.{suffix}").write_text("\n".join([*head, *lines]))
    np.testing.assert_array_equal(points(f"a.{suffix}")[0].astype(np.float32), CLOUD)
    both = [form.format(*map(float, point)) + " " + " ".join(map(str, c)) for point, c in zip(CLOUD, COLOURS, strict=True)]
    Path(f"b.{suffix}").write_text("\n".join(["x y z r g b", *both]))
    np.testing.assert_array_equal(points(f"b.{suffix}", {"color": 3})[1], COLOURS)
    Path(f"c.{suffix}").write_text("\n".join(both))
    np.testing.assert_array_equal(points(f"c.{suffix}", 3)[1], COLOURS)


NORMALS = CLOUD / np.linalg.norm(CLOUD, axis=1, keepdims=True)
BESIDE = {
    "normals": ([NORMALS], {"normal": 3}, 0),
    "colours": ([COLOURS], {"color": 3}, None),
    "colours, normals": ([COLOURS, NORMALS], {"color": 3, "normal": 3}, 3),
    "nothing": ([], 0, None),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("kind", ["npy", "npz", "txt", "memory"])
def test_round_trip_of_what_follows_the_coordinates(beside: str, kind: str) -> None:
    parts, features, normals = BESIDE[beside]
    table = np.concatenate([CLOUD, *parts], 1).astype(np.float64)
    if kind == "txt":
        np.savetxt("c.txt", table, delimiter=",")
    elif kind != "memory":
        (np.save if kind == "npy" else np.savez)(f"c.{kind}", table)
    raw = table if kind == "memory" else f"c.{kind}"
    found = {key: suited.value for key, suited in POINTS.suited([raw] * 3).items()}
    assert found["processor.features"] == features
    assert found["augment.normals"] == normals
    processor = POINTS.processor(num_groups=1, group_size=40, features=features)
    processor.fit([raw])
    read = processor(raw)["points_groups"][0, :, 3:].numpy()
    scaled = np.concatenate([CLOUD[:, :0], *(part / 255 if part is COLOURS else part for part in parts)], 1)
    assert np.allclose(sorted(map(tuple, read)), sorted(map(tuple, scaled.astype(np.float32))), atol=1e-6)


def test_clouds_of_unknown_or_various_columns_are_named() -> None:
    np.save("more.npy", np.concatenate([CLOUD, CLOUD[:, :2]], 1))
    assert POINTS.suited(["more.npy"])["processor.features"].value == 0
    with pytest.raises(ValueError, match=r"more\.npy .* got \[40, 5\]\. .* set processor\.features to 2"):
        POINTS.processor(features=0)("more.npy")
    assert POINTS.processor(num_groups=1, group_size=40, features=2)("more.npy")["points_groups"].shape == (1, 40, 5)
    np.save("wide.npy", np.concatenate([CLOUD, NORMALS], 1))
    np.save("narrow.npy", CLOUD)
    assert POINTS.suited(["wide.npy", "narrow.npy"])["processor.features"].value == 0
    with pytest.raises(
        ValueError, match=r"wide\.npy needs shape \[n, 3\]: x, y, z; got \[40, 6\]\. .* set processor\.features to 3"
    ):
        POINTS.processor(features=0)("wide.npy")


@pytest.mark.parametrize("suffix", ["obj", "stl", "glb", "off", "ply"])
def test_round_trip_of_meshes(suffix: str) -> None:
    BOX.export(f"box.{suffix}")
    found, _ = points(f"box.{suffix}")
    assert found.shape == (600, 3)
    half = np.array([2, 1, 0.5])
    assert (np.abs(found) <= half + 1e-6).all()
    sides = np.isclose(np.abs(found), half, atol=1e-6)
    assert sides.any(1).all(), "on the surface"
    areas = np.array([2 * 1, 4 * 1, 4 * 2]) / (2 + 4 + 8)
    assert np.abs(sides.mean(0) - areas).max() < 0.03, "evenly by area"
    np.testing.assert_array_equal(points(f"box.{suffix}")[0], found)


def test_meshes_of_every_format_are_one_shape() -> None:
    clouds = []
    for suffix in ("obj", "stl", "glb", "ply"):
        BALL.export(f"ball.{suffix}")
        clouds.append(points(f"ball.{suffix}", count=2000)[0])
    assert all(np.allclose(np.linalg.norm(cloud, axis=1), 1, atol=0.02) for cloud in clouds)
    assert all(np.abs(cloud.mean(0)).max() < 0.03 for cloud in clouds)


def test_scenes_keep_their_parts_in_their_places() -> None:
    scene = trimesh.Scene()
    scene.add_geometry(BOX, transform=trimesh.transformations.translation_matrix([10, 0, 0]))
    scene.add_geometry(BOX, transform=trimesh.transformations.translation_matrix([-10, 0, 0]))
    scene.export("two.glb")
    found, _ = points("two.glb")
    assert set(np.sign(found[:, 0])) == {-1, 1}
    assert np.abs(np.abs(found[:, 0]) - 10).max() <= 2


def test_gltf_with_numbers_inside_or_beside() -> None:
    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(BOX))
    Path("beside").mkdir()
    for name, data in files.items():
        (Path("beside") / name).write_bytes(data)
    found, _ = points("beside/model.gltf")
    assert found.shape == (600, 3)
    content = json.loads(files["model.gltf"])
    for buffer in content["buffers"]:
        data = base64.b64encode(files[buffer["uri"]]).decode()
        buffer["uri"] = f"data:application/octet-stream;base64,{data}"
    Path("inside.gltf").write_text(json.dumps(content))
    np.testing.assert_allclose(points("inside.gltf")[0], found)
    for buffer, uri in zip(content["buffers"], ["../secret.bin", "/etc/passwd"], strict=False):
        buffer["uri"] = uri
    Path("outside.gltf").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"outside\.gltf .*its numbers lie in '\.\./secret\.bin', which is not beside it"):
        points("outside.gltf")


def test_what_corners_hold_is_spread_over_the_faces_of_ply() -> None:
    corners = np.array([(0, 0, 0, 0), (1, 0, 0, 100), (0, 1, 0, 0), (1, 1, 0, 100)], [*((n, "f4") for n in "xyz"), ("red", "u1")])
    quad = np.array([([0, 1, 3, 2],)], [("vertex_indices", "i4", (4,))])
    elements = [plyfile.PlyElement.describe(corners, "vertex"), plyfile.PlyElement.describe(quad, "face")]
    plyfile.PlyData(elements).write("q.ply")
    found, red = points("q.ply", {"red": 1}, 5000)
    assert found.shape == (5000, 3)
    assert np.abs(found.mean(0) - [0.5, 0.5, 0]).max() < 0.01
    assert np.abs(red[:, 0] - found[:, 0] * 100).max() <= 0.5 + 1e-9
    plyfile.PlyData(elements[:1]).write("v.ply")
    assert points("v.ply")[0].shape == (4, 3), "without faces it is a cloud"


def glb(change: dict[str, object]) -> bytes:
    """A box whose header says something else."""
    data = BOX.export(file_type="glb")
    size = struct.unpack_from("<I", data, 12)[0]
    content = json.loads(data[20 : 20 + size])
    content["accessors"][0] |= change
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    return data[:8] + struct.pack("<II", 20 + len(text) + len(rest), len(text)) + data[16:20] + text + rest


BAD: dict[str, tuple[str, bytes, str]] = {
    "obj without faces": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "it has 3 corners and no faces|no faces|damaged"),
    "obj of nothing": ("a.obj", b"hello\n", "damaged or cannot be used"),
    "obj with a face at no corner": ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "damaged or cannot be used"),
    "stl cut": ("a.stl", BOX.export(file_type="stl")[:150], "damaged or cannot be used"),
    "glb cut": ("a.glb", BOX.export(file_type="glb")[:60], "damaged or cannot be used"),
    "glb of billions": ("a.glb", glb({"count": 10**12}), "announces 1,000,000,000,000 values"),
    "gltf of nothing": ("a.gltf", b"{}", "damaged or cannot be used"),
    "gltf of text": ("a.gltf", b"hello", "damaged or cannot be used"),
    "pcd cut": ("a.pcd", pcd("binary")[:-100], "the file ends before the last"),
    "pcd compressed cut": ("a.pcd", pcd("binary_compressed")[:-100], "announces"),
    "pcd of billions": ("a.pcd", pcd("binary").replace(b"POINTS 41", b"POINTS 4000000000"), "more than processor.max_points"),
    "pcd without fields": ("a.pcd", pcd("ascii").replace(b"FIELDS", b"FELDER"), "its header has no FIELDS"),
    "pcd of an unknown form": ("a.pcd", pcd("ascii").replace(b"DATA ascii", b"DATA zip"), "its data are 'zip'"),
    "xyz of words": ("a.xyz", b"C 0 0 0\nH 0 0 1\n", "damaged or cannot be used"),
    "xyz of uneven lines": ("a.xyz", b"0 0 0\n1 1\n", "damaged or cannot be used"),
    "txt of two numbers": ("a.txt", b"0 0\n1 1\n", r"needs shape \[n, 3\]"),
    "empty txt": ("a.txt", b"\n", "no line with a point"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(case: str) -> None:
    name, content, message = BAD[case]
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        points(name)
    assert name in str(caught.value)


def test_folders_of_meshes_and_clouds_are_read_and_counted() -> None:
    for suffix in ("obj", "STL", "glb", "ply"):
        Path(f"set/{suffix}").mkdir(parents=True)
        exported = BOX.export(file_type=suffix.lower())
        Path(f"set/{suffix}/a.{suffix}").write_bytes(exported.encode() if isinstance(exported, str) else exported)
    Path("set/notes.txt").write_text("about")
    Path("set/a.blend").touch()
    source = Source(path="set")
    assert source.labels().names == ["STL", "glb", "obj", "ply"]
    assert source.notes == ("set: 2 files passed over: 1 .blend, 1 .txt.",)
    processor = POINTS.processor(num_groups=8, group_size=8)
    for row in source.rows(range(4)):
        assert processor(source.raw(POINTS, row))["points_groups"].shape == (8, 8, 3)


@settings(max_examples=80, deadline=None)
@given(
    suffix=st.sampled_from(["obj", "stl", "glb", "gltf", "pcd", "xyz"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    cut=st.floats(0.2, 1),
)
def test_damaged_files_are_read_or_refused(suffix: str, places: list[tuple[float, int]], cut: float) -> None:
    good = {"pcd": pcd("binary_compressed"), "xyz": b"0 0 0\n1 1 1\n", "gltf": b'{"asset": {"version": "2.0"}}'}.get(suffix)
    data = bytearray(good or (exported if isinstance(exported := BOX.export(file_type=suffix), bytes) else exported.encode()))
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    try:
        found, _ = read_cloud({"bytes": bytes(data[: max(1, int(cut * len(data)))]), "path": f"a.{suffix}"}, 0, 64, 1000, unscaled)
    except ValueError as error:
        assert f"a.{suffix}" in str(error)
    else:
        assert np.isfinite(found).all()
