"""From a checkpoint to a bundle: lower, measure on real images, write, prove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from lava_edge.export import export_bundle
from pipeline import card, export_ann, trained_on
from pipeline.console import progress_bar
from splitcore.bundle import Bundle, FileRecord, Manifest, Probe, require_place
from splitcore.codec import context_fit
from splitcore.codec.context import CodeContext
from splitcore.codec.registry import encode_best
from training import checkpoint, evaluate
from training.allocator import keep_freed_memory
from training.checkpoint import Checkpoint
from training.data.dataset import Dataset, Split
from training.evaluate import Answers
from training.model import SplitModel

PROBE_SAMPLES = 16


def export(
    found: Checkpoint, dataset: Dataset, out: Path, progress: Progress | None = None
) -> Bundle:
    """Write the bundle of a checkpoint; its accuracy is measured here, on all test images.

    progress: where to show how far that is. Raises ConfigError where training has not ended,
    BundleError or UsageError where nothing can be written at `out`, DataError when the images are
    not those that the model was trained for.
    """
    found.require_images(dataset)
    found.require_finished()
    require_place(out)
    model, config = found.model(), found.config
    graph, tail = model.lower()
    progress = progress or Progress(disable=True)
    test = _answers(model, dataset.test, "test images", progress)
    code = _answers(model, dataset.train.some(context_fit.SAMPLES), "codes", progress).code_ntchw
    bits = config.model.input_bits
    probed = dataset.test.evenly(PROBE_SAMPLES)
    probe = Probe(
        frames=evaluate.levels(dataset.test.images[probed], bits),
        code_ntchw=test.code_ntchw[probed],
        scores_nk=test.scores_nk[probed],
        labels_n=dataset.test.labels_n[probed],
    )

    shape = (model.steps, *graph.output_shape)
    task = progress.add_task("context model", total=context_fit.regressions(shape))
    context_model = context_fit.fit(code, lambda: progress.advance(task))
    rates = tuple(float(rate) for rate in code.mean(axis=(0, 1, 3, 4), dtype=np.float64))
    coding = CodeContext(shape, rates, context_model)
    told = test.code_ntchw[dataset.test.evenly(card.TOLD_SAMPLES)]
    payload_bits = 8 * float(np.mean([len(encode_best(each, coding)[1]) for each in told]))
    layer_rates = evaluate.firing_rates(model, dataset.test.some(card.TOLD_SAMPLES).images)

    def describe(files: dict[str, FileRecord]) -> Manifest:
        return Manifest(
            name=config.name,
            backbone=config.model.backbone,
            split=config.split,
            steps=config.model.steps,
            input_shape=graph.input.shape,
            input_bits=bits,
            feature_shape=model.feature_shape,
            code_shape=graph.output_shape,
            code_rates=rates,
            classes=found.classes,
            data=dataset.name,
            accuracy=evaluate.accuracy(test.labels_n, dataset.test.labels_n),
            test_samples=len(dataset.test),
            training={
                "config": config.model_dump(mode="json"),
                "epochs": found.epoch,
                "data_digest": found.data_digest,
                "payload_bits_mean": payload_bits,
                "layer_rates": {
                    layer.name: rate for layer, rate in zip(graph.layers, layer_rates, strict=True)
                },
            },
            files=files,
        )

    return export_bundle(
        out,
        graph=graph,
        tail=tail,
        probe=probe,
        describe=describe,
        context_model=context_model,
        card=card.text,
    )


def _answers(model: SplitModel, split: Split, name: str, progress: Progress) -> Answers:
    task = progress.add_task(name, total=len(split))
    return evaluate.answers(model, split.images, done=lambda n: progress.advance(task, n))


def run(checkpoint_path: Path, *, out: Path, data: str | None) -> dict[str, Any]:
    """The export command; an ANN becomes a folder of its weights."""
    found = checkpoint.load(checkpoint_path)
    keep_freed_memory()
    dataset = trained_on.load(found.config, data)
    if found.config.model.neuron == "relu":
        return export_ann.export(found, dataset, out)
    with progress_bar() as progress:
        bundle = export(found, dataset, out, progress)
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "digest": bundle.digest,
        "data": manifest.data,
        "accuracy": manifest.accuracy,
        "test_samples": manifest.test_samples,
        "code_shape": list(manifest.code_shape),
        "steps": manifest.steps,
    }


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    if "ann" in result:
        return export_ann.summary(result)
    shape = "×".join(str(size) for size in (result["steps"], *result["code_shape"]))
    return (
        f"{result['bundle']}: code of {shape} spikes, {100 * result['accuracy']:.2f} % of "
        f"{result['test_samples']} {result['data']} test images right\ndigest: {result['digest']}"
    )
