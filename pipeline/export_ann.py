"""An ordinary network as a small folder: its weights, for others to begin with, learn from or be
held against without training it again.

    checkpoint.safetensors   a run without its optimiser, kernels in half precision
    card.md                  data, network, accuracy of these very weights, how to make it again

Copied to `runs/NAME` it is that run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import card
from splitcore.bundle import CARD
from splitcore.errors import ConfigError
from splitcore.place import require_writable
from splitcore.whole_folder import whole_folder
from training import checkpoint, evaluate
from training.checkpoint import Checkpoint
from training.data.dataset import Dataset
from training.teacher import Teacher


def export(found: Checkpoint, dataset: Dataset, out: Path) -> dict[str, Any]:
    """Write the folder whole or not at all; an older one there is replaced.

    The accuracy is measured here, on all test images, with the weights as written. Raises
    ConfigError where training has not ended, or `out` is something else, DataError when the images
    are not those that the network was trained for.
    """
    found.require_images(dataset)
    found.require_finished()
    if out.exists() and not ((out / checkpoint.FILE).is_file() and (out / CARD).is_file()):
        raise ConfigError(f"{out}: exists and is no exported ANN; choose another place")
    require_writable(out.resolve())
    with whole_folder(out) as scratch:
        checkpoint.save_weights(scratch / checkpoint.FILE, found)
        written = checkpoint.load(scratch / checkpoint.FILE)
        scores = Teacher([written.network()], "cpu")(dataset.test.images)
        accuracy = evaluate.accuracy(scores.argmax(1).numpy(), dataset.test.labels_n)
        (scratch / CARD).write_text(_card(written, dataset, accuracy), encoding="utf-8")
    return {
        "ann": str(out),
        "data": dataset.name,
        "accuracy": accuracy,
        "test_samples": len(dataset.test),
    }


def summary(result: dict[str, Any]) -> str:
    """The result in a plain line."""
    return (
        f"{result['ann']}: an ordinary network, {100 * result['accuracy']:.2f} % of "
        f"{result['test_samples']} {result['data']} test images right"
    )


def _card(found: Checkpoint, dataset: Dataset, accuracy: float) -> str:
    config = found.config
    rows = (
        ("data", f"{dataset.name}, {len(found.classes)} classes"),
        ("network", f"{config.model.backbone}, width {config.model.width}, ReLU"),
        (
            "accuracy",
            card.accuracy_text(accuracy, len(dataset.test), "the weights in this folder"),
        ),
        ("epochs", str(found.epoch)),
        ("seed", str(config.recipe.seed)),
    )
    plain = config.model_dump(mode="json")
    return (
        f"# {config.name}\n\nAn ordinary network: what spiking ones begin with, learn from and are "
        f"held against.\n\n{card.table(rows)}\n\n"
        "To train what stands on it without training it again:\n\n"
        f"    cp -r {config.name} runs/{config.name}\n\n"
        f"To make it again:\n\n{card.commands(plain)}\n\n"
        f"{card.recipe(plain)}"
    )
