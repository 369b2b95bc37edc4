"""The voltage decay of each block: as the config says; at the cut, as its neighbours."""

import pytest

from splitcore.errors import ConfigError
from splitcore.graph import DECAY_UNITY
from training import config


def _config(decay: object, split: str = "block3", **codec: float) -> config.Config:
    return config.parse(
        {
            "name": "decays",
            "model": {"backbone": "mobilenet_v1", "width": 8, "voltage_decay": decay},
            "bottleneck": {"split": split, "channels": 4, **codec},
            "recipe": {"epochs": 1},
        },
        "test",
    )


def test_each_block_decays_as_the_last_one_named_before_it() -> None:
    decays = {"stem": 0.25, "block4": 0.75, "block2": 0.5}
    edge, tail = _config(decays).build((3, 32, 32), 10).lower()
    found = {layer.name: layer.voltage_decay / DECAY_UNITY for layer in edge.layers}
    assert found.pop("stem.conv") == found.pop("block1.depthwise") == 0.25
    assert found.pop("block1.pointwise") == 0.25
    assert found.pop("encoder") == 0.5
    assert set(found.values()) == {0.5}
    assert {layer.voltage_decay / DECAY_UNITY for layer in tail.graph.layers} == {0.75}


def test_one_number_is_that_of_all_blocks() -> None:
    edge, tail = _config(0.75, "block13").build((3, 32, 32), 10).lower()
    layers = [*edge.layers, *tail.graph.layers]
    assert {layer.voltage_decay / DECAY_UNITY for layer in layers} == {0.75}
    assert layers[-1].name == "decoder"


def test_encoder_and_decoder_decay_as_the_bottleneck_says() -> None:
    slow_then_none = _config(0.5, encoder_decay=0.125, decoder_decay=1)
    edge, tail = slow_then_none.build((3, 32, 32), 10).lower()
    found = {layer.name: layer.voltage_decay for layer in (*edge.layers, *tail.graph.layers)}
    assert found.pop("encoder") == DECAY_UNITY // 8
    assert found.pop("decoder") == DECAY_UNITY
    assert set(found.values()) == {DECAY_UNITY // 2}


def test_decays_of_a_codec_that_is_not_there_are_refused() -> None:
    raw = _config(0.5, encoder_decay=0.125).model_dump()
    raw["bottleneck"].pop("channels")
    with pytest.raises(ConfigError, match=r"test: bottleneck\.channels: what is said of encoder"):
        config.parse(raw, "test")


@pytest.mark.parametrize(
    ("decay", "message"),
    [
        ({"block2": 0.5}, r"test: model\.voltage_decay: what is it from stem on"),
        ({"stem": 0.5, "block99": 0.5}, r"voltage_decay: mobilenet_v1 has no block 'block99'"),
        ({"stem": 1.5}, r"test: model\.voltage_decay"),
        ({}, r"test: model\.voltage_decay: what is it from stem on"),
        ("slow", r"test: model\.voltage_decay"),
    ],
)
def test_decays_that_make_no_sense_are_refused(decay: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(decay)
