"""A bundle for onnxruntime-genai: a decoder with a KV cache, its tokenizer and genai_config.json.

onnxruntime-genai loads the library that ``custom_ops_library`` of the session options names, from
the folder of the model alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fqonnx.bundle import BundleError
from fqonnx.deploy.contents import Contents, Layout
from fqonnx.deploy.options import DeployOptions
from fqonnx.deploy.source import Source
from fqonnx.errors import first_line

_CONFIG = "genai_config.json"
_RUNTIME = 31  # of onnxruntime-genai 0.18, which is tested
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)


def layout(source: Source, options: DeployOptions) -> Layout:
    """Return where the large files are, and the sizes that the configuration knows.

    Raises:
        BundleError: The model has no KV cache, or the tokenizer's folder lacks something.
    """
    names = {value.name for value in source.inputs}
    past = _past(source)
    if "input_ids" not in names or not past:
        found = f"no decoder with a KV cache: its inputs are {', '.join(sorted(names))}"
        hint = "Export it with past and present keys and values, or use --target ort"
        raise BundleError(str(source.path), found, hint)
    folder = _folder(options)
    carried = {name: folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    if not carried.keys() & {"tokenizer.json", "tokenizer.model"}:
        found = "neither tokenizer.json nor tokenizer.model is there"
        raise BundleError(str(folder), found, "Name the folder that the model was exported to")
    decoder = _config(source, options)["model"]["decoder"]
    sizes = (None, decoder["num_key_value_heads"], None, decoder["head_size"])
    dims = {
        dim: size
        for value in source.inputs
        if value.name in past
        for dim, size in zip(value.shape, sizes, strict=False)
        if isinstance(dim, str) and isinstance(size, int)
    }
    return Layout("model.onnx", carried=carried, dims=dims, runtime=_RUNTIME)


def files(contents: Contents) -> Mapping[str, bytes]:
    """Return the configuration, a program that writes text, and what to know about them."""
    config = _config(contents.source, contents.options)
    decoder = config["model"]["decoder"]
    decoder["filename"] = contents.manifest.model
    session = decoder.setdefault("session_options", {})
    session.pop("custom_ops_library", None)
    if contents.manifest.library is not None:
        session["custom_ops_library"] = contents.manifest.library.path
    session |= contents.manifest.session_config
    session["provider_options"] = [{"cuda": {}}] if contents.is_cuda else []
    return {
        _CONFIG: json.dumps(config, indent=2).encode() + b"\n",
        "generate.py": contents.render("generate.py.j2"),
        "README.md": contents.render("genai.md.j2"),
    }


def _folder(options: DeployOptions) -> Path:
    assert options.tokenizer is not None  # the options see to it
    return options.tokenizer


def _past(source: Source) -> list[str]:
    return [v.name for v in source.inputs if v.name.startswith("past") and len(v.shape) == 4]


def _config(source: Source, options: DeployOptions) -> dict[str, Any]:
    """Return the configuration that is there, or one made from that of Transformers."""
    folder = _folder(options)
    if (folder / _CONFIG).is_file():
        path = folder / _CONFIG
        config = _read(path)
        decoder = _part(path, _part(path, config, "model", dict), "decoder", dict)
        for key in ("head_size", "num_key_value_heads"):
            _part(path, decoder, key, int)
        _part(path, {"session_options": {}} | decoder, "session_options", dict)
        return config
    if not (folder / "config.json").is_file():
        found = f"neither {_CONFIG} nor config.json is there"
        raise BundleError(str(folder), found, "Name the folder that the model was exported to")
    return derived(source, _read(folder / "config.json"), folder)


def derived(source: Source, said: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration from what Transformers' config.json says and from the graph's names.

    Args:
        source: The decoder.
        said: The content of config.json.
        folder: Where generation_config.json may be, whose tokens go before those of config.json.

    Raises:
        BundleError: Something is missing there, or not what it should be.
    """
    path = folder / "config.json"
    generation = folder / "generation_config.json"
    tokens = dict(said) | (_read(generation) if generation.is_file() else {})

    def size(key: str, usual: int | None = None) -> int:
        if usual is not None and said.get(key) is None:
            return usual
        return int(_part(path, said, key, int))

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    numbers: dict[str, Any] = {
        "head_size": size("head_dim", hidden // heads),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": size("num_hidden_layers"),
        "num_key_value_heads": size("num_key_value_heads", heads),
    }
    model = {
        "type": _part(path, said, "model_type", str),
        "vocab_size": size("vocab_size"),
        "context_length": size("max_position_embeddings"),
        "eos_token_id": tokens.get("eos_token_id"),
    }
    first = _token(path, tokens, "eos_token_id")
    for name in ("bos_token_id", "pad_token_id"):
        model[name] = first if tokens.get(name) is None else _token(path, tokens, name)
    given = {value.name for value in source.inputs}
    inputs = {n: n for n in map(str, ("input_ids", "attention_mask", "position_ids")) if n in given}
    outputs = {"logits": "logits"}
    sides = (("past", source.inputs, inputs), ("present", source.outputs, outputs))
    for sort, values, names in sides:
        for kind in ("key", "value"):
            found = [v.name for v in values if v.name.startswith(sort) and kind in _stem(v.name)]
            if not found:
                lacks = f"no {sort} {kind}s among {', '.join(v.name for v in values)}"
                raise BundleError(str(source.path), lacks, "Export it with a KV cache")
            names[f"{sort}_{kind}_names"] = re.sub(r"\d+", "%d", found[0], count=1)
    return {
        "model": model | {"decoder": numbers | {"inputs": inputs, "outputs": outputs}},
        "search": {"do_sample": False, "max_length": model["context_length"]},
    }


def _stem(name: str) -> str:
    """Return what tells keys from values: ``past_key_values.0.value`` ends with it."""
    return re.split(r"\d+", name, maxsplit=1)[-1] or name


def _part(path: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return an entry of a configuration; BundleError if it is not of a kind."""
    value = content.get(key)
    if type(value) is kind and not (isinstance(value, int) and value < 1):
        return value
    expected = {dict: "an object", int: "a whole number above 0", str: "a text"}[kind]
    raise _unfit(path, key, value, expected)


def _token(path: Path, content: Mapping[str, Any], key: str) -> int:
    """Return a token, or the first of a list of them; BundleError if it is neither."""
    value = content.get(key)
    tokens: list[Any] = value if isinstance(value, list) else [value]
    if tokens and all(type(token) is int for token in tokens):
        return int(tokens[0])
    raise _unfit(path, key, value, "a token or a list of them")


def _unfit(path: Path, key: str, value: Any, expected: str) -> BundleError:
    found = f"it has no {key!r}" if value is None else f"{key!r} is {str(value)[:40]!r}"
    hint = f"Write {_CONFIG} by onnxruntime-genai's model builder"
    return BundleError(str(path), f"{found}, expected {expected}", hint)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
        return content
    except (OSError, ValueError) as error:
        said = f"not readable: {first_line(error)}"
        raise BundleError(str(path), said, "Write it again") from error
