"""Text by onnxruntime-genai itself, on the processor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployed import accept, compiled_mlp
from fqonnx import CompileConfig, compile_model
from fqonnx.bundle import BundleError
from fqonnx.deploy import DeployOptions, deploy
from fqonnx.deploy.genai import derived, layout
from fqonnx.deploy.source import Source
from fqonnx.doctor import examine_bundle
from fqonnx.runtime_ops import library_path
from fqonnx.session import InputInfo
from llama import build_decoder, letters
from support import model_from_text, shared_data

# In a process of its own, as in a service: the library is in no other session there.
GENERATE = """
import json, sys
import onnxruntime_genai as og
folder, prompt = sys.argv[1], json.loads(sys.argv[2])
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length=64, do_sample=False)
generator = og.Generator(model, params)
generator.append_tokens(prompt)
while not generator.is_done():
    generator.generate_next_token()
tokens = generator.get_sequence(0)
print(json.dumps([tokens.tolist(), tokenizer.decode(tokens[1:])]))
"""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float decoder, its tokenizer, and compiled to 4 bits beside it."""
    folder = build_decoder(tmp_path_factory.mktemp("decoder"))
    ids = np.load(shared_data("stories260k/tokens.npz"))["calib"][:24, :128].astype(np.int64)
    empty = np.zeros((len(ids), 4, 0, 16), np.float32)
    names = [f"past_key_values.{i}.{kind}" for i in range(5) for kind in ("key", "value")]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)} | dict.fromkeys(names, empty)
    np.savez(folder.parent / "data.npz", **feed)
    compile_model(
        folder / "model.onnx",
        folder.parent / "compiled.onnx",
        CompileConfig(bits=4),
        calibration=folder.parent / "data.npz",
    )
    return folder


