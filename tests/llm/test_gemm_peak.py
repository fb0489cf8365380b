"""The peak of a matrix product by OpenVINO, prefill's roof."""

import math
import time

import numpy as np
import openvino as ov
import pytest

from harness import openvino_setup, roofline


@pytest.mark.alone
def test_the_product_is_no_slower_than_half_of_numpys(monkeypatch):
    monkeypatch.setattr(roofline, "GEMM_SIZE", 1024)
    matrix = np.ones((1024, 1024), np.float32)
    numpy_s = math.inf
    for _ in range(5):
        before = time.perf_counter()
        matrix @ matrix
        numpy_s = min(numpy_s, time.perf_counter() - before)
    measured = roofline.peak_gemm_flop_per_s(
        "CPU", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"}, "int8"
    )
    assert measured > 0.5 * 2 * 1024**3 / numpy_s


@pytest.mark.parametrize(
    "weight_format, precision", [("fp32", "f32"), ("int8", "u8"), ("int4", "u4")]
)
def test_the_products_weights_stay_packed_as_the_models_do(weight_format, precision):
    model = roofline.matrix_product((256, 256), weight_format)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = openvino_setup.layers_by_precision(compiled)
    assert layers == {("FullyConnected", precision): 1}


@pytest.mark.alone
def test_both_roofs_are_measured_within_seconds():
    found = roofline.measure("CPU", {"PERFORMANCE_HINT": "LATENCY"}, 1, "int8")
    assert 1e9 < found.read_bandwidth_bytes_per_s < 2e12 and found.peak_gemm_flop_per_s > 1e9
    assert 0 < found.took_s < 30
