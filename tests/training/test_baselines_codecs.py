"""What baselines send: bytes that decode to what training saw, and are charged in full."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.baselines import jpeg
from training.baselines.bottlenet import BottleNet, _tile, _untile
from training.baselines.bottlenetpp import BottleNetPlusPlus
from training.baselines.codec import FeatureCodec, squeeze, unsqueeze
from training.baselines.jpeg import JpegUpload
from training.baselines.one_bit import OneBit

CODECS = [
    lambda: BottleNet(12, 3, stride=2),
    lambda: BottleNet(12, 4, stride=1),
    lambda: BottleNet(12, 4, stride=4),
    lambda: BottleNetPlusPlus(12, 2, stride=1),
    lambda: BottleNetPlusPlus(12, 5, stride=2),
    lambda: BottleNetPlusPlus(12, 3, stride=4),
    lambda: OneBit(12, 6, stride=2),
    lambda: OneBit(12, 6, stride=4, kernel=7),
    lambda: OneBit(12, 3, stride=1),
]


@pytest.fixture(params=range(len(CODECS)))
def codec(request: pytest.FixtureRequest) -> FeatureCodec:
    torch.manual_seed(0)
    codec = CODECS[request.param]()
    codec.train()
    for _ in range(5):  # settle the norms
        codec(torch.rand(8, 12, 8, 8))
    return codec.eval()


def test_transmitted_features_equal_the_differentiable_ones(codec: FeatureCodec) -> None:
    features = torch.rand(5, 12, 8, 8)
    sent = codec.transmit(features)
    assert sent.features.shape == features.shape
    assert len(sent.payloads) == 5
    torch.testing.assert_close(sent.features, codec(features), rtol=1e-5, atol=1e-6)


def test_payload_alone_decides_what_arrives(codec: FeatureCodec) -> None:
    features = torch.rand(2, 12, 8, 8)
    code = codec.encoder(features)
    assert not torch.equal(code[0], code[1])
    first, second = codec.transmit(features).payloads
    assert first != second
    shape = tuple(code.shape[1:])
    assert not torch.equal(codec.unpack(first, shape), codec.unpack(second, shape))
    again = codec.pack(codec.encoder(features)[0].detach())
    assert again == first


def test_gradient_reaches_the_encoder_through_the_codec(codec: FeatureCodec) -> None:
    codec.train()
    codec(torch.rand(4, 12, 8, 8)).square().sum().backward()
    for parameter in codec.encoder.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert any(float(p.grad.abs().max()) > 0 for p in codec.encoder.parameters() if p.ndim > 1)


def test_bottlenet_passes_the_gradient_as_identity() -> None:
    code = torch.rand(2, 3, 4, 4).requires_grad_()
    BottleNet(6, 3).soften(code).sum().backward()
    assert code.grad is not None
    assert torch.equal(code.grad, torch.ones_like(code))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BottleNet(1, 1, stride=4),
        lambda: BottleNetPlusPlus(1, 1, stride=4),
        lambda: OneBit(1, 1, stride=4, kernel=7),
    ],
)
def test_a_code_of_one_position_sees_the_whole_map(make: Callable[[], FeatureCodec]) -> None:
    features = torch.rand(1, 1, 4, 4).requires_grad_()
    encoder = make().encoder.eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.ones_(module.weight)
            if module.bias is not None:  # a random one can hold BottleNet's ReLU at zero
                torch.nn.init.zeros_(module.bias)
    encoder(features).sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).all()


def test_bottlenet_loses_less_at_higher_quality() -> None:
    torch.manual_seed(0)
    code = torch.rand(4, 4, 8, 8)
    errors = [
        float((BottleNet(6, 4, quality=quality).soften(code) - code).abs().mean())
        for quality in (20, 95)
    ]
    assert 0 < errors[1] < errors[0]


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 4, 4), (5, 2, 3), (7, 1, 1)])
def test_tiles_of_a_picture_come_back_in_order(shape: tuple[int, int, int]) -> None:
    code = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(_untile(_tile(code), shape), code)


def test_one_bit_is_charged_at_most_its_bits_and_the_codec_id() -> None:
    torch.manual_seed(0)
    codec = OneBit(4, 16).eval()
    payloads = codec.transmit(torch.rand(3, 4, 8, 8)).payloads
    assert all(len(payload) <= 16 * 8 * 8 // 8 + codec.envelope_bytes for payload in payloads)


def test_one_bit_learns_from_training_codes_what_its_bits_repeat() -> None:
    """Four channels that say the same cost hardly more than one, once that is known."""
    codec = OneBit(1, 4).eval()
    truth = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 1, 8, 8))).float()
    code = truth.expand(-1, 4, -1, -1)

    def mean_bits() -> float:
        return float(np.mean([8 * (len(codec.pack(each)) - 1) for each in code[200:]]))

    assert mean_bits() > 0.5 * 256
    codec.observe(code[:200])
    assert mean_bits() < 0.3 * 256  # 64 of 256 are news
    packed = codec.pack(code[250])
    assert torch.equal(codec.unpack(packed, (4, 8, 8)), (code[250] > 0).float())


def test_one_bit_gradient_stops_outside_plus_minus_one() -> None:
    code = torch.tensor([-1.5, -0.5, 0.5, 1.5]).reshape(1, 1, 2, 2).requires_grad_()
    bits = OneBit(1, 1).eval().soften(code)
    bits.sum().backward()
    assert code.grad is not None
    assert bits.flatten().tolist() == [0, 0, 1, 1]
    assert code.grad.flatten().tolist() == [0, 1, 1, 0]


def test_bottlenetpp_charges_a_byte_a_value_where_nothing_can_be_squeezed() -> None:
    code = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    codec = BottleNetPlusPlus(4, 2)
    assert len(codec.pack(code)) == 32
    assert len(codec.pack(torch.zeros(2, 16, 16))) < 512


@given(st.binary(max_size=300), st.integers(1, 8))
def test_squeezed_bytes_come_back(raw: bytes, times: int) -> None:
    data = raw * times
    packed = squeeze(data)
    assert len(packed) <= len(data)
    assert unsqueeze(packed, len(data)) == data


@pytest.mark.parametrize("shape", [(8, 8), (32, 32, 3), (17, 5)])
@pytest.mark.parametrize("quality", [1, 20, 75, 95])
def test_jpeg_without_header_equals_a_whole_file(shape: tuple[int, ...], quality: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    payload = jpeg.compress(pixels, quality)
    assert len(payload) + jpeg.header_bytes(shape, quality) == len(stream.getvalue())
    want = np.asarray(Image.open(io.BytesIO(stream.getvalue())))
    assert np.array_equal(jpeg.decompress(payload, shape, quality), want)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_upload_changes_little_at_high_quality(channels: int) -> None:
    ramp = torch.linspace(0, 1, 16).expand(2, channels, 16, 16).contiguous()
    sent = JpegUpload(95).transmit(ramp)
    assert sent.features.shape == ramp.shape
    assert float((sent.features - ramp).abs().max()) < 0.05
    assert len(JpegUpload(5).transmit(ramp).payloads[0]) < len(sent.payloads[0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_bottlenet_sends_its_range_in_four_bytes_and_keeps_what_it_holds(scale: float) -> None:
    codec = BottleNet(4, 1, 1, quality=95)
    code = scale * torch.linspace(0.1003, 2.7007, 64).reshape(1, 8, 8)
    payload = codec.pack(code)
    assert (
        payload[:4]
        == np.array([0.1003 * scale, 2.7007 * scale]).clip(None, 65504).astype("<f2").tobytes()
    )
    got = codec.unpack(payload, (1, 8, 8))
    if scale <= 1:
        assert float((got - code).abs().max()) < 0.02 * scale
    assert torch.isfinite(got).all()
