"""`bench wire`: every codec on the code spikes of real images, beside their entropy.

The entropy that payloads are compared with is the lowest of all models stated in
`splitcore.codec.entropy`, each fitted to the very samples that are coded: no codec could know that
much beforehand. The bundle's own context model is among them, which never saw the samples; the one
fitted to them is left out where they are too few. Payload bits are whole bytes, packets' envelopes
are not in them. Beside samples alone stand groups of them that share a payload, as `edge --group`
sends them, in random order: images lie in order of class, and no codec should gain by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lava_edge import netx_file
from pipeline import baseline_rows, images
from pipeline.baseline_rows import Row
from pipeline.codes import code_of
from pipeline.console import progress_bar
from pipeline.payloads import GROUP, grouped_bits
from splitcore.bundle import Bundle, Manifest, open_bundle
from splitcore.codec import context, context_fit, entropy, registry
from splitcore.codec.codec import Codec
from splitcore.codec.context import CodeContext
from training.data.dataset import evenly

FP32_BITS = 32
SPEED_SHAPE = (4, 8, 16, 16)  # 8,192 bits
SPEED_RATE = 0.2
SPEED_SAMPLES = 50

CodeSource = Callable[[Bundle, str | None, int], tuple[str, np.ndarray]]


def run(
    bundles: list[Path],
    *,
    samples: int = 1000,
    data: str | None = None,
    source: CodeSource | None = None,
    baselines: Sequence[Path] = (),
) -> dict[str, Any]:
    """Measure bundles on up to `samples` test images each; `source` gives their code spikes.

    baselines: files of the `baselines` command; those at a bundle's cut stand beside it.
    """
    beside = [baseline_rows.load(path) for path in baselines]
    source = source or codes
    measured = []
    for path in bundles:
        bundle = open_bundle(path)
        name, code_ntchw = source(bundle, data, samples)
        known = context.of_bundle(bundle)
        row = measure_codes(code_ntchw, bundle.manifest, known)
        at_its_cut = [each for each in beside if each.content.stands_beside(bundle.manifest)]
        rivals = [
            _rival(each, bundle.manifest, row["chosen"]["payload_bits_mean"])
            for loaded in baseline_rows.told_apart(at_its_cut, bundle.manifest)
            for each in loaded.content.rows
            if each.kind == "split"
        ]
        measured.append(
            {
                "bundle": str(path),
                "data": name,
                "accuracy": bundle.manifest.accuracy,
                **row,
                "baselines": rivals,
            }
        )
    return {"bundles": measured, "speed_8192_bits": speed()}


def _rival(row: Row, manifest: Manifest, bits: float) -> dict[str, Any]:
    """A baseline's accuracy and bits on all test images, and how many times ours they are."""
    return {
        "name": row.name,
        "accuracy": row.test.accuracy,
        "points_above": 100 * (row.test.accuracy - manifest.accuracy),
        "payload_bits_mean": row.test.payload_bits_mean,
        "times_our_bits": _ratio(row.test.payload_bits_mean, bits),
    }


def codes(bundle: Bundle, data: str | None, samples: int) -> tuple[str, np.ndarray]:
    """Name of the data, and the code uint8 (N, T, C, H, W) of so many of its test images."""
    graph = netx_file.of_bundle(bundle)
    chosen = images.load(bundle, data, None)
    frames = chosen.frames_ntchw[evenly(len(chosen), samples)]
    with progress_bar() as progress:
        task = progress.add_task("code spikes", total=len(frames))
        found = code_of(graph, frames, lambda count: progress.advance(task, count))
    return chosen.data, found


def measure_codes(code_ntchw: np.ndarray, manifest: Manifest, known: CodeContext) -> dict[str, Any]:
    """Every usable codec, the choice among them and the entropies, on these code spikes."""
    again = entropy.refitted(code_ntchw)
    own = None if known.model is None else entropy.ideal_bits(code_ntchw, known.model)
    bounds = entropy.entropies(code_ntchw)
    if again.is_bound:
        bounds["trained"] = again.bits
    if own is not None:
        bounds["trained, on other images"] = own
    best_model = min(bounds, key=lambda name: bounds[name])
    sizes = {
        "entropy_bits_mean": bounds[best_model],
        "raw_spike_bits": int(np.prod(manifest.spike_shape)),
        "feature_bits_fp32": FP32_BITS * int(np.prod(manifest.feature_shape)),
    }
    registry.warm(known)
    rows, lengths = [], []
    usable = [codec for codec in registry.codecs() if codec.usable(known)]
    with progress_bar() as progress:
        task = progress.add_task("codecs", total=len(usable))
        for codec in usable:
            row, payload_bits = _measure(codec, code_ntchw, known, sizes)
            rows.append(row)
            lengths.append(payload_bits)
            progress.advance(task)
    return {
        "samples": len(code_ntchw),
        "steps": manifest.steps,
        "code_shape": list(manifest.code_shape),
        "firing_rate": float(code_ntchw.mean()),
        "entropy_model": best_model,
        "entropy_bits_by_model": bounds,
        "bundle_model_bits_mean": own,
        "refitted_bits_mean": again.bits,
        "refitted_flattery_bits": again.flattery_bits,
        "codecs": rows,
        "chosen": _chosen(usable, np.array(lengths), code_ntchw, known, sizes),
        "grouped": _grouped(code_ntchw, known, sizes),
    }


