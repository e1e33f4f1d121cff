"""Bad and odd point clouds: each is refused with what is wrong and the way out, or handled as documented."""

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData, PlyElement

from mmssl_modalities.points import PointsProcessor

NAN, INF = float("nan"), float("inf")


def cloud(n: int = 20, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def with_value(value: float, count: int = 1) -> np.ndarray:
    raw = cloud()
    raw[:count, 1] = value
    return raw


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def ply(names: str = "x y z", count: int | None = None, text: bool = False) -> bytes:
    """Twenty vertices with these properties; `count`: what the header announces instead."""
    rows = np.zeros(20, [(name, "f4") for name in names.split()])
    rows[names.split()[0]] = np.arange(20)
    stream = BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(stream)
    data = stream.getvalue()
    return data if count is None else data.replace(b"vertex 20", b"vertex %d" % count)


def las(*, compress: bool = False, values: np.ndarray | None = None) -> bytes:
    las = laspy.LasData(laspy.LasHeader(version="1.4", point_format=6))
    las.x, las.y, las.z = (cloud() if values is None else values).T
    stream = BytesIO()
    las.write(stream, do_compress=compress)
    return stream.getvalue()


def patched(data: bytes, at: int, kind: str, value: int) -> bytes:
    """The data with one number overwritten."""
    size = struct.calcsize(kind)
    return data[:at] + struct.pack(kind, value) + data[at + size :]


OFF = b"OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"
RECORDS, COUNT, COUNT_1_4 = 100, 107, 247
"""Places in a LAS header: number of variable-length records, and of points."""

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    # Values
    "a NaN coordinate": (
        with_value(NAN),
        ValueError,
        r"needs finite coordinates; 1 of 20 points have NaN or infinite ones\. Leave these",
    ),
    "infinite coordinates": (with_value(-INF, 3), ValueError, "3 of 20 points have NaN or infinite ones"),
    "all NaN": (np.full((5, 3), NAN), ValueError, "5 of 5 points"),
    "coordinates beyond float32": (
        with_value(1e30),
        ValueError,
        r"coordinates of at most 1e\+15; the largest is 1e\+30\. Choose a larger unit",
    ),
    "coordinates beyond float64's squares": (with_value(1e300), ValueError, "the largest is 1e"),
    "the largest integers": (np.full((4, 3), 2**63 - 1), ValueError, "the largest is 9.22337e"),
    # Shapes
    "an empty list": ([], ValueError, r"needs at least one point; got an empty array of shape \[0\]\. Leave the sample out"),
    "an empty array": (np.zeros((0, 3)), ValueError, r"empty array of shape \[0, 3\]"),
    "points without coordinates": (np.zeros((4, 0)), ValueError, r"empty array of shape \[4, 0\]"),
    "points of the plane": (cloud(width=2), ValueError, r"needs shape \[n, 3\]: x, y, z; got \[20, 2\]\. .* a third coordinate"),
    "too many columns": (cloud(width=6), ValueError, r"got \[20, 6\]\. .* set processor.features to 3, else drop columns"),
    "coordinates by row": (cloud().T, ValueError, r"got \[3, 20\]\. Transpose it"),
    "one point without a list around it": ([1.0, 2.0, 3.0], ValueError, r"needs shape \[n, 3\]: x, y, z; got \[3\]"),
    "several clouds in one array": (np.zeros((2, 5, 3)), ValueError, r"got \[2, 5, 3\]\. Pass several clouds as a list"),
    "a number": (3.5, TypeError, "a point cloud is an array, tensor or nested list .* got float"),
    "a number in an array": (np.float32(3.5), TypeError, "got float32"),
    "an array of no dimensions": (np.array(3.5), ValueError, r"got \[\]"),
    "points of different widths": ([[1, 2, 3], [4, 5]], ValueError, "needs the same number of values for each point"),
    # Types
    "nothing": (None, TypeError, "got NoneType"),
    "an object": (object(), TypeError, "or the path or bytes of a file; got object"),
    "a set": ({(1, 2, 3)}, TypeError, "got set"),
    "text for numbers": ([["a", "b", "c"]], TypeError, "a point cloud holds real numbers; got values of type <U1"),
    "numbers as text": (np.array([["1", "2", "3"]]), TypeError, "holds real numbers; got values of type <U1"),
    "a missing coordinate": (
        [[1, 2, None]],
        TypeError,
        r"got None \(NoneType\)\. Convert it, and leave points that lack a value out",
    ),
    "complex numbers": (cloud() + 1j, TypeError, "got values of type complex128"),
    "booleans": (cloud() > 0, TypeError, "got values of type bool"),
    "dates": (np.zeros((2, 3), "M8[s]"), TypeError, "datetime64"),
    "records": (np.zeros(4, [("x", "f4"), ("y", "f4"), ("z", "f4")]), TypeError, "holds real numbers"),
    "a sparse tensor": (torch.eye(3).to_sparse(), TypeError, "given as a tensor must be dense; got torch.sparse_coo"),
    "a tensor without values": (torch.zeros(4, 3, device="meta"), TypeError, "must be dense; got torch.strided on meta"),
    "a tensor of booleans": (torch.ones(4, 3, dtype=torch.bool), TypeError, "got values of type bool"),
    # Dicts
    "an empty dict": ({}, ValueError, r"given as a dict needs the coordinates as 'points' \[n, 3\]; got the keys none"),
    "a dict without points": ({"colors": cloud()}, ValueError, "got the keys 'colors'"),
    "a dict with nothing as points": ({"points": None}, ValueError, "needs the coordinates as 'points'"),
    "a dict with flat points": (
        {"points": cloud(width=2)},
        ValueError,
        r"a point cloud: 'points' needs shape \[n, 3\]: x, y, z; got \[20, 2\]",
    ),
    "a record of text for bytes": (
        {"bytes": "ply", "path": None},
        TypeError,
        "'bytes' of a point cloud are the content of a file; got str",
    ),
    # Files
    "no bytes": (b"", ValueError, r"the point cloud is no \.npy, .* file; got no bytes\. Convert it, replace it or drop it"),
    "other bytes": (b"\xff\xd8\xff\xe0 a photograph", ValueError, r"got 17 bytes that start with b'\\xff\\xd8"),
    "a text file": (b"0 0 0\n1 1 1\n", ValueError, r"got 12 bytes that start with b'0 0 0"),
    "a missing file": (
        "no/such/cloud.ply",
        FileNotFoundError,
        "no point cloud file no/such/cloud.ply; paths are relative to /",
    ),
    "text that is no path": ("not\0a path", ValueError, "cannot read the point cloud file .* Give the path of one file"),
    "an npy file of objects": (
        npy(np.array([[1, 2, {}]], object), pickled=True),
        ValueError,
        "damaged or cannot be used: Object arrays",
    ),
    "an npy file cut short": (npy(cloud())[:-7], ValueError, "the point cloud is damaged or cannot be used"),
    "an npy header cut short": (npy(cloud())[:9], ValueError, "damaged or cannot be used"),
    "an npy file of text": (npy(np.array([["a", "b", "c"]])), TypeError, "holds real numbers"),
    "an npy header of a trillion points": (
        npy(cloud()).replace(b"(20, 3), }" + 12 * b" ", b"(1000000000000, 3), }" + b" "),
        ValueError,
        "damaged or cannot be used",
    ),
    "an npz file cut short": (npz(points=cloud())[:-30], ValueError, "damaged or cannot be used"),
    "an npz file of objects": (npz(points=np.array([[1, 2, {}]], object)), ValueError, "Object arrays cannot be loaded"),
    "an npz file without points": (
        npz(a=cloud(), b=cloud()),
        ValueError,
        "the point cloud given as a dict needs .* got the keys 'a', 'b'",
    ),
    "an empty npz file": (npz(), ValueError, "got the keys none"),
    "a zip file of something else": (b"PK\x03\x04 and nothing more", ValueError, "damaged or cannot be used"),
    "a PLY header cut short": (ply()[:30], ValueError, "damaged or cannot be used"),
    "a PLY file cut short": (ply()[:-5], ValueError, "early end-of-file"),
    "a PLY text cut short": (ply(text=True)[:-30], ValueError, "early end-of-"),
    "a PLY file with letters for numbers": (ply(text=True).replace(b"\n3 0 0", b"\n3 zero 0"), ValueError, "malformed input"),
    "a PLY file that announces billions": (
        ply(count=4_000_000_000),
        ValueError,
        "announces 4,000,000,000 rows of vertex, but it has 3",
    ),
    "a PLY count of a thousand digits": (
        ply().replace(b"vertex 20", b"vertex " + b"9" * 1000),
        ValueError,
        "announces 999,999,999",
    ),
    "a PLY count below zero": (ply().replace(b"vertex 20", b"vertex -2"), ValueError, "damaged or cannot be used"),
    "a PLY file with rows of nothing": (
        b"ply\nformat binary_little_endian 1.0\nelement void 999999999999\nelement vertex 0\nend_header\n",
        ValueError,
        "announces 999,999,999,999 rows of void",
    ),
    "a PLY file without vertices": (ply().replace(b"vertex", b"vortex"), ValueError, "has no element 'vertex', but vortex"),
    "a PLY file of the plane": (ply("x y"), ValueError, "its vertices have no property z; they have x, y"),
    "an OFF file with half of its corners": (OFF[:20], ValueError, "damaged or cannot be used"),
    "an OFF file with a corner of the plane": (OFF.replace(b"1 0 0", b"1 0"), ValueError, "damaged or cannot be used"),
    "an OFF file with faces at no corner": (OFF.replace(b"3 0 1 3", b"3 0 1 9"), ValueError, "face index outside the range"),
    "an OFF file with letters for numbers": (OFF.replace(b"1 0 0", b"a b c"), ValueError, "could not convert"),
    "an OFF file that announces billions": (OFF.replace(b"4 2 0", b"4000000000 2 0"), ValueError, "damaged or cannot be used"),
    "an OFF file with fewer corners than none": (OFF.replace(b"4 2 0", b"-4 2 0"), ValueError, "damaged or cannot be used"),
    "an OFF file with a NaN": (OFF.replace(b"1 0 0", b"nan 0 0"), ValueError, "1 of 4 points have NaN"),
    "an OFF file of its first line": (b"OFF\n", ValueError, "damaged or cannot be used"),
    "a LAS signature alone": (b"LASF", ValueError, "damaged or cannot be used"),
    "a LAS header cut short": (las()[:200], ValueError, "damaged or cannot be used"),
    "a LAS file cut short": (las()[:-11], ValueError, r"announces 20 points, but the file ends before the last"),
    "a LAS file that announces billions": (
        patched(las(), COUNT_1_4, "<Q", 10**12),
        ValueError,
        "announces 1,000,000,000,000 points, more than",
    ),
    "a LAS file with a million points more": (patched(las(), COUNT_1_4, "<Q", 10**6), ValueError, "the file ends before the last"),
    "a LAS file with billions of records": (
        patched(las(), RECORDS, "<I", 2**32 - 1),
        ValueError,
        "announces 4,294,967,295 records",
    ),
    "a LAS file without points": (las(values=np.zeros((0, 3))), ValueError, "needs at least one point"),
    "a LAZ file cut short": (las(compress=True)[:-60], ValueError, "damaged or cannot be used"),
    "a LAZ file with a million points more": (patched(las(compress=True), COUNT_1_4, "<Q", 10**6), ValueError, "the point cloud"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    raw, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        PointsProcessor()(raw)


def test_a_folder_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the point cloud file .*: Is a directory\. Give the path of one file"):
        PointsProcessor()(tmp_path)
    file = tmp_path / "scan.ply"
    file.write_bytes(ply()[:40])
    with pytest.raises(ValueError, match=r"scan\.ply is damaged or cannot be used: .*\. Replace it or drop it"):
        PointsProcessor()({"path": str(file), "bytes": None})
    with pytest.raises(ValueError, match=r"scan\.ply is damaged"):
        PointsProcessor()({"path": "scan.ply", "bytes": ply()[:40]})


COLOURED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "no colours": (
        {"color": 3},
        {"points": cloud()},
        r"lacks 'color', of which processor.features wants 3 values .* it has 'points'\.",
    ),
    "colours of another length": (
        {"color": 3},
        {"points": cloud(), "rgb": cloud(7)},
        r"'rgb' needs shape \[20, 3\], .* got \[7, 3\]",
    ),
    "colours with an alpha": (
        {"color": 3},
        {"points": cloud(), "color": cloud(width=4)},
        r"needs shape \[20, 3\], .* got \[20, 4\]",
    ),
    "a NaN colour": ({"color": 3}, {"points": cloud(), "color": with_value(NAN)}, "needs finite features; 1 of 20 points"),
    "a huge feature": ({"heat": 1}, {"points": cloud(), "heat": np.full(20, 1e38)}, r"features of at most 1e\+15; .* Scale them"),
    "columns without features": ({"color": 3}, cloud(), r"needs shape \[n, 6\]: x, y, z, color \(3\); got \[20, 3\]"),
    "a PLY file without colours": ({"color": 3}, ply(), "lacks 'color'"),
    "a LAS file without colours": ({"color": 3}, las(), "lacks 'color'"),
    "an OFF file with features": ({"normal": 3}, OFF, "lacks 'normal'"),
}


@pytest.mark.parametrize("name", COLOURED)
def test_features_that_are_not_there(name: str) -> None:
    features, raw, message = COLOURED[name]
    with pytest.raises(ValueError, match=message):
        PointsProcessor(features=features)(raw)


def test_features_by_number_do_not_come_from_files() -> None:
    with pytest.raises(ValueError, match=r"lacks 'features'.* those of files have names, as in \{color: 3\}"):
        PointsProcessor(features=3)(ply("x y z red green blue"))
    with pytest.raises(ValueError, match=r"needs shape \[n, 5\]: x, y, z and 2 features; got \[20, 4\]"):
        PointsProcessor(features=2)(cloud(width=4))


def test_limits() -> None:
    with pytest.raises(ValueError, match=r"has 20 points, more than processor.max_points=10\. Cut it up, or raise max_points"):
        PointsProcessor(max_points=10)(cloud())
    with pytest.raises(ValueError, match=r"announces 20 points, more than processor.max_points=10"):
        PointsProcessor(max_points=10)(ply())
    bomb = npz(points=np.zeros((100_000, 3)))
    assert len(bomb) < 5000
    with pytest.raises(ValueError, match=r"it unpacks to 2,400,128 bytes, more than 256,000 that max_points=1,000 points may take"):
        PointsProcessor(max_points=1000)(bomb)
    with pytest.raises(
        ValueError, match=r"too wide for processor.voxel_size=0.001: a cell lies .* cells from the origin, at most 1,048,576"
    ):
        PointsProcessor(tokenizer="voxel", voxel_size=0.001, normalise="none")([[0, 0, 0], [0, 0, 2000]])


# Odd, but handled as documented: (raw, tokens)
HANDLED: dict[str, tuple[Any, int]] = {
    "one point": ([[1, 2, 3]], 1),
    "one place": (np.ones((500, 3)), 1),
    "two points": (cloud(2), 2),
    "a line": (np.linspace(0, 1, 100)[:, None] * [1, 2, 3], 64),
    "a plane": (cloud(100) * [1, 1, 0], 64),
    "duplicates": (np.repeat(cloud(7), 9, axis=0), 7),
    "a grid of ties": (np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3), 64),
    "integers": ((np.arange(300) % 120).astype(np.int8).reshape(100, 3), 40),
    "unsigned integers": (np.arange(30, dtype=np.uint64).reshape(10, 3), 10),
    "half precision": (cloud(50).astype(np.float16), 50),
    "subnormal numbers": (cloud(50) * 1e-310, 50),
    "negative zeros": (np.array([[-0.0, 0, 0], [0.0, 0, 0]]), 1),
    "one far point": (np.concatenate([cloud(99), [[1e6, 0, 0]]]), 64),
    "an array that cannot be written": (np.broadcast_to(cloud(1), (50, 3)), 1),
    "rows in another order in memory": (np.asfortranarray(cloud(90)), 64),
    "every second point": (cloud(180)[::2], 64),
    "a tensor with a gradient": (torch.randn(90, 3, requires_grad=True), 64),
    "a PLY file with Mac line ends": (ply(text=True).replace(b"\n", b"\r"), 20),
    "an OFF file whose counts stand beside its name": (OFF.replace(b"OFF\n", b"OFF"), 64),
    "an OFF mesh of lines": (OFF.replace(b"3 0 1 2", b"3 0 1 1").replace(b"3 0 1 3", b"3 2 2 2"), 4),
}


