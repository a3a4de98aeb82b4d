from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

from fqonnx.cli import main
from fqonnx.diff import CEILINGS, FLOORS
from fqonnx.errors import ModelError
from support import mlp_model, model_from_text, shared_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that is worked in: a model, a worse one, samples, and their classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    model = mlp_model()
    ir.save(model, "float.onnx")
    rng = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        weight = value.const_value.numpy()
        noise = 0.2 * weight.std() * rng.standard_normal(weight.shape)
        value.const_value = ir.tensor((weight + noise).astype(np.float32), name=value.name)
    ir.save(model, "worse.onnx")
    x = rng.standard_normal((40, 64)).astype(np.float32)
    np.savez("data.npz", x=x)
    np.save("labels.npy", outputs("float.onnx", x=x).argmax(axis=1))
    return tmp_path


def outputs(path: str | Path, **feed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def diff(
    *arguments: object, models: tuple[object, object] = ("float.onnx", "worse.onnx")
) -> Result:
    """Run ``fqonnx diff`` on data.npz."""
    given = ("diff", *models, "--inputs", "data.npz", *arguments)
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def report(*arguments: object, **options: Any) -> dict[str, Any]:
    """Return the report of a run that succeeds, as it was read back."""
    result = diff("--json", "r.json", *arguments, **options)
    assert result.exit_code == 0, result.output
    return json.loads(Path("r.json").read_text())


def table(shown: str) -> dict[str, list[str]]:
    """Return the cells of each row that was printed, by its title."""
    lines = [line.split("│")[1:-1] for line in shown.splitlines() if "│" in line]
    return {title.strip(): [cell.strip() for cell in cells] for title, *cells in lines}


def test_everything_about_a_comparison_is_in_the_report(folder: Path) -> None:
    found = report("--fail-under", "cosine=0.5", "--fail-over", "max_abs_diff=100")
    assert found["samples"]["source"] == "file"
    assert found["samples"]["num_samples"] == 40
    for name in ("float.onnx", "worse.onnx"):
        assert found["files"][name] == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert found["model"]["float_bytes"] == Path("float.onnx").stat().st_size
    assert {"fqonnx", "onnxruntime"} <= set(found["versions"])
    assert [(x["output"], x["metric"], x["met"]) for x in found["verdicts"]] == [
        ("y", "cosine", True),
        ("y", "max_abs_diff", True),
    ]
    (output,), (noise,) = found["outputs"], found["noise"]
    assert (output["kind"], output["classes"], output["tokens"]) == ("numbers", None, None)
    assert output["mean_abs_diff"] < output["p99_abs_diff"] < output["max_abs_diff"]
    assert noise["sqnr_db"] > output["sqnr_db"] + 20


def test_external_data_are_files_too(folder: Path) -> None:
    ir.save(ir.load("float.onnx"), "apart.onnx", external_data="apart.data")
    found = report(models=("apart.onnx", "worse.onnx"))
    assert [Path(name).name for name in found["files"]] == [
        "apart.onnx",
        "apart.data",
        "worse.onnx",
    ]


def test_labels_give_accuracy(folder: Path) -> None:
    found = report("--kind", "y=classes", "--labels", "labels.npy", "--markdown", "r.md")
    classes = found["outputs"][0]["classes"]
    assert classes["float_accuracy"] == 1.0
    assert classes["compiled_accuracy"] == classes["top1_agreement"]
    right = outputs("worse.onnx", x=np.load("data.npz")["x"]).argmax(axis=1)
    assert classes["compiled_accuracy"] == (right == np.load("labels.npy")).mean()
    assert 0.2 < classes["top1_agreement"] < classes["top5_agreement"] <= 1.0
    accuracy = f"{classes['compiled_accuracy']:.2%}"
    assert f"| accuracy | 100.00% | {accuracy} | " in Path("r.md").read_text()
    shown = diff("--kind", "y=classes", "--labels", "labels.npy").output
    assert table(shown)["accuracy"][:2] == ["100.00%", accuracy]


def test_labels_go_with_the_batches_of_a_folder(folder: Path) -> None:
    x = np.load("data.npz")["x"]
    for i, part in enumerate((slice(0, 7), slice(7, 8), slice(8, 40))):
        (folder / "batches").mkdir(exist_ok=True)
        np.savez(folder / "batches" / f"{i}.npz", x=x[part])
    given = ("--kind", "y=classes", "--labels", "labels.npy")
    whole = report(*given)["outputs"][0]["classes"]
    assert report(*given, "--inputs", "batches")["outputs"][0]["classes"] == whole


def test_tokens_are_found(folder: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g
        (int64[B, L] ids, int64[B, L] attention_mask) => (float[B, L, 11] z) {
        h = Gather(words, ids) z = MatMul(h, head) }"""
    rng = np.random.default_rng(0)
    for name in ("lm.onnx", "other.onnx"):
        words, head = rng.standard_normal((2, 88)).astype(np.float32)
        model = model_from_text(text, words=words.reshape(11, 8), head=head.reshape(8, 11))
        ir.save(model, name)
    mask = np.ones((20, 6), np.int64)
    mask[::2, 4:] = 0
    np.savez("data.npz", ids=rng.integers(0, 11, (20, 6)), attention_mask=mask)
    found = report("--markdown", "r.md", models=("lm.onnx", "other.onnx"))
    (output,), (noise,) = found["outputs"], found["noise"]
    assert output["kind"] == "tokens"
    assert output["tokens"]["num_tokens"] == mask.sum() == 100
    assert output["tokens"]["context_length"] == 6
    assert output["tokens"]["kl_mean"] > 1.0 > 0.001 > noise["tokens"]["kl_mean"] >= 0.0
    assert "| perplexity, up to 6 tokens | " in Path("r.md").read_text()
    plain = report("--kind", "z=numbers", models=("lm.onnx", "other.onnx"))
    assert plain["outputs"][0]["tokens"] is None
    missed = diff("--fail-over", "flip_rate=0.01", models=("lm.onnx", "other.onnx"))
    assert missed.exit_code == 1
    assert "missed: z: flip_rate is " in missed.output


def test_all_pages_are_written_whether_met_or_missed(folder: Path) -> None:
    given = ("--fail-under", "sqnr_db=90", "--fail-over", "max_abs_diff=100")
    pages = ("--json", "r.json", "--markdown", "r.md", "--report", "r.html")
    missed = diff(*given, *pages)
    assert missed.exit_code == 1
    assert "Missed 1 of 2 thresholds</h1>" in Path("r.html").read_text()
    assert Path("r.md").read_text().startswith("# Missed 1 of 2 thresholds\n\n- missed: y: sqnr")
    assert [x["met"] for x in json.loads(Path("r.json").read_text())["verdicts"]] == [False, True]
    last = missed.output.splitlines()[-2:]
    assert last[0].startswith("missed: y: sqnr_db is ")
    assert last[0].endswith(", the threshold is ≥ 90.0")
    assert last[1].startswith("met: y: max_abs_diff is ")
    assert not list(folder.glob(".*"))


def test_equal_models_miss_nothing(folder: Path) -> None:
    floors = ("cosine=0.999999", "sqnr_db=1000", "top1_agreement=1", "top5_agreement=1")
    given = [part for value in floors for part in ("--fail-under", value)]
    ceilings = ("max_abs_diff=0", "p99_abs_diff=0", "max_sample_error=0")
    given += [part for value in ceilings for part in ("--fail-over", value)]
    same = ("float.onnx", "float.onnx")
    found = report("--kind", "y=classes", *given, models=same)
    assert all(verdict["met"] for verdict in found["verdicts"])


def test_without_a_noise_floor_there_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise ModelError(str(path), "not converted: why", "Do without")

    monkeypatch.setattr("fqonnx.diff_models.half_precision_session", fails)
    result = diff("--json", "r.json", "--markdown", "r.md", "--fail-under", "cosine=0.5")
    assert result.exit_code == 0
    assert result.stderr == "warning: no noise floor: not converted: why\n"
    assert json.loads(Path("r.json").read_text())["noise"] == []
    assert "noise floor" not in result.stdout
    assert "met: y: cosine is 0.9" in result.stdout


def test_compiled_first_is_refused(folder: Path) -> None:
    compiled = folder / "c.onnx"
    command = ("compile", "float.onnx", "-o", str(compiled), "--calibration", "none")
    assert CliRunner().invoke(main, command).exit_code == 0
    result = diff("--fail-under", "cosine=0.1", models=(compiled, "float.onnx"))
    assert result.exit_code == 2
    assert f"{compiled}: it is a compiled model. Give the float one first" in result.stderr


def test_labels_are_not_of_synthetic_inputs(folder: Path) -> None:
    result = diff("--labels", "labels.npy", "--inputs", "synthetic")
    assert result.exit_code == 2
    assert "synthetic inputs have no right classes" in result.stderr


MISTAKES = [
    (("--labels", "absent.npy"), "absent.npy: no such file"),
    (("--labels", "short.npy", "--kind", "y=classes"), "short.npy: it is int64(39,), expected"),
    (("--labels", "high.npy", "--kind", "y=classes"), "found 48, and the output has the classes"),
    (("--labels", "labels.npy"), "--labels: no output is of classes. Name one: --kind OUTPUT="),
    (("--kind", "z=classes"), "--kind z=classes: there is no such output, only y"),
    (("--kind", "y=tokens"), "--kind y=tokens: the output has 2 axes, expected 3"),
    (("--fail-over", "kl_p99=1"), "kl_p99: no output has this measure: 'y' is numbers"),
    (("--fail-under", "compiled_accuracy=1", "--kind", "y=classes"), "accuracy needs --labels"),
    (("--markdown", "absent/r.md"), "absent/r.md: cannot be written"),
    (("--markdown", "."), "it is a folder"),
    (("--markdown", "r.md", "--json", "r.md"), "would destroy r.md"),
]
FILES = ("float.onnx", "worse.onnx", "data.npz", "labels.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *MISTAKES,
        *[
            (("--kind", "y=classes", "--labels", "labels.npy", option, file), f"destroy {file}")
            for option in ("--json", "--markdown")
            for file in FILES
        ],
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, folder: Path
) -> None:
    np.save("short.npy", np.load("labels.npy")[1:])
    np.save("high.npy", np.where(np.arange(40) == 30, 48, 0))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = diff(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--fail-under", "max_abs_diff=1", f"the metric is one of {', '.join(FLOORS)}"),
        ("--fail-over", "cosine=1", f"the metric is one of {', '.join(CEILINGS)}"),
        ("--fail-over", "num_samples=1", "the metric is one of"),
        ("--fail-over", "flip_rate", "expected a number, as in flip_rate="),
        ("--fail-over", "kl_mean=low", "expected a number, as in kl_mean="),
        ("--fail-under", "", "the metric is one of"),
        ("--fail-under", "cosine=nan", "expected a number, as in cosine="),
        ("--fail-over", "kl_mean=inf", "expected a number, as in kl_mean="),
        ("--kind", "classes", "expected OUTPUT=KIND, the kind one of numbers, classes, tokens"),
        ("--kind", "=classes", "expected OUTPUT=KIND"),
        ("--kind", "y=class", "expected OUTPUT=KIND"),
        ("--kind", "y", "expected OUTPUT=KIND"),
    ],
)
def test_bad_values_are_usage_errors(option: str, value: str, message: str, folder: Path) -> None:
    result = diff(option, value)
    assert result.exit_code == 2
    assert f"{value!r}: {message}" in " ".join(result.stderr.replace("│", " ").split())


def test_an_output_with_an_odd_name(folder: Path) -> None:
    for name in ("float.onnx", "worse.onnx"):
        model = ir.load(name)
        model.graph.outputs[0].name = "a=b[/]|c"
        ir.save(model, name)
    result = diff("--kind", "a=b[/]|c=classes", "--markdown", "r.md", "--fail-under", "cosine=0.5")
    assert result.exit_code == 0
    assert "a=b[/]|c (classes)" in result.output
    assert "met: a=b[/]|c: cosine" in result.output
    assert r"## a=b\[/\]\|c (classes)" in Path("r.md").read_text()


def compiled(model: Path, out: Path) -> Path:
    arguments = ("compile", model, "-o", out, "--bits", 4, "--calibration", "none")
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return out


def test_keywords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared_data("kwt1")
    monkeypatch.chdir(tmp_path)
    data = np.load(source / "features.npz")
    x, y, own = (data[name][:96] for name in ("x", "y", "ref_logits"))
    np.savez("data.npz", mfcc=x)
    np.save("labels.npy", y)
    models = source / "model.onnx", compiled(source / "model.onnx", tmp_path / "out.onnx")
    found = report("--labels", "labels.npy", "--fail-under", "top5_agreement=0.95", models=models)
    (output,), (noise,) = found["outputs"], found["noise"]
    assert output["kind"] == "classes"
    assert output["classes"]["float_accuracy"] == (own.argmax(axis=1) == y).mean()
    right = outputs(models[1], mfcc=x).argmax(axis=1) == y
    assert output["classes"]["compiled_accuracy"] == pytest.approx(right.mean())
    assert noise["classes"]["top1_agreement"] >= 0.98


def test_stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared_data("stories260k")
    monkeypatch.chdir(tmp_path)
    tokens = np.load(source / "tokens.npz")["dev"][:, :129].astype(np.int64)
    ids = tokens[(tokens >= 0).all(axis=1)][:24]
    np.savez("data.npz", input_ids=ids)
    models = source / "model.onnx", compiled(source / "model.onnx", tmp_path / "out.onnx")
    given = ("--fail-over", "compiled_perplexity=1000", "--fail-over", "kl_p90=100")
    found = report(*given, models=models)
    (output,), (noise,) = found["outputs"], found["noise"]
    assert output["kind"] == "tokens"
    measures = output["tokens"]
    assert (measures["num_tokens"], measures["context_length"]) == (ids.size, 129)
    for name, path in zip(("float", "compiled"), models, strict=True):
        logits = outputs(path, input_ids=ids)[:, :-1].astype(np.float64)
        chosen = np.take_along_axis(logits, ids[:, 1:, None], axis=2)[..., 0]
        loss = (np.log(np.exp(logits).sum(axis=2)) - chosen).mean()
        assert measures[f"{name}_perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
    assert measures["kl_median"] <= measures["kl_mean"] <= measures["kl_p99"]
    assert noise["tokens"]["kl_mean"] < 0.1 * measures["kl_mean"]
    assert noise["tokens"]["flip_rate"] < measures["flip_rate"]
