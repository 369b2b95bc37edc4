"""A bundle's card: its manifest in words, for people who find the folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import yaml

from measure.interval import wilson_interval
from splitcore.bundle import Manifest
from training import config as configuration

TOLD_SAMPLES = 512  # test images over which bits and firing rates are taken


def text(manifest: Manifest) -> str:
    """Markdown: data, network, cut, accuracy, bits, firing rates, recipe, how to make it again."""
    known = manifest.training
    raw = math.prod(manifest.spike_shape)
    features = 32 * math.prod(manifest.feature_shape)
    told = min(TOLD_SAMPLES, manifest.test_samples)
    rows = [
        ("data", f"{manifest.data}, {len(manifest.classes)} classes"),
        ("network", f"{manifest.backbone}, T = {manifest.steps}, {_cut(manifest)}"),
        (
            "accuracy",
            accuracy_text(manifest.accuracy, manifest.test_samples, "the integers in these files"),
        ),
        ("code, T×C×H×W", "×".join(map(str, manifest.spike_shape))),
        ("raw bits an image", f"{raw:,}, {features / raw:,.4g} times below the features in fp32"),
    ]
    if bits := known.get("payload_bits_mean"):
        rows.append(("coded bits an image", f"{bits:,.1f}, mean over {told:,} test images"))
    code = sum(manifest.code_rates) / len(manifest.code_rates)
    rows.append(("code rate", f"{code:.4f} spikes a position and step"))
    if rates := known.get("layer_rates"):
        mean = sum(rates.values()) / len(rates)
        rows.append(
            (
                "edge rate",
                f"{mean:.4f} spikes a neuron and step, mean of {len(rates)} layers",
            )
        )
    rows.append(("seed", str(known["config"]["recipe"]["seed"])))
    return (
        f"# {manifest.name}\n\n{table(rows)}\n\n"
        f"To make it again, {_beginning(known['config'])}:\n\n"
        f"{commands(known['config'])}\n\n"
        "Other thread counts and processors add floats in another order while it trains, and give\n"
        "other weights of about the same accuracy; these integers give these spikes everywhere.\n\n"
        f"{recipe(known['config'])}"
    )


def _cut(manifest: Manifest) -> str:
    if manifest.training["config"]["bottleneck"] is None:
        return f"not cut: the code is what {manifest.split} fires"
    return f"cut behind {manifest.split}"


def accuracy_text(accuracy: float, samples: int, of: str) -> str:
    """Accuracy on test images with its interval, and of what exactly."""
    low, high = wilson_interval(accuracy, samples)
    return (
        f"{100 * accuracy:.2f} % of {samples:,} test images (95 % "
        f"interval {100 * low:.2f} … {100 * high:.2f} %), with {of}"
    )


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Facts and their names."""
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _beginning(config: dict[str, Any]) -> str:
    if digest := config.get("start_bundle"):
        return f"with the bundle it begins with, {config['start']} of digest {digest[:16]}…"
    return "with the configs it begins with beside it"


def commands(config: dict[str, Any]) -> str:
    """What makes it from the config of its name: a shipped one, or the block in the card."""
    name = config["name"]
    path = "training/configs/" if configuration.shipped(name).exists() else ""
    start = f" --start {config['start']}" if config.get("start_bundle") else ""
    return (
        f"    spikebottlenet train {path}{name}.yaml --data DATA{start}\n"
        f"    spikebottlenet export runs/{name} --data DATA --out {name}"
    )


def recipe(config: dict[str, Any]) -> str:
    """The whole config as a block."""
    return f"```yaml\n{yaml.safe_dump(config, sort_keys=False, default_flow_style=False)}```\n"
