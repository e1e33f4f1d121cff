import base64
import inspect
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from PIL import Image

from mmssl.data import Source
from mmssl.evaluation import Row, Table
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.config import encoder_settings
from mmssl.processor import MMSSLProcessor
from mmssl.report import model_card, write_report
from mmssl.report.card import fenced
from mmssl.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, chart, label
from mmssl.report.page import compact_count, plain
from mmssl.report.words import WORDS
from mmssl.training.health import RULES

VOID = {"meta", "img", "line", "path", "circle", "br"}
BAD = '<script src="https://example.org/x.js"></script> & "quoted"'
FACTS = {
    "parameters": 205_632,
    "steps": 500,
    "samples": 64_000,
    "minutes": 1.314,
    "skipped": 7,
    "skipped_messages": ["row 3 of data: <b>broken</b>"],
    "command": "mmssl train quickstart 'run.name=a&b'",
    "hardware": {"cpu": "x86_64", "cores": 2, "gpus": []},
    "commit": None,
}
METRICS: list[dict[str, int | float]] = [
    {"step": step, "seconds": step / 9, "loss": 2 / step, "lr": 1e-3, "grad_norm": 1.0, "token_std": 0.5} for step in (10, 20, 30)
]
METRICS[1] |= {"knn": 50.0, "probe": 60.0}


def table() -> Table:
    rows = (Row("pretrained", 95.0, 97.0, 64), Row("random init", 57.0, 80.0, 64), Row("raw features", 97.5, 60.0, 64))
    return Table("mmssl-frozen-v1", "accuracy", "bundled:digits", 1437, 360, rows)


def figure() -> Figure:
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([0, 1])
    return drawn


