"""Products of one input are joined without a change of any number."""

import sys

import numpy as np
import openvino as ov
import pytest
from conftest import REPO
from openvino import opset13 as opset

sys.path.insert(0, str(REPO / "llm-workload"))

WIDTH, GROUP = 128, 64


def decompressed(rows: int, bits: int, seed: int):
    """Weights [rows, WIDTH] as NNCF stores them: 8 bits by row, 4 bits by row and group."""
    draw = np.random.default_rng(seed)
    shape, scales = ([rows, WIDTH], [rows, 1])
    if bits == 4:
        shape, scales = [rows, WIDTH // GROUP, GROUP], [rows, WIDTH // GROUP, 1]
    element = ov.Type.u8 if bits == 8 else ov.Type.u4

    def integers(shape):
        tensor = ov.Tensor(element, ov.Shape(shape))
        tensor.data[:] = draw.integers(0, 256, tensor.data.shape, np.uint8)
        return opset.convert(ov.op.Constant(tensor), "f16")

    centred = opset.subtract(integers(shape), integers(scales))
    scale = opset.constant((draw.random(scales) * 0.01).astype(np.float16))
    weights = opset.multiply(centred, scale)
    if bits == 4:
        weights = opset.reshape(weights, opset.constant([rows, WIDTH]), False)
    return opset.convert(weights, "f32")


def model_of(sizes: list[int], bits: list[int]) -> ov.Model:
    x = opset.parameter([-1, WIDTH], np.float32, name="x")
    weights = [decompressed(size, b, seed) for seed, (size, b) in enumerate(zip(sizes, bits))]
    products = [opset.matmul(x, each, False, True) for each in weights]
    return ov.Model([opset.relu(product) for product in products], [x])


def products(model: ov.Model) -> int:
    return sum(node.get_type_name() == "MatMul" for node in model.get_ops())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sizes", [[64, 16, 32], [48, 48]], ids=str)
def test_joined_products_give_the_same_numbers(bits, sizes):
    from projections import fuse_projections

    model = model_of(sizes, [bits] * len(sizes))
    x = np.random.default_rng(9).standard_normal((5, WIDTH), np.float32)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    before = list(ov.compile_model(model.clone(), "CPU", exact)(x).values())
    assert fuse_projections(model) == 1 and products(model) == 1
    after = list(ov.compile_model(model, "CPU", exact)(x).values())
    assert [each.shape for each in after] == [(5, size) for size in sizes]
    for ours, theirs in zip(after, before):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_products_with_weights_of_different_kinds_stay():
    from projections import fuse_projections

    model = model_of([64, 16], [8, 4])
    assert fuse_projections(model) == 0 and products(model) == 2


def test_the_demo_model_has_four_products_per_layer():
    """Queries, keys and values; attention's output; gate and up; down. And the head."""
    layers = 30
    model = ov.Core().read_model(REPO / "llm-workload/smollm2-135m-instruct-ov/openvino_model.xml")
    joined = [node for node in model.get_ops() if node.get_type_name() == "VariadicSplit"]
    widths = sorted(
        sorted(port.get_partial_shape()[-1].get_length() for port in node.outputs())
        for node in joined
    )
    assert widths == [[192, 192, 576]] * layers + [[1536, 1536]] * layers
