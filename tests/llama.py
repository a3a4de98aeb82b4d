"""The Llama of the test data as a decoder with a KV cache, by onnxruntime-genai's own builder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support import shared_data

_HEADS, _KEY_HEADS = 8, 4
_HEAD_SIZE = 16  # GroupQueryAttention takes no smaller ones: those of the model, 8, get zeros
_FIRST_LETTER = 0x4E00


def letters(tokens: NDArray[np.integer]) -> str:
    """Return tokens as text: the tokenizer has a letter for each, as that of the model is lost."""
    return "".join(chr(_FIRST_LETTER + int(token)) for token in tokens)


def build_decoder(folder: Path) -> Path:
    """Write the model with its tokenizer; return the folder that the builder made."""
    source = folder / "llama"
    model = _llama()
    model.save_pretrained(source)
    _save_tokenizer(source, model.config.vocab_size)
    builder = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-m", str(source)]
    given = ["-o", str(folder / "decoder"), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    command = [*builder, *given, "--extra_options", "hf_token=false"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder / "decoder"


def _llama() -> LlamaForCausalLM:
    graph = onnx.load(shared_data("stories260k/model.onnx")).graph
    arrays = {
        t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer
    }
    products = [
        arrays[n.input[1]].T for n in graph.node if n.op_type == "MatMul" and n.input[1] in arrays
    ]
    embedding = arrays["emb.weight"]
    layers = len(products) // 7
    config = LlamaConfig(
        vocab_size=len(embedding),
        hidden_size=embedding.shape[1],
        intermediate_size=len(products[4]),
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KEY_HEADS,
        head_dim=_HEAD_SIZE,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    state = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": products[-1],
        "model.norm.weight": arrays["norm.weight"],
    }
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    for i in range(layers):
        found = dict(zip(names, products[7 * i : 7 * i + 7], strict=True))
        found[names[0]] = _wider(found[names[0]], _HEADS) * 2**0.5  # for ÷ √(size of a head)
        found[names[1]] = _wider(found[names[1]], _KEY_HEADS)
        found[names[2]] = _wider(found[names[2]], _KEY_HEADS)
        found[names[3]] = _wider(found[names[3]].T, _HEADS).T
        state |= {f"model.layers.{i}.{name}.weight": weight for name, weight in found.items()}
        state[f"model.layers.{i}.input_layernorm.weight"] = arrays[f"blocks.{i}.an.weight"]
        state[f"model.layers.{i}.post_attention_layernorm.weight"] = arrays[f"blocks.{i}.fn.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model


def _wider(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put zeros between the rows of heads, so that what is left turns at its old frequencies.

    Llama's own code rotates neighbours, that of Transformers the two halves of a head.
    """
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2)
    wide = torch.zeros(heads, 2, _HEAD_SIZE // 2, columns)
    wide[:, :, :: heads * _HEAD_SIZE // rows] = pairs
    return wide.reshape(heads * _HEAD_SIZE, columns)


def _save_tokenizer(folder: Path, size: int) -> None:
    named = {0: "<unk>", 1: "<s>", 2: "</s>"}
    pieces = {named.get(i, chr(_FIRST_LETTER + i)): i for i in range(size)}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in named.values()])
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # The name of a class of Transformers, which onnxruntime-genai goes by.
    text = config.read_text().replace("TokenizersBackend", "LlamaTokenizer")
    config.write_text(text.replace("PreTrainedTokenizerFast", "LlamaTokenizer"))
