import dataclasses
import math
from typing import Any

import pytest

from fqonnx.config import METHODS, CompileConfig, Override
from fqonnx.errors import ConfigError, FqonnxError


def test_defaults_are_valid() -> None:
    config = CompileConfig()
    assert config.bits == 2
    assert config.recipe.redundancy == 1.0
    assert config.method in METHODS
    assert config.sides is None
    assert config.order == 1
    assert config.sequential is False
    assert config.recipe.lowering == "fused"


@pytest.mark.parametrize(
    "options",
    [
        *({"bits": bits} for bits in (1, 2, 3, 4)),
        *({"method": method} for method in METHODS),
        *({"lowering": lowering} for lowering in (None, "fused", "stock", "onnx")),
        *({"redundancy": redundancy} for redundancy in (None, 1, 1.0, 1.125, 3.0, 16.0)),
        {"method": "rtn", "redundancy": 1.0},
        *({"sides": sides} for sides in (None, "in", "out", "both")),
        *({"method": "sigma-delta", "order": order, "bits": 1} for order in (1, 2)),
        *({"method": method, "order": 1} for method in METHODS),
        {"method": "rtn", "redundancy": None, "sides": None},
        *({"codebook": codebook} for codebook in (None, "scalar", "trellis")),
        *(
            {"method": method, "codebook": "trellis", "bits": 1}
            for method in METHODS.keys() - {"sigma-delta"}
        ),
        *({"target": target} for target in (None, "ort-fqonnx", "ort-stock")),
        *({"method": method, "sides": "in"} for method in METHODS),
        {"method": "framequant", "sides": "both", "redundancy": 1.1, "sequential": True},
        {"include": ("*attention*",), "exclude": ("lm_head",), "mask_input": "mask", "seed": 7},
    ],
)
def test_valid_options(options: dict[str, Any]) -> None:
    config = CompileConfig(**options)
    assert all(getattr(config, name) == value for name, value in options.items())


@pytest.mark.parametrize(
    ("options", "where", "found"),
    [
        *(({"bits": bits}, "bits", f"found {bits}") for bits in (-1, 0, 5, 8, 1.5)),
        ({"redundancy": 0.99}, "redundancy", "found 0.99, expected 1.0 to 16.0"),
        ({"redundancy": 16.5}, "redundancy", "found 16.5"),
        ({"redundancy": -1.0}, "redundancy", "found -1.0"),
        ({"redundancy": math.nan}, "redundancy", "found nan"),
        ({"redundancy": math.inf}, "redundancy", "found inf"),
        ({"method": "magic"}, "method", "found 'magic'"),
        ({"method": ""}, "method", "found ''"),
        ({"method": "rtn", "redundancy": 1.5}, "redundancy", "'rtn' uses no frame"),
        ({"method": "gptq", "redundancy": 1.01}, "redundancy", "found 1.01"),
        ({"sides": "left"}, "sides", "found 'left'"),
        ({"sides": ""}, "sides", "found ''"),
        ({"sides": ("in", "both")}, "sides", "found ('in', 'both')"),
        ({"method": "gptq", "sides": "both"}, "sides", "'gptq' uses no frame"),
        ({"codebook": "lattice"}, "codebook", "found 'lattice'"),
        ({"target": "ort"}, "target", "found 'ort'"),
        ({"method": "sigma-delta", "codebook": "trellis"}, "codebook", "its own alphabet"),
        ({"target": "ort-fqonnx", "lowering": "stock"}, "target", "leaves nothing"),
        ({"method": "rtn", "sides": "both"}, "sides", "'rtn' uses no frame"),
        ({"method": "gptq", "sides": "out"}, "sides", "'gptq' uses no frame"),
        *(
            ({"method": "sigma-delta", "order": order}, "order", f"found {order}, expected 1 or 2")
            for order in (0, 3, -1, 1.5, 2.0, "1")
        ),
        *(
            ({"method": method, "order": 2}, "order", f"found 2, and method '{method}' has no")
            for method in ("auto", "framequant", "gptq", "rtn")
        ),
        ({"lowering": "native"}, "lowering", "found 'native'"),
    ],
)
def test_invalid_options_say_where_and_what(
    options: dict[str, Any], where: str, found: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        CompileConfig(**options)
    assert isinstance(caught.value, FqonnxError)
    assert caught.value.where == where
    assert found in caught.value.found
    assert caught.value.hint
    assert str(caught.value) == f"{where}: {caught.value.found}. {caught.value.hint}"


def test_hints_name_the_choices() -> None:
    with pytest.raises(ConfigError) as caught:
        CompileConfig(method="magic")
    assert all(name in caught.value.hint for name in METHODS)
    with pytest.raises(ConfigError) as caught:
        CompileConfig(lowering="native")  # type: ignore[arg-type]
    assert all(name in caught.value.hint for name in ("fused", "stock", "onnx"))
    with pytest.raises(ConfigError) as caught:
        CompileConfig(sides="left")  # type: ignore[arg-type]
    assert all(name in caught.value.hint for name in ("in", "out", "both"))
    with pytest.raises(ConfigError) as caught:
        CompileConfig(order=2)
    assert "sigma-delta" in caught.value.hint


def test_replacing_an_option_checks_it() -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(CompileConfig(), bits=7)


def test_config_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CompileConfig().bits = 3  # type: ignore[misc]


def test_methods_are_known_by_their_own_names() -> None:
    assert set(METHODS) == {"auto", "framequant", "sigma-delta", "gptq", "rtn"}
    for name, method in METHODS.items():
        assert method.name == name
        assert method.step_multipliers
        assert all(multiplier > 0 for multiplier in method.step_multipliers)
        assert method.damping is None or method.damping > 0
        CompileConfig(method=name, sides=method.sides)


def test_only_the_own_method_has_the_own_ideas() -> None:
    for name in METHODS.keys() - {"auto"}:
        method = METHODS[name]
        assert method.step_multipliers == (1.0,)
        assert method.sweeps == 0
        assert not method.corrects_mean


@pytest.mark.parametrize("name", ["gptq", "rtn"])
def test_baselines_have_a_grid_for_each_128_codes(name: str) -> None:
    method = METHODS[name]
    assert (method.frame, method.sides) == ("identity", "in")
    assert (method.alphabet, method.group_size) == ("min-max", 128)
    assert method.feedback == ("ldlq" if name == "gptq" else "none")


def test_framequant_is_that_of_its_authors() -> None:
    method = METHODS["framequant"]
    assert (method.frame, method.sides) == ("fusion", "both")
    assert (method.alphabet, method.feedback, method.damping) == ("two-sigma", "ldlq", 0.01)


@pytest.mark.parametrize("method", ["framequant", "gptq", "rtn"])
def test_one_bit_with_an_integer_zero_point_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="two levels on one side of zero"):
        CompileConfig(method=method, bits=1)


