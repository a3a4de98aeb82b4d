"""The list of the rows, in the order of the table."""

from __future__ import annotations

from architectures.mamba import MAMBA
from architectures.pretrained import (
    given,
    make_minilm,
    read_images,
    read_keywords,
    read_language_model,
    read_mnist,
)
from architectures.row import ACCURACY, COSINE, NATS, Row
from architectures.swin import SWIN
from architectures.t5 import T5_VOWELS
from architectures.vision import CNN, DEIT, MIXER

_DIGITS = "Trained here on pictures of two handwritten digits, 55 classes"
_PASSAGES = "Trained here on passages of docstrings, a character a token"

ROWS = (
    Row(
        "minilm",
        "BERT-like sentence encoder (all-MiniLM-L6-v2)",
        "Post-norm encoder, GELU, mean pooling. Published weights, sentences from docstrings; "
        "the metric is the mean cosine of sentence embeddings to those of the float model",
        COSINE,
        make_minilm,
    ),
    Row(
        "llama",
        "Llama-like decoder (stories260K)",
        "RMSNorm, rotary embeddings, grouped-query attention, SwiGLU; width 64. Published "
        "weights, children's stories",
        NATS,
        given("stories260k", read_language_model("stories260k")),
    ),
    Row(
        "gpt2",
        "GPT-2-like decoder",
        "Pre-norm, learned positions, GELU; width 192. Trained beforehand on Shakespeare, a "
        "character a token",
        NATS,
        given("gpt_shakespeare", read_language_model("gpt_shakespeare")),
    ),
    Row(
        "vit",
        "ViT-Tiny/16",
        "Pre-norm encoder with a class token; width 192. Published weights, ImageNet-1k, "
        "200 pictures judged",
        ACCURACY,
        given("vit_tiny_in1k", read_images),
    ),
    Row(
        "kwt",
        "Keyword Transformer (KWT-1)",
        "Post-norm encoder over the time of a spectrogram; width 64. Published weights, Speech "
        "Commands, 175 clips judged",
        ACCURACY,
        given("kwt1", read_keywords),
    ),
    Row(
        "mlp",
        "MLP",
        "784, 512, 512 and 10 wide, ReLU. Trained beforehand on MNIST, 5000 pictures judged",
        ACCURACY,
        given("mnist_mlp3", read_mnist),
    ),
    Row(
        "cnn",
        "CNN with a linear head",
        "Convolutions with batch normalisation, and two linear layers of "
        f"1024 and 256 inputs. {_DIGITS}",
        ACCURACY,
        CNN.make,
    ),
    Row(
        "deit",
        "DeiT-like",
        "Class token and distillation token with a head each (both learn the labels); width "
        f"64, 8 blocks. {_DIGITS}",
        ACCURACY,
        DEIT.make,
    ),
    Row(
        "swin",
        "Swin-like",
        "Attention in shifted windows with masks and relative position biases, patches that "
        f"merge; widths 32 and 64. {_DIGITS}",
        ACCURACY,
        SWIN.make,
    ),
    Row(
        "mixer",
        "MLP-Mixer",
        f"MLPs over 64 patches and over 128 channels in turns. {_DIGITS}",
        ACCURACY,
        MIXER.make,
    ),
    Row(
        "t5",
        "T5-like encoder and decoder",
        "RMSNorm, ReLU, relative position biases, cross attention, no biases; width 128. "
        f"{_PASSAGES}: the encoder sees a passage without its vowels, the decoder writes it, "
        "given its true beginning",
        NATS,
        T5_VOWELS.make,
    ),
    Row(
        "mamba",
        "Mamba-2-like language model",
        "Gated linear recurrences in their parallel form, causal convolutions, no attention; "
        f"width 128, inside 256. {_PASSAGES}",
        NATS,
        MAMBA.make,
    ),
)
