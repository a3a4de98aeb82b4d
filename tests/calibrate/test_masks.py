import numpy as np
import pytest

from fqonnx.calibrate import find_mask_input
from fqonnx.errors import DataError
from fqonnx.session import InputInfo


def info(name: str, *shape: int | str | None) -> InputInfo:
    return InputInfo(name, np.dtype(np.int64), shape or ("batch", "length"))


@pytest.mark.parametrize(
    "name",
    [
        "attention_mask",
        "input_mask",
        "mask",
        "encoder.attention_mask",
        "encoder/input_mask",
        "encoder.mask",
        "encoder_attention_mask",
    ],
)
def test_masks_are_known_by_name(name: str) -> None:
    assert find_mask_input([info("input_ids"), info(name)]) == name


@pytest.mark.parametrize(
    "name",
    ["input_ids", "masked_ids", "attention_mask_bias", "maskless", "unmask", "mask_ids", "Mask2"],
)
def test_other_names_are_no_masks(name: str) -> None:
    assert find_mask_input([info("x"), info(name)]) is None


@pytest.mark.parametrize(
    "name", ["key_padding_mask", "src_key_padding_mask", "encoder.key_padding_mask"]
)
def test_masks_whose_ones_mean_padding_are_not_taken(name: str) -> None:
    assert find_mask_input([info("input_ids"), info(name)]) is None


@pytest.mark.parametrize(
    "shape", [("batch",), ("batch", 1, "length"), ("batch", 1, "length", "length"), (None,)]
)
def test_a_mask_has_two_axes(shape: tuple[int | str | None, ...]) -> None:
    assert find_mask_input([info("input_ids"), info("attention_mask", *shape)]) is None


@pytest.mark.parametrize("shape", [(None, None), (1, 128), ("batch", 64)])
def test_axes_may_be_open_or_fixed(shape: tuple[int | str | None, ...]) -> None:
    assert find_mask_input([info("attention_mask", *shape)]) == "attention_mask"


def test_two_masks_are_none() -> None:
    inputs = [info("encoder.attention_mask"), info("decoder.attention_mask"), info("input_ids")]
    assert find_mask_input(inputs) is None


def test_a_mask_of_other_axes_does_not_make_two() -> None:
    inputs = [info("attention_mask"), info("causal.mask", 1, 1, 8, 8)]
    assert find_mask_input(inputs) == "attention_mask"


def test_no_inputs_no_mask() -> None:
    assert find_mask_input([]) is None


@pytest.mark.parametrize("name", ["keep", "key_padding_mask", "attention_mask", "other_mask"])
def test_a_requested_name_wins(name: str) -> None:
    names = ["keep", "key_padding_mask", "attention_mask", "other_mask"]
    assert find_mask_input([info(n) for n in names], name) == name


def test_a_requested_name_that_is_no_input_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        find_mask_input([info("input_ids"), info("attention_mask")], "maks")
    assert caught.value.where == "--mask-input"
    assert caught.value.found == "the model has no input 'maks'; it has input_ids, attention_mask"


def test_a_float_mask_is_not_taken() -> None:
    additive = InputInfo("attention_mask", np.dtype(np.float32), ("batch", "seq"))
    assert find_mask_input([additive]) is None
    with pytest.raises(DataError, match="float32, expected integers or booleans"):
        find_mask_input([additive], "attention_mask")
