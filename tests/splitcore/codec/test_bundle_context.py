import numpy as np
import pytest

from splitcore.bundle import CONTEXT, MANIFEST, open_bundle, write_bundle
from splitcore.codec import context, context_model
from splitcore.errors import BundleError
from tests import tiny_bundle
from tests.splitcore.codec.contexts import random_model


def with_context(folder, write_context):
    """The tiny bundle, written again with a context model beside it."""
    plain = tiny_bundle.make_bundle(folder / "plain")
    return write_bundle(
        folder / "whole",
        lambda files: plain.manifest.model_copy(update={"files": files}),
        lambda path: path.write_bytes(plain.edge_path.read_bytes()),
        lambda path: path.write_bytes(plain.cloud_path.read_bytes()),
        plain.probe(),
        write_context,
    )


def test_of_bundle_with_model_has_it(tmp_path):
    shape = tiny_bundle.make_bundle(tmp_path / "tiny").manifest.spike_shape
    model = random_model(shape, 1)
    bundle = with_context(tmp_path, lambda path: context_model.save(model, path))
    known = context.of_bundle(open_bundle(bundle.path))
    assert known.model is not None
    np.testing.assert_array_equal(known.model.before_pkcc, model.before_pkcc)
    assert known.rates == bundle.manifest.code_rates


def test_of_bundle_without_model_has_none(tmp_path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny")
    assert bundle.context_path is None
    assert context.of_bundle(bundle).model is None


def test_of_bundle_model_of_other_shape_raises_bundle_error(tmp_path):
    model = random_model((1, 1, 2, 2), 1)
    bundle = with_context(tmp_path, lambda path: context_model.save(model, path))
    with pytest.raises(BundleError, match=CONTEXT):
        context.of_bundle(bundle)


def test_of_bundle_code_beyond_any_size_raises_bundle_error(tmp_path):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny")
    manifest = bundle.manifest.model_copy(update={"steps": 1024, "code_shape": (3, 128, 128)})
    (bundle.path / MANIFEST).write_text(manifest.model_dump_json())
    with pytest.raises(BundleError, match=MANIFEST):
        context.of_bundle(open_bundle(bundle.path))


def test_open_bundle_changed_context_model_raises_bundle_error(tmp_path):
    bundle = with_context(tmp_path, lambda path: path.write_bytes(b"model"))
    (bundle.path / CONTEXT).write_bytes(b"muddle")
    with pytest.raises(BundleError, match=CONTEXT):
        open_bundle(bundle.path)


def test_write_bundle_context_model_that_fails_leaves_nothing(tmp_path):
    def fail(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        with_context(tmp_path, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
