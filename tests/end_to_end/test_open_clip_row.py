"""A model of open_clip as a row of the tables of pairs, from the command line, against open_clip itself."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Source, silent
from mmssl.evaluation import PairTable
from mmssl.evaluation.spaces import open_space
from mmssl.processor import MMSSLProcessor
from mmssl_cli import main

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

RECIPE = """
modalities:
  image: {processor: {size: 8, channels: 3}, adapter: {patch_size: 4}}
  text: {processor: {tokenizer: bytes}}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
objective: {name: clip, projector: {layers: 1, size: 8, norm: none, bias: false}}
data: {path: pairs, columns: {image: picture, text: caption}}
train: {batch_size: 8, max_steps: 1}
evaluate: null
"""
NAME = "tiny-row"
KINDS = ("dark", "light", "red")
COLUMNS = ("--columns", "image=picture", "text=caption", "label=kind")
PROBES = ("--modality", "image", "--column", "picture", "--label", "kind")
TEMPLATES = ("a {} square", "{}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, pairs of which one lacks its caption and one its picture, and random weights of a small model of open_clip."""
    made = tmp_path_factory.mktemp("row")
    (made / "pairs").mkdir()
    (made / "files").mkdir()
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        lines = ["picture,caption,kind"]
        for number in range(24):
            kind, shape = KINDS[number % 3], (9 + number, 30, *([3] if number % 2 else []))  # grey ones too, none of them square
            low = 90 * (number % 3)
            Image.fromarray(random.integers(low, low + 76, shape, dtype=np.uint8)).save(made / "files" / f"{split}{number}.png")
            words = "" if number == 4 else f"{kind} square {number} " + "and so on " * number
            lines.append(f"{'' if number == 7 else f'files/{split}{number}.png'},{words},{kind}")
        (made / "pairs" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (made / "pairs.yaml").write_text(RECIPE)
    tower = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (made / f"{NAME}.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": tower, "text_cfg": text}))
    open_clip.add_model_config(made / f"{NAME}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    save_file(model.state_dict(), made / "weights.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
        main(["train", "pairs.yaml"])
    return made


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def evaluated(*options: str) -> dict[str, PairTable]:
    main(["evaluate", "runs/pairs", "--data", "pairs", *options, "--output", "scores.json"])
    return {name: PairTable.from_dict(values) for name, values in json.loads(Path("scores.json").read_text()).items()}


def rows() -> list[dict[str, str]]:
    with Path("pairs/test.csv").open() as file:
        return list(csv.DictReader(file))


class Theirs:
    """open_clip as its own documentation uses it, a sample at a time."""

    def __init__(self) -> None:
        self.model, _, self.prepare = open_clip.create_model_and_transforms(NAME, pretrained="weights.safetensors")
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(NAME)

    @torch.no_grad()
    def picture(self, path: str) -> Tensor:
        found = self.model.encode_image(self.prepare(Image.open(path))[None])[0].double()
        return found / found.norm()

    @torch.no_grad()
    def text(self, words: str) -> Tensor:
        found = self.model.encode_text(self.tokenizer([words]))[0].double()
        return found / found.norm()


def recall(cosines: list[list[float]], k: int) -> float:
    """The share of rows, in percent, in which at most k - 1 others are as large as the one on the diagonal."""
    found = [sum(value >= row[i] - 1e-6 for j, value in enumerate(row) if j != i) < k for i, row in enumerate(cosines)]
    return 100 * sum(found) / len(found)


def test_retrieval_is_that_of_open_clip(folder: Path) -> None:
    (table,) = evaluated("--retrieval", *COLUMNS, "--compare", f"clip=open_clip:{NAME}/weights.safetensors").values()
    theirs, whole = Theirs(), [row for row in rows() if row["picture"] and row["caption"]]
    pictures, texts = [theirs.picture(row["picture"]) for row in whole], [theirs.text(row["caption"]) for row in whole]
    assert [row.name for row in table.rows] == ["pretrained", "clip", "random init", "chance"]
    assert table.num_test == len(whole) == 22
    for k in (1, 5, 10):
        there = recall([[float(a @ b) for b in texts] for a in pictures], k)
        back = recall([[float(a @ b) for b in pictures] for a in texts], k)
        scores = table.row("clip").scores
        assert scores[f"image_to_text_{k}"] == pytest.approx(there)
        assert scores[f"text_to_image_{k}"] == pytest.approx(back)
    gap = (torch.stack(pictures).mean(0) - torch.stack(texts).mean(0)).norm().item()
    assert any(note.startswith(f"clip: modality gap {gap:.3f} ") for note in table.notes)
    assert any(note.startswith("clip: what it was trained on is not recorded") for note in table.notes)


def test_vectors_are_those_of_open_clip(folder: Path) -> None:
    """Of all samples, in batches and with a worker."""
    space = open_space("x", f"open_clip:{NAME}/weights.safetensors", *processor_and_device())
    theirs, source = (
        Theirs(),
        Source(path="pairs/train.csv", columns={"image": "picture", "text": "caption"}).select(np.arange(8, 24)),
    )
    for modality, one, column in (("image", theirs.picture, "picture"), ("text", theirs.text, "caption")):
        options: dict[str, Any] = {"batch_size": 5, "on_error": "raise", "workers": 1, "title": "", "track": silent}
        found = space.samples(source, modality, labels=None, **options)
        with Path("pairs/train.csv").open() as file:
            expected = torch.stack([one(row[column]) for row in list(csv.DictReader(file))[8:]])
        assert_close(found.values.double(), expected, rtol=1e-5, atol=1e-5)
        assert found.ids.tolist() == list(range(16))
        assert torch.cdist(expected, expected)[0, 1:].min() > 0.01, "samples differ"


def processor_and_device() -> tuple[MMSSLProcessor, torch.device]:
    return MMSSLProcessor.from_pretrained("runs/pairs/model"), torch.device("cpu")


def test_zero_shot_is_that_of_open_clip(folder: Path) -> None:
    Path("templates.txt").write_text("\n".join(TEMPLATES))
    options = ("--zero-shot", "--templates", "templates.txt", *COLUMNS)
    (table,) = evaluated(*options, "--compare", f"clip=open_clip:{NAME}/weights.safetensors").values()
    theirs, held = Theirs(), [row for row in rows() if row["picture"]]
    classes = {}
    for kind in KINDS:
        mean = torch.stack([theirs.text(template.format(kind)) for template in TEMPLATES]).mean(0)
        classes[kind] = mean / mean.norm()
    right = dict.fromkeys(KINDS, 0)
    for row in held:
        vector = theirs.picture(row["picture"])
        right[row["kind"]] += row["kind"] == max(KINDS, key=lambda kind: float(vector @ classes[kind]))
    counts = {kind: sum(row["kind"] == kind for row in held) for kind in KINDS}
    scores = table.row("clip").scores
    assert scores["top_1"] == pytest.approx(100 * sum(right.values()) / len(held))
    assert scores["classes"] == pytest.approx(100 * sum(right[kind] / counts[kind] for kind in KINDS) / 3)


def other_weights() -> None:
    save_file({"logit_scale": torch.ones(())}, "other.safetensors")


BAD: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "no such model": (
        None,
        ("x=open_clip:ViT-B-33/openai",),
        "compare x: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32",
    ),
    "no such weights": (None, ("x=open_clip:ViT-B-32/opanai",), "no weights 'opanai' for ViT-B-32; did you mean openai"),
    "no such file": (None, (f"x=open_clip:{NAME}/none.safetensors",), "known ones: none; or a .safetensors file"),
    "a pickle": (
        lambda: torch.save({}, "weights.pt"),
        (f"x=open_clip:{NAME}/weights.pt",),
        "weights are read from .safetensors files alone; got weights.pt",
    ),
    "weights of another model": (
        other_weights,
        (f"x=open_clip:{NAME}/other.safetensors",),
        f"the weights in other.safetensors are not those of open_clip's {NAME}",
    ),
    "no safetensors": (
        lambda: Path("text.safetensors").write_text("no weights"),
        (f"x=open_clip:{NAME}/text.safetensors",),
        f"the weights in text.safetensors are not those of open_clip's {NAME}",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_models_that_are_not_there_are_refused(case: str) -> None:
    make, named, message = BAD[case]
    if make is not None:
        make()
    with pytest.raises(SystemExit) as stop:
        evaluated("--retrieval", *COLUMNS, "--compare", *named)
    assert message in str(stop.value)


def test_probes_refuse_it() -> None:
    with pytest.raises(SystemExit) as stop:
        evaluated(*PROBES, "--compare", f"x=open_clip:{NAME}/weights.safetensors")
    assert "compare x: models of open_clip stand beside others in the tables of --retrieval and --zero-shot" in str(stop.value)