def _measure(
    codec: Codec, code_ntchw: np.ndarray, known: CodeContext, sizes: dict[str, float]
) -> tuple[dict[str, Any], np.ndarray]:
    encode_s, decode_s, bits, mismatched = [], [], [], 0
    for code_tchw in code_ntchw:
        began = time.perf_counter()
        payload = registry.encode(codec, code_tchw, known)
        encoded = time.perf_counter()
        decoded = registry.decode(codec.id, payload, known)
        decode_s.append(time.perf_counter() - encoded)
        encode_s.append(encoded - began)
        bits.append(8 * len(payload))
        mismatched += int((decoded != code_tchw).sum())
    mean = float(np.mean(bits))
    row = {
        "codec": codec.name,
        "payload_bits_mean": mean,
        **sizes,
        "ratio_to_entropy": _ratio(mean, sizes["entropy_bits_mean"]),
        "encode_us": 1e6 * float(np.median(encode_s)),
        "decode_us": 1e6 * float(np.median(decode_s)),
        "mismatched_spikes": mismatched,
    }
    return row, np.array(bits)


def _chosen(
    usable: list[Codec],
    bits_by_codec: np.ndarray,
    code_ntchw: np.ndarray,
    known: CodeContext,
    sizes: dict[str, float],
) -> dict[str, Any]:
    """What travels: the shortest payload of each sample, and of each step where steps travel."""
    picked = bits_by_codec.argmin(axis=0)
    counts = np.bincount(picked, minlength=len(usable))
    encode_s, step_bits = [], 0
    for code_tchw in code_ntchw:
        began = time.perf_counter()
        registry.encode_best(code_tchw, known)
        encode_s.append(time.perf_counter() - began)
        for step in range(len(code_tchw)):
            now, past = code_tchw[step : step + 1], code_tchw[:step]
            step_bits += 8 * len(registry.encode_best(now, known, past)[1])
    mean = float(bits_by_codec.min(axis=0).mean())
    return {
        "codec": usable[int(counts.argmax())].name,
        "samples_by_codec": {
            codec.name: int(count) for codec, count in zip(usable, counts, strict=True)
        },
        "payload_bits_mean": mean,
        "payload_bits_mean_by_step": step_bits / len(code_ntchw),
        **sizes,
        "ratio_to_entropy": _ratio(mean, sizes["entropy_bits_mean"]),
        "compression_ratio": _ratio(sizes["feature_bits_fp32"], mean),
        "encode_us": 1e6 * float(np.median(encode_s)),
    }


def _grouped(code_ntchw: np.ndarray, known: CodeContext, sizes: dict[str, float]) -> dict[str, Any]:
    mean = grouped_bits(code_ntchw, known)
    return {
        "samples": GROUP,
        "payload_bits_mean": mean,
        "ratio_to_entropy": _ratio(mean, sizes["entropy_bits_mean"]),
    }


def _ratio(value: float, base: float) -> float | None:
    """None where there is nothing to compare with, as in a code that never fires."""
    return value / base if base > 0 else None


def speed() -> dict[str, dict[str, float]]:
    """Median microseconds of each codec on independent spikes, 8,192 bits at a rate of 0.2."""
    rng = np.random.default_rng(0)
    code = (rng.random((SPEED_SAMPLES, *SPEED_SHAPE)) < SPEED_RATE).astype(np.uint8)
    rates = (SPEED_RATE,) * SPEED_SHAPE[1]
    known = CodeContext(SPEED_SHAPE, rates, context_fit.fit(code[:8]))
    registry.warm(known)
    found = {}
    for codec in registry.codecs():
        row, _ = _measure(codec, code, known, {"entropy_bits_mean": 0})
        found[codec.name] = {key: row[key] for key in ("encode_us", "decode_us")}
    return found


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    lines = []
    for row in result["bundles"]:
        chosen = row["chosen"]
        lines.append(
            f"{row['bundle']}: {row['samples']} {row['data']} images, "
            f"entropy {chosen['entropy_bits_mean']:.1f} bits by {row['entropy_model']}"
        )
        lines += [
            f"  {codec['codec']:<12} {codec['payload_bits_mean']:>10.1f} bits, "
            f"{_shown(codec['ratio_to_entropy'])} of the entropy, "
            f"{codec['encode_us']:.0f} + {codec['decode_us']:.0f} µs"
            for codec in row["codecs"]
        ]
        lines.append(
            f"  chosen       {chosen['payload_bits_mean']:>10.1f} bits (mostly {chosen['codec']}), "
            f"{_shown(chosen['ratio_to_entropy'])} of the entropy; raw code "
            f"{chosen['raw_spike_bits']:,} bits, fp32 features {chosen['feature_bits_fp32']:,}"
        )
        grouped = row["grouped"]
        lines.append(
            f"  {grouped['samples']} together  {grouped['payload_bits_mean']:>10.1f} bits each, "
            f"{_shown(grouped['ratio_to_entropy'])} of the entropy"
        )
        lines += [
            f"  {rival['name']}: {_shown(rival['times_our_bits'])} times our bits "
            f"({rival['payload_bits_mean']:.1f}), {rival['points_above']:+.2f} points of accuracy"
            for rival in row["baselines"]
        ]
    slowest = max(max(times.values()) for times in result["speed_8192_bits"].values())
    lines.append(f"slowest codec on 8,192 bits: {slowest:.0f} µs")
    return "\n".join(lines)


def _shown(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3f}"
