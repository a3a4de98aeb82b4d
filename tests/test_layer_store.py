"""Results on disk: what is read is what was stored, whole, or nothing."""

from __future__ import annotations

import dataclasses
import errno
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fqonnx.layer_store
from fqonnx.errors import ConfigError, ModelError
from fqonnx.frames import HadamardFrame, IdentityFrame
from fqonnx.layer_store import LayerStore, StoredArray, kept_layers, work_folder
from fqonnx.quant import Guarantee, PackedWeight, SquaredErrors
from fqonnx.quant_job import JobResult
from support import fusion_frame, random_weight

BIAS = random_weight(HadamardFrame.create(40), 1)
RESULTS = {
    "scalar": JobResult(PackedWeight.of(random_weight(HadamardFrame.create(48, 1.25), 40))),
    "trellis": JobResult(PackedWeight.of(random_weight(IdentityFrame(32), 70, trellis=True))),
    "both sides": JobResult(
        PackedWeight.of(random_weight(fusion_frame(30, (8, 4, 32)), HadamardFrame.create(24)))
    ),
    "groups": JobResult(
        PackedWeight.of(random_weight(IdentityFrame(300), 8, zero_points=True, group_size=128))
    ),
    "biases": JobResult(
        dataclasses.replace(
            PackedWeight.of(
                random_weight(HadamardFrame.create(48), 40, bias_shift=np.ones(40, np.float32))
            ),
            errors=SquaredErrors(0.1 + 0.2, math.pi, 1e-300, 0.0, math.inf),
            guarantee=Guarantee(0.5, 1 / 3, 2 / 3),
        ),
        {"first": PackedWeight.of(BIAS), "second": PackedWeight.of(BIAS)},
        rows={"first": 7},
    ),
    "float": JobResult(reason="the weight is too large", rows={"first": 3}),
}
EVERY_RESULT = pytest.mark.parametrize("name", RESULTS)


def flat(result: JobResult) -> list[object]:
    """Return all that a result holds, its arrays as bytes."""
    weights = [result.weight, *result.biases.values()]
    found: list[object] = [result.reason, dict(result.rows), list(result.biases)]
    for weight in weights:
        if weight is not None:
            shift = weight.bias_shift
            arrays = {name: np.asarray(array) for name, array in weight.arrays.items()}
            found += [
                {
                    name: (array.dtype, array.shape, array.tobytes())
                    for name, array in arrays.items()
                },
                None if shift is None else (shift.dtype, shift.tobytes()),
                (weight.frame_in, weight.frame_out, weight.bits, weight.group_size),
                (weight.multiplier, weight.errors, weight.guarantee, weight.stored_bytes),
            ]
    return found


@EVERY_RESULT
def test_what_is_stored_is_found(name: str, tmp_path: Path) -> None:
    store, key = LayerStore(tmp_path, {"model": "a"}), "k"
    put = store.put(key, RESULTS[name])
    found = LayerStore(tmp_path, {"model": "a"}).find(key)
    assert found is not None
    assert flat(put) == flat(found) == flat(RESULTS[name])
    weights = [weight for weight in (found.weight, *found.biases.values()) if weight is not None]
    assert all(isinstance(a, StoredArray) for weight in weights for a in weight.arrays.values())
    for a, b in zip(weights, [RESULTS[name].weight, *RESULTS[name].biases.values()], strict=False):
        assert b is not None
        assert np.array_equal(a.dequantize(), b.dequantize())


@settings(deadline=None, max_examples=60)
@given(part=st.floats(0, 1, exclude_max=True), torn=st.booleans())
def test_torn_and_altered_files_are_not_found(
    part: float, torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LayerStore(tmp_path_factory.mktemp("store"), {})
    store.put("k", RESULTS["biases"])
    (path,) = store.folder.iterdir()
    content = bytearray(path.read_bytes())
    place = int(part * len(content))
    if torn:
        del content[place:]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    assert store.find("k") is None
    store.put("k", RESULTS["biases"])
    assert store.find("k") is not None


def test_other_jobs_and_other_identities_have_other_keys(tmp_path: Path) -> None:
    store = LayerStore(tmp_path, {"model": "a", "data": None})
    assert store.key("w", 2) == LayerStore(tmp_path, {"data": None, "model": "a"}).key("w", 2)
    keys = {
        store.key("w", 2),
        store.key("w", 3),
        store.key("w2"),
        LayerStore(tmp_path, {"model": "b", "data": None}).key("w", 2),
    }
    assert len(keys) == 4
    store.put(store.key("w", 2), RESULTS["scalar"])
    assert store.find(store.key("w", 3)) is None


@pytest.mark.parametrize("failing", ["save_file", "sync", "sha256"])
def test_full_disk_is_said_and_leaves_nothing(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LayerStore(tmp_path, {})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fqonnx.layer_store, failing, fail)
    with pytest.raises(ModelError, match=r"cannot be written: .*No space left on device.*-o"):
        store.put("k", RESULTS["scalar"])
    assert list(tmp_path.iterdir()) == []


def test_folder_goes_when_the_work_is_done_and_stays_when_it_is_not(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"

    def interrupted() -> None:
        with kept_layers(output, {}) as store:
            store.put("k", RESULTS["scalar"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as info:
        interrupted()
    (note,) = info.value.__notes__
    kept = tmp_path / ".out.onnx.layers"
    assert note.startswith(f"1 quantized weights are kept in {kept}: the same command goes on")
    with kept_layers(output, {}) as store:
        assert store.find("k") is not None
    assert list(tmp_path.iterdir()) == []


def test_folder_without_results_goes_either_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no") as info, kept_layers(tmp_path / "o.onnx", {}):
        raise ValueError("no")
    assert not hasattr(info.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_a_killed_run_go(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    left = work_folder(output) / ".fqonnx-1"
    left.mkdir(parents=True)
    (left / "0-0.npy").write_bytes(b"activations")

    def run() -> None:
        with kept_layers(output, {}):
            assert not left.exists()
            left.mkdir()  # its owner lives as long as the traceback
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run()
    assert list(left.parent.iterdir()) == []


def test_one_compilation_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with (
        kept_layers(output, {}),
        pytest.raises(ConfigError, match="another compilation is writing it"),
        kept_layers(output, {}),
    ):
        pass
