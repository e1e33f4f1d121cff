"""A published folder as sentence-transformers loads it, without trust_remote_code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.testing import assert_close

from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.sentence import write_sentence_files
from mmssl.processor import MMSSLProcessor
from mmssl.testing import SMALL, small_processor

NAMES = ("text", "image", "audio")


def publish(folder: Path, pooling: str) -> tuple[MMSSLModel, MMSSLProcessor]:
    """A small model of three modalities with random weights, as a run publishes it."""
    torch.manual_seed(0)
    processor = MMSSLProcessor({name: small_processor(name) for name in NAMES})
    modalities = {name: {"processor": settings, "adapter": {}} for name, settings in processor.settings().items()}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL | {"pooling": pooling})).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_files(folder, NAMES)
    return model, processor


@pytest.mark.parametrize("pooling", ["mean", "mean_std_max"])
def test_one_folder_embeds_text_images_and_audio(tmp_path: Path, pooling: str) -> None:
    model, processor = publish(tmp_path, pooling)
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    for name in NAMES:
        raw = find(name).example(3, 0)
        found = loaded.encode(raw, convert_to_numpy=True)
        with torch.no_grad():
            expected = model(**processor(**{find(name).keyword: raw})).pooler_output
        assert found.shape == (3, model.pooled_size(name)), name
        assert_close(torch.from_numpy(np.asarray(found)), expected, rtol=1e-4, atol=1e-5)
        assert loaded.get_embedding_dimension() == found.shape[1]