def test_sigma_delta_is_that_of_its_authors_with_exact_operators() -> None:
    method = METHODS["sigma-delta"]
    assert (method.frame, method.sides, method.redundancy) == ("harmonic", "in", 3.0)
    assert (method.alphabet, method.feedback, method.order) == ("range", "sigma-delta", 1)
    assert method.lowering == "onnx"


@pytest.mark.parametrize("name", METHODS)
def test_recipe_is_the_method_where_nothing_is_asked_for(name: str) -> None:
    config = CompileConfig(method=name, target="ort-stock")
    assert config.recipe == METHODS[name]
    assert (config.redundancy, config.sides, config.lowering) == (None, None, None)


@pytest.mark.parametrize("name", ["auto", "framequant", "sigma-delta"])
def test_recipe_keeps_what_was_asked_for(name: str) -> None:
    asked: dict[str, Any] = {"redundancy": 1.0, "sides": "out", "lowering": "stock"}
    recipe = CompileConfig(method=name, **asked).recipe
    assert recipe == dataclasses.replace(METHODS[name], **asked)
    assert METHODS[name].sides != "out"


@pytest.mark.parametrize("name", METHODS.keys() - {"sigma-delta"})
def test_trellis_takes_the_place_of_the_alphabet_alone(name: str) -> None:
    method = METHODS[name]
    changes: dict[str, Any] = {"alphabet": "trellis", "group_size": None, "least_bits": 1}
    recipe = CompileConfig(method=name, codebook="trellis").recipe
    assert recipe == dataclasses.replace(method, **changes)
    assert (recipe.codebook, method.codebook) == ("trellis", "scalar")


def test_best_codebook_is_the_trellis_where_it_stays_packed() -> None:
    def codebook(**options: Any) -> str:
        config = CompileConfig(**options)
        assert config.options()["codebook"] == config.recipe.codebook
        return config.recipe.codebook

    assert [codebook(bits=bits) for bits in (1, 2, 3)] == ["trellis"] * 3
    assert codebook(target="ort-fqonnx", sides="both", redundancy=1.25) == "trellis"
    assert codebook(bits=4) == "scalar"
    assert codebook(target="ort-stock") == "scalar"
    assert codebook(target="ort-fqonnx", lowering="onnx") == "trellis"
    assert [codebook(bits=1, redundancy=r) for r in (1.75, 2.0)] == ["trellis", "scalar"]
    assert codebook(bits=1, redundancy=4.0, codebook="trellis") == "trellis"
    assert codebook(codebook="scalar") == "scalar"
    assert [codebook(lowering=lowering) for lowering in ("stock", "onnx")] == ["scalar"] * 2
    assert {codebook(method=name) for name in METHODS.keys() - {"auto"}} == {"scalar"}


def test_target_goes_by_the_lowering() -> None:
    assert CompileConfig().options()["target"] == "ort-fqonnx"
    assert CompileConfig(lowering="stock").options()["target"] == "ort-stock"
    assert CompileConfig(target="ort-stock").options()["target"] == "ort-stock"


def test_recipe_has_the_order() -> None:
    assert CompileConfig(method="sigma-delta", order=2).recipe.order == 2


def test_layers_that_an_override_matches_have_options_of_their_own() -> None:
    config = CompileConfig(
        bits=2,
        overrides=(
            Override("*.dense", bits=3),
            Override("layer.1.*", redundancy=1.25),
            Override("layer.1.dense", bits=4),
        ),
    )
    assert config.for_layer({"layer.0.query"}) == CompileConfig(bits=2)
    assert config.for_layer({"layer.0.dense"}) == CompileConfig(bits=3)
    assert config.for_layer({"layer.1.dense", "node_7"}) == CompileConfig(bits=4, redundancy=1.25)
    assert config.for_layer({"node[0]"}) == CompileConfig()


@pytest.mark.parametrize(
    ("method", "override"),
    [
        ("auto", Override("head", bits=5)),
        ("auto", Override("head", redundancy=0.5)),
        ("gptq", Override("head", bits=1)),
        ("gptq", Override("head", redundancy=2.0)),
    ],
)
def test_override_that_cannot_be_names_its_pattern(method: str, override: Override) -> None:
    with pytest.raises(ConfigError, match=r"override of 'head': (bits|redundancy)"):
        CompileConfig(method=method, overrides=(override,))