@pytest.mark.parametrize("tokenizer", ["groups", "voxel"])
@pytest.mark.parametrize("name", HANDLED)
def test_handled(name: str, tokenizer: Any) -> None:
    raw, tokens = HANDLED[name]
    processor = PointsProcessor(tokenizer=tokenizer)
    inputs = processor(raw)
    if tokenizer == "groups":
        assert len(inputs["points_centers"]) == tokens
    assert all(tensor.isfinite().all() for tensor in inputs.values())
    assert np.isfinite(processor.features(inputs)).all()
    processor.collate([inputs, processor(cloud(90))])


def test_the_corpus_is_large() -> None:
    assert len(REFUSED) + len(COLOURED) + len(HANDLED) >= 100


# Fuzz

numbers = st.floats(width=64) | st.integers(-(2**40), 2**40) | st.sampled_from([0, -0.0, 1e-320, 1e15, NAN, INF])
shapes = st.tuples(st.integers(0, 12), st.sampled_from([0, 1, 3, 3, 3, 3, 4]))
arrays = npst.arrays(npst.floating_dtypes() | npst.integer_dtypes(), shapes)
lists = st.lists(st.lists(numbers | st.none() | st.text(max_size=2), min_size=2, max_size=4), max_size=6)
dicts = st.dictionaries(st.sampled_from(["points", "xyz", "colors", "bytes", "path"]), arrays | st.none() | st.binary(max_size=9))
FUZZ = settings(max_examples=60, deadline=None, derandomize=True)


