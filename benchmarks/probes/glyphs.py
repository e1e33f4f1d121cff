"""What `bundled:glyphs` holds, how fast it opens, and what can be found in it without learning anything.

    python benchmarks/probes/glyphs.py

Prints a JSON object:

- `seconds`: to open the data, and to read a row with all its columns.
- `splits`: rows, characters, groups of look-alikes (`same`), scripts and categories of each split, and the percentage of its rows
  in the largest category. `chance`: percent of queries whose name is among `--within` names drawn from those of the split.
- `nearest`: the name of each picture of the held-out face by the nearest picture of other faces, in percent of the queries; by the
  cosine of the two in ink, and by their distance. Names are ranked by their nearest picture. Look-alikes tie: `best` ranks the
  right name first of them, `mean` is what a draw among them gives, `worst` ranks it last. `same` takes any name of the right group.
  `test` is that split against train. `all` has the held-out characters and scripts too, on both sides.
"""

import argparse
import json
import time
from collections import Counter
from typing import Any

import numpy as np

from mmssl.data import Source
from mmssl.data.glyphs import FACES, SPLITS, TEST_FACE

CHUNK = 128
"""Queries whose distances are in memory at once."""
READ = 500
"""Rows whose reading is timed."""


def chance(names: int, within: int) -> float:
    """Percent of queries for which one of `within` different names, drawn at random, is right."""
    return 100 * min(within / names, 1)


def contents(split: str | None, within: int) -> dict[str, Any]:
    source = Source(path="bundled:glyphs", split=split)
    count = {name: len(set(source.cells(name))) for name in ("character", "same", "script", "category")}
    largest = Counter(source.cells("category")).most_common(1)[0][1]
    return {
        "rows": len(source),
        **count,
        "largest_category": round(100 * largest / len(source), 1),
        "chance": round(chance(count["character"], within), 2),
    }


def read(split: str | None) -> dict[str, np.ndarray]:
    """Columns of a split, ordered by character. Ink in whole numbers, so that distances of equal pictures tie exactly."""
    source = Source(path="bundled:glyphs", split=split)
    ink = 255.0 - np.stack([np.asarray(image).ravel() for image in source.cells("image")])
    names = {name: np.array(source.cells(name)) for name in ("character", "same", "face")}
    unit = np.rint(10_000 * ink / np.linalg.norm(ink, axis=1, keepdims=True))
    return kept({"distance": ink, "cosine": unit, **names}, np.argsort(names["character"], kind="stable"))


def kept(data: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in data.items()}


def nearest(queries: dict[str, np.ndarray], gallery: dict[str, np.ndarray], pixels: str, within: int) -> dict[str, Any]:
    """Percent of queries of which the right name is the nearest, or among the nearest `within`."""
    names, firsts = np.unique(gallery["character"], return_index=True)
    name_same = gallery["same"][firsts]
    present = np.isin(queries["character"], names)
    queries = kept(queries, present)
    lengths = np.square(gallery[pixels]).sum(1)
    hits: Counter[str] = Counter()
    for start in range(0, len(queries["same"]), CHUNK):
        part = kept(queries, np.arange(start, min(start + CHUNK, len(queries["same"]))))
        far = lengths - 2 * part[pixels] @ gallery[pixels].T + np.square(part[pixels]).sum(1, keepdims=True)
        by_name = np.minimum.reduceat(far, firsts, axis=1)
        own = by_name[np.arange(len(by_name)), np.searchsorted(names, part["character"])][:, None]
        closer, tied = (by_name < own).sum(1), (by_name == own).sum(1)
        alike = np.where(name_same == part["same"][:, None], by_name, np.inf).min(1, keepdims=True)
        closer_same = (by_name < alike).sum(1)
        for k in (1, within):
            hits[f"best@{k}"] += (closer < k).sum()
            hits[f"mean@{k}"] += np.clip((k - closer) / tied, 0, 1).sum()
            hits[f"worst@{k}"] += (closer + tied <= k).sum()
            hits[f"same@{k}"] += (closer_same < k).sum()
    rates = {key: round(100 * float(value) / len(queries["same"]), 1) for key, value in hits.items()}
    return {"queries": len(queries["same"]), "without_name": int((~present).sum()), "names": len(names), **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=int, default=10, help="how many names a query may try")
    within = parser.parse_args().within

    start = time.perf_counter()
    source = Source(path="bundled:glyphs")
    seconds = {"open": time.perf_counter() - start}
    start = time.perf_counter()
    source.rows(np.linspace(0, len(source) - 1, READ).astype(int))
    seconds["row"] = (time.perf_counter() - start) / READ

    splits = {str(split): contents(split, within) for split in (None, *SPLITS)}
    everything = read(None)
    in_family = np.isin(everything["face"], [face for face in FACES if face.startswith(TEST_FACE)])
    pairs = {
        "test": (read("test"), read("train")),
        "all": (kept(everything, everything["face"] == TEST_FACE), kept(everything, ~in_family)),
    }
    found = {name: {kind: nearest(*pair, kind, within) for kind in ("cosine", "distance")} for name, pair in pairs.items()}
    seconds = {name: round(value, 4) for name, value in seconds.items()}
    print(json.dumps({"seconds": seconds, "splits": splits, "nearest": found}, indent=2))


if __name__ == "__main__":
    main()