def generate(folder: Path) -> tuple[list[int], str]:
    prompt = np.load(shared_data("stories260k/tokens.npz"))["dev"][0, :9].tolist()
    command = [sys.executable, "-P", "-c", GENERATE, str(folder), json.dumps(prompt)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens, text = json.loads(done.stdout.splitlines()[-1])
    assert tokens[:9] == prompt
    return tokens, text


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
def test_decoders_write_text_with_and_without_the_library(decoder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"target": "genai", "tokenizer": decoder}
    compiled = decoder.parent / "compiled.onnx"
    written = {"float": generate(decoder)[0]}
    for library in (True, False):
        out = tmp_path / str(library)
        float_path = decoder / "model.onnx"
        options = DeployOptions(**given, library=library, float_path=float_path)
        manifest = deploy(compiled, out, options)
        assert manifest.outputs[0].name == "logits"
        findings = list(examine_bundle(out))
        assert all(finding.holds for finding in findings), findings
        said = {finding.what: finding.said for finding in findings}
        assert " writes text; behind " in said["onnxruntime-genai"]
        assert "against the whole prompt" in said["onnxruntime-genai, decode step"]
        tokens, text = generate(out)
        assert text == letters(np.array(tokens[1:]))
        written[str(library)] = tokens
        decoder_of = json.loads((out / "genai_config.json").read_text())["model"]["decoder"]
        assert ("custom_ops_library" in decoder_of["session_options"]) == library
        command = [sys.executable, "-P", str(out / "generate.py"), letters(np.array(tokens[1:9]))]
        assert subprocess.run(command, capture_output=True, check=True).stdout.strip()
        bare = subprocess.run(command[:-1], capture_output=True, text=True)
        assert (bare.returncode, bare.stderr[:26]) == (1, "usage: python generate.py ")
    same = np.array(written["float"]) == np.array(written["True"])
    assert np.argmin([*same, False]) >= 14, written  # 4 bits agree for a while
    (tmp_path / "True" / "libfqonnx_ops.so").unlink()
    with pytest.raises(AssertionError):
        generate(tmp_path / "True")
    (found,) = (f for f in examine_bundle(tmp_path / "True") if f.what == "golden inputs")
    assert found.said == "not run, because of libfqonnx_ops.so"  # and nothing else is blamed
    tokenizer = tmp_path / "False" / "tokenizer.json"
    sound = tokenizer.read_text()
    tokenizer.write_text("{")
    accept(tmp_path / "False")
    (found,) = (f for f in examine_bundle(tmp_path / "False") if not f.holds)
    assert found.mend == "Deploy it again with the --tokenizer of this model"
    tokenizer.write_text(sound)
    config = tmp_path / "False" / "genai_config.json"
    config.write_text(config.read_text().replace('"model.onnx"', '"other.onnx"'))
    accept(tmp_path / "False")
    (found,) = (f for f in examine_bundle(tmp_path / "False") if not f.holds)
    assert found.what == "onnxruntime-genai"
    assert "other.onnx" in found.said


def test_packed_weights_stay_packed_in_a_stock_runtime(decoder: Path, tmp_path: Path) -> None:
    model = tmp_path / "trellis.onnx"
    compile_model(
        decoder / "model.onnx",
        model,
        CompileConfig(codebook="trellis", include=("/model/layers.0/*",)),
        calibration=decoder.parent / "data.npz",
    )
    options = DeployOptions(target="genai", tokenizer=decoder, library=False, keep_packed=True)
    deploy(model, tmp_path / "out", options)
    config = json.loads((tmp_path / "out/genai_config.json").read_text())
    session = config["model"]["decoder"]["session_options"]
    assert session["optimization.disable_specified_optimizers"] == "ConstantFolding"
    generate(tmp_path / "out")


def test_a_configuration_comes_from_that_of_transformers(decoder: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    ignored = shutil.ignore_patterns("genai_config.json", "model.onnx*")
    shutil.copytree(decoder, exported, ignore=ignored)
    shutil.copy(decoder.parent / "llama/config.json", exported)
    options = DeployOptions(target="genai", tokenizer=exported, library=False)
    deploy(decoder.parent / "compiled.onnx", tmp_path / "out", options)
    config = json.loads((tmp_path / "out/genai_config.json").read_text())
    made = json.loads((decoder / "genai_config.json").read_text())
    for part in ("inputs", "outputs", "head_size", "num_key_value_heads", "num_hidden_layers"):
        assert config["model"]["decoder"][part] == made["model"]["decoder"][part]
    for key in ("type", "vocab_size", "context_length", "bos_token_id", "eos_token_id"):
        assert config["model"][key] == made["model"][key]
    generate(tmp_path / "out")
    said = json.loads((exported / "config.json").read_text())
    del said["max_position_embeddings"]
    (exported / "config.json").write_text(json.dumps(said))
    with pytest.raises(BundleError, match="it has no 'max_position_embeddings'"):
        deploy(decoder.parent / "compiled.onnx", tmp_path / "no", options)


PAST = ("batch", 2, "past", 8)
DECODER = Source(
    Path("decoder.onnx"),
    model_from_text('<ir_version: 10, opset_import: ["": 20]> g () => () {}'),
    tuple(
        InputInfo(name, np.dtype("float32"), PAST)
        for name in ("input_ids", "past.0.key", "past.0.value")
    ),
    tuple(
        InputInfo(name, np.dtype("float32"), PAST)
        for name in ("logits", "present.0.key", "present.0.value")
    ),
    *((), ()),
)
GEMMA: dict[str, Any] = {
    "model_type": "gemma",
    "num_attention_heads": 4,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 100,
    "max_position_embeddings": 32,
    "head_dim": None,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": [1, 7],
}


def test_tokens_may_be_the_first_of_the_vocabulary(tmp_path: Path) -> None:
    made = derived(DECODER, GEMMA, tmp_path)
    model = made["model"]
    assert [model[f"{name}_token_id"] for name in ("bos", "pad", "eos")] == [0, 0, [1, 7]]
    decoder = model["decoder"]
    assert (decoder["head_size"], decoder["num_key_value_heads"]) == (16, 4)
    model = derived(DECODER, GEMMA | {"pad_token_id": None, "head_dim": 8}, tmp_path)["model"]
    assert (model["pad_token_id"], model["decoder"]["head_size"]) == (1, 8)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", {"eos_token_id": []}, r"'eos_token_id' is '\[\]', expected a token"),
        ("config.json", {"eos_token_id": None}, "it has no 'eos_token_id'"),
        ("config.json", {"pad_token_id": "<pad>"}, "'pad_token_id' is '<pad>'"),
        ("config.json", {"num_attention_heads": 0}, "'num_attention_heads' is '0', expected a who"),
        ("config.json", {"hidden_size": "64"}, "'hidden_size' is '64', expected a whole number"),
        ("genai_config.json", {"model": []}, r"'model' is '\[\]', expected an object"),
        ("genai_config.json", {"model": {"decoder": None}}, "it has no 'decoder'"),
        ("genai_config.json", {"model": {"decoder": {"head_size": True}}}, "'head_size' is 'True'"),
        (
            "genai_config.json",
            {
                "model": {
                    "decoder": {"head_size": 8, "num_key_value_heads": 2, "session_options": None}
                }
            },
            "it has no 'session_options', expected an object",
        ),
    ],
)
def test_configurations_that_are_none_are_refused(
    name: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps(GEMMA | change))
    options = DeployOptions(target="genai", tokenizer=tmp_path)
    with pytest.raises(BundleError, match=f"{name}: {said}"):
        layout(DECODER, options)


def test_what_is_no_decoder_is_refused(tmp_path: Path) -> None:
    model = compiled_mlp(tmp_path)
    options = DeployOptions(target="genai", tokenizer=tmp_path, library=False)
    with pytest.raises(BundleError, match="no decoder with a KV cache: its inputs are x"):
        deploy(model, tmp_path / "out", options)