def survives(processor: PointsProcessor, raw: Any) -> None:
    """The processor refuses with a message, or gives finite tensors of the announced sizes."""
    try:
        inputs = processor(raw)
    except (ValueError, TypeError, OSError) as error:
        assert str(error)
        return
    g, k, p = inputs["points_groups"].shape
    assert (k, p) == (4, 3)
    assert 1 <= g <= 5
    assert list(inputs["points_centers"].shape) == [g, 3]
    assert all(tensor.isfinite().all() for tensor in inputs.values())
    assert np.isfinite(processor.features(inputs)).all()


@FUZZ
@given(
    raw=arrays | lists | dicts, tokenizer=st.sampled_from(["groups", "voxel"]), normalise=st.sampled_from(["unit_sphere", "none"])
)
def test_any_value(raw: Any, tokenizer: Any, normalise: Any) -> None:
    survives(PointsProcessor(tokenizer=tokenizer, normalise=normalise, num_groups=5, max_tokens=5, group_size=4), raw)


FILES: dict[str, Callable[[], bytes]] = {
    "npy": lambda: npy(cloud()),
    "npz": lambda: npz(points=cloud()),
    "ply": ply,
    "ply text": lambda: ply(text=True),
    "off": lambda: OFF,
    "las": las,
    "laz": lambda: las(compress=True),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind: str) -> None:
    """Bytes that are changed, and ends that are lost, wherever they are."""
    data, processor = FILES[kind](), PointsProcessor(num_groups=5, group_size=4, max_points=10_000)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            damaged[int(random.integers(len(data)))] = int(random.integers(256))
        survives(processor, bytes(damaged))
        survives(processor, data[: int(random.integers(len(data)))])
