"""Files by which sentence-transformers (6 or newer) loads a published model: `import mmssl`, then `SentenceTransformer(folder)`.

With its own Transformer class and an explicit list of what the model takes, it needs no trust_remote_code.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmssl.modality import find

TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
FORWARD = {"method": "forward", "method_output_name": "pooler_output"}


def write_sentence_files(folder: Path, modalities: Iterable[str]) -> None:
    """Write them beside a model; nothing for one without a modality that sentence-transformers knows."""
    known = [name for name in (find(modality).sentence for modality in modalities) if name]
    if not known:
        return
    files: dict[str, Any] = {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": dict.fromkeys(known, FORWARD),
            "module_output_name": "sentence_embedding",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
