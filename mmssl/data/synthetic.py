"""Samples that are made, not measured: a first run of any kind without a download, with known factors and a difficulty.

Every sample is drawn by its number alone, so that the same one is made at any time; labels are what the classes are called.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mmssl.data.tables import Row, Table

Random = np.random.Generator
SIZES = {"train": 1200, "test": 300}
LABEL = "label"
DIFFICULTY = 0.3
"""Noise beside the signal, in shares of its deviation, where none is said."""
RATE, SECONDS = 8000, 1.0
LENGTH = 256
POINTS = 256


def _wave(name: str, turns: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """A wave of amplitude 1. turns: how often it has come round."""
    phase = turns % 1
    waves: dict[str, Callable[[], Float[np.ndarray, " t"]]] = {
        "sine": lambda: np.sin(2 * math.pi * phase),
        "square": lambda: np.where(phase < 0.5, 1.0, -1.0),
        "saw": lambda: 2 * phase - 1,
        "triangle": lambda: 1 - 4 * np.abs(phase - 0.5),
    }
    return waves[name]()


WAVES = ("sine", "square", "saw", "triangle")
CHANGES = ("steady", "rising", "falling", "vibrato")
TONES = [f"{wave} {change}" for wave in WAVES for change in CHANGES]


def _tone(kind: str, random: Random, difficulty: float) -> dict[str, Any]:
    """A tone: shape of its wave and course of its pitch make the class; pitch, loudness and noise do not."""
    wave, change = kind.split()
    time = np.arange(int(RATE * SECONDS)) / RATE
    pitch = 110 * 2 ** random.uniform(0, 3)
    course = {
        "steady": np.ones_like(time),
        "rising": 2 ** (time / SECONDS),
        "falling": 2 ** (-time / SECONDS),
        "vibrato": 2 ** (0.15 * np.sin(2 * math.pi * random.uniform(4, 8) * time)),
    }[change]
    sound = _wave(wave, random.uniform() + np.cumsum(pitch * course) / RATE)
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.05)
    noisy = sound / sound.std() + difficulty * random.standard_normal(len(time))
    return {"array": (0.1 * random.uniform(0.3, 1) * fade * noisy).astype(np.float32), "sampling_rate": RATE}


COURSES = ("line", "step", "bump", "two tones", "chirp", "random walk")
SERIES = list(COURSES)


def _series(kind: str, random: Random, difficulty: float) -> list[list[float]]:
    """A series of one channel: its course makes the class; where, how large, how fast and how noisy do not."""
    time = np.linspace(0, 1, LENGTH)
    place, period = random.uniform(0.2, 0.8), random.uniform(0.05, 0.2)
    courses: dict[str, Callable[[], Float[np.ndarray, " t"]]] = {
        "line": lambda: random.choice([-1, 1]) * time,
        "step": lambda: (time > place).astype(float),
        "bump": lambda: np.exp(-(((time - place) / period) ** 2)),
        "two tones": lambda: np.sin(2 * math.pi * (time / period + random.uniform())) + np.sin(2 * math.pi * 2.7 * time / period),
        "chirp": lambda: np.sin(2 * math.pi * (place + time**2 / period)),
        "random walk": lambda: np.cumsum(random.standard_normal(LENGTH)),
    }
    course = courses[kind]()
    scaled = (course - course.mean()) / course.std() + difficulty * random.standard_normal(LENGTH)
    found: list[list[float]] = [(random.uniform(0.5, 20) * scaled + random.uniform(-50, 50)).tolist()]
    return found


SHAPES = ["ball", "box", "can", "cone", "ring", "saddle", "spring", "tetrahedron"]


def _shape(kind: str, random: Random, difficulty: float) -> Float[np.ndarray, "n 3"]:
    """Points of a surface: which one makes the class; turn about the vertical, proportions and noise do not."""
    u, v = random.uniform(size=POINTS), random.uniform(size=POINTS)
    around, normal = 2 * math.pi * u, random.standard_normal((POINTS, 3))
    height, wide = 2 * v - 1, np.stack([np.cos(around), np.sin(around)], 1)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    weights = random.exponential(size=(POINTS, 3))
    faces = np.stack([random.permutation(4)[:3] for _ in range(POINTS)])
    rounded = 1 + 0.3 * np.cos(2 * math.pi * v)
    surfaces: dict[str, Callable[[], Float[np.ndarray, "n 3"]]] = {
        "ball": lambda: normal / np.linalg.norm(normal, axis=1, keepdims=True),
        "box": lambda: (cube := random.uniform(-1, 1, (POINTS, 3))) / np.abs(cube).max(1, keepdims=True),
        "can": lambda: np.column_stack([wide, height]),
        "cone": lambda: np.column_stack([wide * np.sqrt(v)[:, None], 1 - 2 * np.sqrt(v)]),
        "ring": lambda: np.column_stack([wide * rounded[:, None], 0.3 * np.sin(2 * math.pi * v)]),
        "saddle": lambda: np.column_stack([2 * u - 1, height, (2 * u - 1) ** 2 - height**2]),
        "spring": lambda: np.column_stack([np.cos(6 * math.pi * v), np.sin(6 * math.pi * v), height]) + 0.05 * normal,
        "tetrahedron": lambda: np.einsum("nk,nkd->nd", weights / weights.sum(1, keepdims=True), corners[faces]),
    }
    points = surfaces[kind]()
    turn = random.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    stretched = points * random.uniform(0.7, 1.3, 3)
    return (stretched + 0.1 * difficulty * random.standard_normal((POINTS, 3))) @ rotation.T


SCENES = "scenes"
FIGURES = ("disc", "square", "cross")
"""What stands in a scene: the classes 1, 2, 3 of its pixels; 0 is the ground."""
SCENE = 32


@cache
def _scene(number: int, difficulty: float) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """A picture of a few figures, each in front of the last, and the class of each of its pixels: the figure's shape.

    Colours are drawn without regard to it.
    """
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:SCENE, :SCENE]
    classes = np.zeros((SCENE, SCENE), dtype=np.uint8)
    picture = np.broadcast_to(random.uniform(0, 1, 3), (SCENE, SCENE, 3)).copy()
    for _ in range(random.integers(1, 4)):
        number, radius = int(random.integers(len(FIGURES))), random.uniform(4, 8)
        down, right = (np.abs(place - random.uniform(4, SCENE - 4)) for place in (rows, columns))
        inside = {
            "disc": np.hypot(down, right) <= radius,
            "square": np.maximum(down, right) <= 0.85 * radius,
            "cross": (np.minimum(down, right) <= 0.35 * radius) & (np.maximum(down, right) <= radius),
        }[FIGURES[number]]
        classes[inside], picture[inside] = 1 + number, random.uniform(0, 1, 3)
    noisy = picture + 0.3 * difficulty * random.standard_normal(picture.shape)
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8), classes


def _scene_pictures(number: int, difficulty: float) -> tuple[Image.Image, Image.Image]:
    """A scene and its label map."""
    picture, classes = _scene(number, difficulty)
    return Image.fromarray(picture), Image.fromarray(classes)


STATES = "states"
STATE_NAMES = ("rest", "slow wave", "fast wave", "noise")
SHORTEST, LONGEST = 16, 72
"""Steps of a state before the next one begins."""
LAST = 64
"""Steps that a series may lack of its full length, so that lengths differ."""


def _states(number: int, difficulty: float) -> tuple[list[float], list[str]]:
    """A series that goes from state to state, and the state of each of its steps: what is measured in it, not how strongly."""
    random = np.random.default_rng(number)
    states, values = list[str](), list[float]()
    while len(states) < LENGTH:
        name = str(random.choice([state for state in STATE_NAMES if not states or state != states[-1]]))
        steps, phase = np.arange(random.integers(SHORTEST, LONGEST)), random.uniform()
        wave = {
            "rest": np.zeros(len(steps)),
            "slow wave": np.sin(2 * math.pi * (phase + steps / random.uniform(14, 18))),
            "fast wave": np.sin(2 * math.pi * (phase + steps / random.uniform(4, 6))),
            "noise": random.standard_normal(len(steps)),
        }[name]
        values += (random.uniform(0.7, 1.4) * wave).tolist()
        states += [name] * len(steps)
    length = LENGTH - int(random.integers(LAST))
    noisy = np.array(values[:length]) + 0.5 * difficulty * random.standard_normal(length)
    return (random.uniform(0.5, 20) * noisy + random.uniform(-50, 50)).tolist(), states[:length]


class _Made(NamedTuple):
    """One kind of samples: the name of their column, their classes, and what makes one of a class."""

    column: str
    classes: Sequence[str]
    make: Callable[[str, Random, float], Any]


MADE: Mapping[str, _Made] = {
    "series": _Made("series", SERIES, _series),
    "shapes": _Made("points", SHAPES, _shape),
    "tones": _Made("audio", TONES, _tone),
}


class SyntheticTable(Table):
    """Samples of one kind, made when they are read."""

    label = LABEL
    note = ("the samples are synthetic: what is learned of them says little of real data",)

    def __init__(self, kind: str, difficulty: float, split: str | None) -> None:
        self._kind, self._difficulty = MADE[kind], difficulty
        self._numbers = numbers_of(split)
        self.columns = [self._kind.column, LABEL]
        self.notes = self.note

    def __len__(self) -> int:
        return len(self._numbers)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [{self._kind.column: self._sample(i), LABEL: self._class(i)} for i in indices]

    def column(self, name: str) -> list[Any]:
        return [self._class(i) if name == LABEL else self._sample(i) for i in range(len(self))]

    def _class(self, index: int) -> str:
        return self._kind.classes[self._numbers[index] % len(self._kind.classes)]

    def _sample(self, index: int) -> Any:
        return self._kind.make(self._class(index), np.random.default_rng(self._numbers[index]), self._difficulty)


PLACED: Mapping[str, tuple[str, Callable[[int, float], tuple[Any, Any]]]] = {
    SCENES: ("image", _scene_pictures),
    STATES: ("series", _states),
}
"""Samples whose places have labels: the name of their column, and what makes one and its labels."""


class PlacedTable(Table):
    """Samples with a label for each of their places, made when they are read."""

    label = LABEL

    def __init__(self, kind: str, difficulty: float, split: str | None) -> None:
        (column, self._make), self._difficulty, self._numbers = PLACED[kind], difficulty, numbers_of(split)
        self.columns, self.notes = [column, LABEL], SyntheticTable.note

    def __len__(self) -> int:
        return len(self._numbers)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [dict(zip(self.columns, self._make(self._numbers[i], self._difficulty), strict=True)) for i in indices]

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows(range(len(self)))]


def numbers_of(split: str | None) -> range:
    """The numbers of the samples of a split, or of all."""
    start = SIZES["train"] if split == "test" else 0
    return range(start, start + sum(SIZES.values() if split is None else (SIZES[split],)))


def synthetic_table(name: str, split: str | None) -> Table:
    """The rows of a split of a synthetic set, or all of them (None). name: of the set, with its difficulty as in `tones:0.5`."""
    kind, colon, said = name.partition(":")
    if kind not in (*MADE, *PLACED):
        raise LookupError(f"no synthetic dataset {kind!r}; there are {', '.join((*MADE, *PLACED))}")
    try:
        difficulty = float(said) if colon else DIFFICULTY
    except ValueError:
        difficulty = math.nan
    if not 0 <= difficulty <= 100:
        what = "the difficulty is the noise beside the signal, from 0 to 100"
        raise ValueError(f"synthetic:{name}: {what}, as in {kind}:0.5; got {said!r}")
    if split is not None and split not in SIZES:
        raise LookupError(f"synthetic:{name} has no split {split!r}; it has {', '.join(SIZES)}")
    table: Table = PlacedTable(kind, difficulty, split) if kind in PLACED else SyntheticTable(kind, difficulty, split)
    table.parts = [f"synthetic:{name}/{part}" for part in (SIZES if split is None else (split,))]
    return table
