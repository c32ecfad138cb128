"""Hash networks, bits, and their layout in bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.bitstatistics import bit_statistics
from advreg.hashing.codes import HashNetwork, bits_of, outputs_of, relaxed
from advreg.hashing.packing import CodeFormat
from advreg.models import build_model


def test_the_first_bit_is_the_first_byte_s_most_significant():
    bits = np.zeros((1, 16), dtype=bool)
    bits[0, [0, 15]] = True
    layout = CodeFormat(16)
    assert layout.pack(bits).tolist() == [[128, 1]]
    assert np.array_equal(layout.unpack(layout.pack(bits)), bits)
    assert "most significant" in layout.describe()


def test_twelve_bits_are_padded_with_zeros_and_say_so():
    layout = CodeFormat(12)
    codes = layout.pack(torch.ones(2, 12, dtype=torch.bool))
    assert codes.tolist() == [[255, 240]] * 2
    assert layout.unpack(codes).shape == (2, 12)
    assert "last 4 bits are always 0" in layout.describe()
    with pytest.raises(DataError, match="beyond the 12"):
        layout.check(np.array([[255, 255]], dtype=np.uint8))


def test_other_numbers_of_bits_are_refused():
    for bits in (0, 7, 20, 264, True, 16.0):
        with pytest.raises(ConfigurationError, match="multiple of 8 up to 256, or 12"):
            CodeFormat(bits)


def test_what_is_no_code_is_refused():
    layout = CodeFormat(16)
    for bits in (np.zeros((2, 16)), np.zeros((2, 8), dtype=bool)):
        with pytest.raises(DataError, match="give bool"):
            layout.pack(bits)
    with pytest.raises(DataError, match="uint8 of shape"):
        layout.check(np.zeros((2, 3), dtype=np.uint8))


def test_ties_are_zeros_and_decided_before_the_sigmoid_rounds():
    outputs = torch.tensor([1.0, 0.0, -0.0, -1.0, 1e-9, -1e-9])
    assert relaxed(outputs)[4] == relaxed(outputs)[5] == 0.5
    assert bits_of(outputs).tolist() == [True, False, False, False, True, False]
    with pytest.raises(DataError, match="not a number"):
        bits_of(torch.tensor([float("nan")]))


@pytest.mark.parametrize("name", ["convnet", "resnet20", "vgg11"])
def test_the_classifier_gives_way_to_the_bits(name):
    backbone = build_model(name, 10, 1, 32)
    network = HashNetwork(backbone, 24)
    outputs = network(torch.rand(2, 1, 32, 32))
    assert outputs.shape == (2, 24)
    assert network.backbone.linear.out_features == 24
    assert backbone.linear.out_features == 10  # the given network stays as it is
    assert network.input_range == (0.0, 1.0)
    assert set(network.backbone.state_dict()) == set(backbone.state_dict())
    # At the start the bits are undecided, not saturated.
    assert 0.05 < outputs.std() < 5


def test_a_classifier_that_is_not_the_last_layer_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 3)
            self.auxiliary = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.out(inputs)

    with pytest.raises(ConfigurationError, match="name its last linear layer"):
        HashNetwork(Odd(), 8)(torch.rand(2, 4))
    assert HashNetwork(Odd(), 8, "out")(torch.rand(2, 4)).shape == (2, 8)
    with pytest.raises(ConfigurationError, match="no linear layer 'nowhere'"):
        HashNetwork(Odd(), 8, "nowhere")
    with pytest.raises(ConfigurationError, match="no linear layer whose place"):
        HashNetwork(nn.Conv2d(1, 1, 1), 8)


def test_encoding_is_in_evaluation_mode_and_leaves_the_network_as_it_was():
    network = HashNetwork(build_model("convnet", 10, 1, 8), 16)
    images = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    codes = network.encode(images / 255)
    outputs = outputs_of(network, images, batch_size=3)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert np.array_equal(codes, network.format.pack(bits_of(outputs)))
    with pytest.raises(DataError, match="no images"):
        outputs_of(network, images[:0])


def test_bit_statistics_by_hand():
    # Bit 0 is balanced, bit 1 its opposite, bit 2 always 1, bit 3 independent of bit 0.
    signs = torch.tensor([[1, -1, 1, 1], [1, -1, 1, -1], [-1, 1, 1, 1], [-1, 1, 1, -1]])
    found = bit_statistics(signs * 30.0)
    assert found["balance"] == [0.5, 0.5, 1.0, 0.5]
    assert found["worst_balance"] == 1.0
    assert found["constant_bits"] == 1
    assert found["distinct_codes"] == 4
    # Of six pairs: the opposite and the three with the constant bit 1, the other two 0.
    assert found["correlation"] == pytest.approx(4 / 6)
    assert found["entropy"] == pytest.approx(0, abs=1e-9)
    assert found["mean_confidence"] == pytest.approx(1)
    assert found["confidence"][0] == pytest.approx(6 / 16)
    undecided = bit_statistics(torch.full((2, 4), 1e-6))
    assert undecided["entropy"] == pytest.approx(1)
    assert undecided["mean_confidence"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="two images"):
        bit_statistics(torch.zeros(1, 4))
