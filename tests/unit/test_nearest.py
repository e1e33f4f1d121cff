"""Nearest vectors: against a brute-force search in float64, with ties, and what is kept of a built index."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmssl.evaluation.nearest import KINDS, Nearest, unit


def brute(vectors: np.ndarray, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by sorting all cosines, equal ones by their places."""
    rows, own = unit(vectors).astype(np.float64), unit(query[None])[0].astype(np.float64)
    cosines = np.array([sum(a * b for a, b in zip(row, own, strict=True)) for row in rows])
    order = sorted(range(len(rows)), key=lambda place: (-round(cosines[place], 12), place))[:count]
    return np.array(order), cosines[order]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**31))
def test_exact_search_is_that_of_brute_force(size: int, width: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, query = (random.standard_normal(shape).astype(np.float32) * 5 for shape in ((size, width), (width,)))
    places, cosines = Nearest(vectors)(query, count)
    expected_places, expected = brute(vectors, query, count)
    np.testing.assert_allclose(cosines, expected, atol=1e-12)
    # In one dimension all cosines are 1 or -1, but for rounding.
    if width > 1:
        np.testing.assert_array_equal(places, expected_places)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**31))
def test_of_equal_vectors_those_with_the_smaller_place_come(size: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    few = random.standard_normal((4, 16)).astype(np.float32)
    vectors = few[random.integers(0, 4, size)]
    places, _ = Nearest(vectors)(few[0], count)
    np.testing.assert_array_equal(places, brute(vectors, few[0], count)[0])


def test_vectors_whose_order_float32_loses_are_in_that_of_float64() -> None:
    random = np.random.default_rng(0)
    base = random.standard_normal(512)
    vectors = (base + 1e-5 * random.standard_normal((400, 512))).astype(np.float32)
    places, cosines = Nearest(vectors)(base.astype(np.float32), 50)
    np.testing.assert_array_equal(places, brute(vectors, base.astype(np.float32), 50)[0])
    assert (np.diff(cosines) <= 0).all()


def test_the_length_of_a_vector_does_not_matter_and_zero_is_alike_to_nothing() -> None:
    vectors = np.array([[0, 0], [1e-20, 1e-20], [-3, 0], [2e18, 0]], dtype=np.float32)
    places, cosines = Nearest(vectors)(np.array([5, 0], dtype=np.float32), 4)
    assert places.tolist() == [3, 1, 0, 2]
    np.testing.assert_allclose(cosines, [1, 0.5**0.5, 0, -1], atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "exact"])
def test_an_index_that_is_not_exact_finds_nearly_all_and_is_kept(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((20, 32))
    vectors = (centres[np.arange(2000) % 20] + 0.3 * random.standard_normal((2000, 32))).astype(np.float32)
    exact, found = Nearest(vectors), Nearest(vectors, kind, tmp_path / "index.parquet")  # type: ignore[arg-type]
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith(f"index.parquet.{kind}.")
    again = Nearest(vectors, kind, tmp_path / "index.parquet")  # type: ignore[arg-type]
    shares = []
    for number in range(20):
        right, _ = exact(vectors[number], 10)
        places, cosines = found(vectors[number], 10)
        assert places[0] == number
        assert cosines[0] == pytest.approx(1, abs=1e-6)
        shares.append(len(np.intersect1d(right, places)) / 10)
        np.testing.assert_array_equal(again(vectors[number], 10)[0], places)
    assert np.mean(shares) > 0.9
    Nearest(2 * vectors[::-1], kind, tmp_path / "index.parquet")  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 2, "other vectors have an index of their own"


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmssl\[search\]'"):
        Nearest(np.eye(2, dtype=np.float32))