class Page(HTMLParser):
    """Elements, their attributes, and the text between them; checks that every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(folder: Path, **changes: Any) -> Page:
    given = {"recipe_yaml": BAD, "tables": [table()], "figures": {BAD: figure()}, "metrics": METRICS, "facts": FACTS}
    return Page(write_report(folder, **{**given, **changes}))


def test_a_report_stands_alone(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base"} == set()
    links = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href", "srcset")]
    assert len(links) == 1
    assert str(links[0]).startswith("data:image/png;base64,")
    style = (tmp_path / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|http", style)


def test_a_report_shows_what_it_was_given_as_text(tmp_path: Path) -> None:
    page = report(tmp_path)
    words = "".join(page.text.split())
    for expected in (
        BAD,
        "Linear probe: pretrained reaches 97.0, 17.0 points above random init and 37.0 points above raw features.",
        "bundled:digits: accuracy in %, 1,437 train and 360 test samples, mmssl-frozen-v1.",
        "206k parameters 500 steps 64.0k samples 1.31 minutes of training 7 skipped",
        "7 times a sample could not be read; 1 of the reasons: row 3 of data: <b>broken</b>",
        "hardware cpu x86_64, cores 2 commit -",
        "mmssl train quickstart 'run.name=a&b'",
    ):
        assert "".join(expected.split()) in words
    captions = re.findall(r"<figcaption>([\w ]+)", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [c.strip() for c in captions] == ["Loss", "Probes during training", "Learning rate", "Gradient norm", "Token std"]


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    (source,) = [attributes["src"] for tag, attributes in report(tmp_path).elements if tag == "img"]
    assert source is not None
    image = Image.open(BytesIO(base64.b64decode(source.split(",")[1])))
    assert image.format == "PNG"
    assert image.width > 250


def test_a_report_of_a_run_that_has_nothing_to_show(tmp_path: Path) -> None:
    page = report(tmp_path, tables=[], figures={}, metrics=[], facts={"command": None})
    assert "What it learned" not in page.text
    assert "Curves" not in page.text
    assert BAD in page.text


Place = tuple[float, float]


class Drawn:
    """What stands where in a chart: texts and points by what they say, lines by their colours."""

    def __init__(self, drawn: Chart | None) -> None:
        assert drawn is not None
        self.root = ElementTree.fromstring(drawn.svg)
        self.texts = {element.text: self.place(element) for element in self.all("text")}
        self.points = {element[0].text: self.place(element) for element in self.all("use")}
        self.paths = {element.get("style", ""): self.corners(element.get("d", "")) for element in self.all("path")}

    def all(self, tag: str) -> Iterator[ElementTree.Element]:
        return self.root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")

    @staticmethod
    def place(element: ElementTree.Element) -> Place:
        return float(element.get("x", "")), float(element.get("y", ""))

    @staticmethod
    def corners(path: str) -> list[Place]:
        numbers = [float(word) for word in path.split() if word not in "MLCz"]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def path(self, *style: str) -> list[Place]:
        (found,) = (corners for known, corners in self.paths.items() if all(part in known for part in style))
        return found

    def heights(self) -> list[float]:
        """Where the numbers beside the y axis stand, from the lowest."""
        return sorted((y for x, y in self.texts.values() if x < LEFT and y < HEIGHT - BOTTOM + 8), reverse=True)


def test_points_lie_where_the_axes_say() -> None:
    points = [(0, 0.0), (50, 10.0), (100, 20.0), (120, math.nan)]
    drawn = Drawn(chart("t", {"a": points}, from_zero=True, levels={"l": 10.0}))
    places = list(drawn.points.values())
    middle, floor = (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM
    assert list(drawn.points) == ["a 0 at step 0", "a 10 at step 50", "a 20 at step 100"]
    assert [x for x, _ in places] == pytest.approx([LEFT, middle, WIDTH - RIGHT])
    assert [drawn.texts[text][0] for text in ("40", "100")] == pytest.approx([LEFT + 0.4 * (WIDTH - RIGHT - LEFT), WIDTH - RIGHT])
    assert places[0][1] == floor and places[1][1] == pytest.approx((floor + places[2][1]) / 2)
    assert places[2][1] >= TOP
    assert [y for _, y in places] == pytest.approx([drawn.texts[text][1] - 4.4 for text in ("0", "10", "20")], abs=0.1)
    assert drawn.path("stroke: var(--soft)", "dasharray") == [(LEFT, places[1][1]), (WIDTH - RIGHT, places[1][1])]
    np.testing.assert_allclose(drawn.path("stroke: var(--s0)")[:: len(places) - 1], places[::2])


def test_a_chart_has_no_colours_of_its_own() -> None:
    drawn = chart("t", {"a": [(step, step % 2) for step in range(1000)], "b": [(1, 0.3)]}, levels={"l": 0.5})
    assert drawn is not None
    assert drawn.names == ["a", "b"]
    colours = set(re.findall(r"(?:fill|stroke|color): ([^;\"]+)", drawn.svg))
    assert colours == {"none", "var(--soft)", "var(--rule)", "var(--card)", "var(--s0)", "var(--s1)"}


def test_a_chart_shows_names_as_they_are() -> None:
    drawn = chart('<"&$t$', {'<"&$a$': [(1, 2.0)]}, levels={'<"&$l$': 2.0})
    assert drawn is not None
    root = ElementTree.fromstring(drawn.svg)
    assert root.get("aria-label") == '<"&$t$'
    assert {'<"&$a$ 2 at step 1', '<"&$l$'} <= {element.text for element in root.iter()}


def test_many_points_become_a_mean_and_a_range() -> None:
    drawn = Drawn(chart("t", {"a": [(step, step % 2) for step in range(1000)]}))
    band, means = drawn.path("fill: var(--s0); opacity: 0.16"), drawn.points.values()
    assert len(means) == 200
    assert len(band) == 400
    top, bottom = min(y for _, y in band), max(y for _, y in band)
    assert all(top < y < bottom for _, y in means)


def test_values_over_decades_get_a_logarithmic_axis() -> None:
    points = [(1, 1.0), (2, 0.1), (3, 0.001)]
    drawn = Drawn(chart("t", {"a": points}, allow_log=True))
    assert {"1e-3", "0.01", "0.1", "1"} <= drawn.texts.keys()
    steps = np.diff(drawn.heights())
    assert len(steps) == 3
    np.testing.assert_allclose(steps, steps[0], atol=0.2)
    linear = Drawn(chart("t", {"a": [*points, (4, 0.0)]}, allow_log=True))
    assert "0" in linear.texts


@pytest.mark.parametrize("points", [[(5, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, -3.0)]])
def test_a_constant_is_drawn_inside_the_chart(points: list[tuple[float, float]]) -> None:
    drawn = Drawn(chart("t", {"a": points}, from_zero=True))
    assert len(drawn.points) == len(points)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in drawn.points.values())


def test_nothing_finite_is_no_chart() -> None:
    assert chart("t", {"a": [], "b": [(1, math.inf)]}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.5e-4, "2.5e-4"), (1e-3, "1e-3"), (0.05, "0.05"), (1500, "1500"), (20_000, "20k"), (2.5e6, "2.5M")],
)
def test_tick_labels(value: float, text: str) -> None:
    assert label(value) == text


def test_facts_in_words() -> None:
    assert plain({"cpu": "x", "cores": 2, "gpus": []}) == "cpu x, cores 2"
    assert [plain(value) for value in (1234, True, None, [], ["a", 2], "b")] == ["1,234", "True", "-", "-", "a, 2", "b"]
    assert [compact_count(value) for value in (360, 1797, 2_670_000, 1.314, 30.02)] == ["360", "1,797", "2.67M", "1.31", "30.0"]


RECORD = {"command": "mmssl train quickstart", "versions": {"mmssl": "0.1.0", "torch": "2.14.1"}}


def test_a_card_has_scores_that_the_hub_can_read() -> None:
    card = model_card(name="quickstart", modalities=["image"], tables=[table()], record=RECORD, recipe_yaml="a: '```'\n")
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert header["tags"] == ["mmssl", "self-supervised-learning", "image"]
    assert "license" not in header
    scores = ModelCard(card).data.eval_results
    assert [(s.metric_name, s.metric_type, s.metric_value) for s in scores] == [
        (f"{title}{name} (mmssl-frozen-v1)", "accuracy", value)
        for name, values in (("", (0.95, 0.97)), (", random init", (0.57, 0.8)), (", raw features", (0.975, 0.6)))
        for title, value in zip(("20-NN", "linear probe"), values, strict=True)
    ]
    for expected in (
        table().to_markdown(),
        "```bash\nmmssl train quickstart\n```",
        "````yaml\na: '```'\n````",
        "mmssl 0.1.0, torch 2.14.1",
    ):
        assert expected in card
    assert "\n\n\n" not in card and card.endswith("````\n")
    assert fenced("x", "python") == "```python\nx\n```"


def test_the_code_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = MMSSLProcessor({"image": find("image").processor(size=8, channels=1, mean=0.5, std=0.5)})
    modalities = {"image": {"processor": processor.settings()["image"], "adapter": {"patch_size": 4}}}
    encoder = encoder_settings(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    folder = tmp_path / "path/to/this/folder"
    MMSSLModel(MMSSLConfig(modalities=modalities, **encoder)).save_pretrained(folder)
    processor.save_pretrained(folder)
    card = model_card(name="small", modalities=["image"], tables=[], record=RECORD, recipe_yaml="")
    monkeypatch.chdir(tmp_path)
    rows = Source(path="bundled:digits", limit=3).rows(range(3))
    names: dict[str, Any] = {"images": [row["image"] for row in rows]}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["features"].shape == torch.Size([3, 32])


HEALTHY = Path(__file__).parents[2] / "docs" / "healthy.md"


def test_words_of_a_report_are_explained_where_they_stand(tmp_path: Path) -> None:
    report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    explained = page[page.index("What the words mean") :]
    for word in ("linear probe", "20-NN", "random init", "raw features", "Loss"):
        assert f"<dt>{word}</dt>" in explained
    assert "<dt>boosted trees</dt>" not in explained, "no such row here"


def test_the_page_on_health_has_every_word_warning_and_verdict() -> None:
    page = HEALTHY.read_text(encoding="utf-8")
    missing = [word for word, meaning in WORDS.items() if f"{word} | {meaning} |" not in page.replace("`", "")]
    assert not missing
    assert [rule for rule in RULES if f"| `{rule}` |" not in page] == []
    titles = re.findall(r'Verdict\("\w+", "([^"]+)"', inspect.getsource(import_module("mmssl.report.verdict")))
    assert len(titles) >= 6
    assert [title for title in titles if title not in page] == []
