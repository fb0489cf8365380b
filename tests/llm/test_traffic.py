"""What a decoder reads and computes for a token, against models made by hand with known counts."""

import itertools
import math
import sys

import numpy as np
import openvino as ov
import pytest
from conftest import REPO
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

sys.path.insert(0, str(REPO / "llm-workload"))

import traffic
from runtimes import only_last_logits

from harness.roofline import Roofline

DEMO = REPO / "llm-workload/smollm2-135m-instruct-ov/openvino_model.xml"
HEADS, HEAD_SIZE, HIDDEN, VOCABULARY, GROUP = 2, 32, 64, 100, 32
MATRICES = 4 * HIDDEN * HIDDEN  # query, key, value, output
HEAD = VOCABULARY * HIDDEN
SEEDS = itertools.count()


def stored(rows: int, columns: int, kind: str):
    """A constant matrix; of integers, with a scale and zero point per row (u4, i4: group)."""
    random = np.random.default_rng(
        next(SEEDS)
    )  # OpenVINO makes one of layers with the same weights
    values = random.standard_normal((rows, columns)).astype(np.float32)
    if kind == "f32":
        return op.constant(values)
    grouped = [rows, columns // GROUP, GROUP] if kind in ("u4", "i4") else [rows, columns]
    element = {"u8": ov.Type.u8, "i8": ov.Type.i8, "u4": ov.Type.u4, "i4": ov.Type.i4}[kind]
    packed = random.integers(
        0, 127, rows * columns * element.bitwidth // 8, np.int8 if kind == "i8" else np.uint8
    )
    whole = op.convert(op.constant(ov.Tensor(packed, ov.Shape(grouped), element)), "f16")
    if kind.startswith("u"):
        # Drawn too, as the plugin leaves out zero points that are all the same.
        zeros = random.integers(0, 127, math.prod(grouped[:-1]) * element.bitwidth // 8, np.uint8)
        zero = ov.Tensor(zeros, ov.Shape([*grouped[:-1], 1]), element)
        whole = op.subtract(whole, op.convert(op.constant(zero), "f16"))
    whole = op.multiply(whole, op.constant(np.full([*grouped[:-1], 1], 0.01, np.float16)))
    if len(grouped) == 3:
        whole = op.reshape(whole, np.array([rows, columns]), False)
    return op.convert(whole, "f32")


def decoder(kind: str, *, tied: bool = False, last_only: bool = False) -> ov.Model:
    """A decoder of one layer, its state as optimum exports it."""
    ids = op.parameter([-1, -1], np.int64, name="input_ids")
    beams = op.parameter([-1], np.int32, name="beam_idx")
    mask = op.parameter([-1, 1, -1, -1], np.float32, name="mask")
    table = stored(VOCABULARY, HIDDEN, kind)
    hidden = op.gather(table, ids, op.constant(np.int64(0)))

    def heads(source):
        split = op.reshape(source, np.array([0, 0, HEADS, HEAD_SIZE]), True)
        return op.transpose(split, np.array([0, 2, 1, 3]))

    query, key, value = (
        heads(op.matmul(hidden, stored(HIDDEN, HIDDEN, kind), False, True)) for _ in range(3)
    )
    cached, sinks = [], []
    for name, new in (("past_key_values.0.key", key), ("past_key_values.0.value", value)):
        info = VariableInfo()
        info.data_shape, info.data_type = ov.PartialShape([-1, HEADS, -1, HEAD_SIZE]), ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        batch = op.gather(
            op.shape_of(ids, "i64"), op.constant(np.array([0])), op.constant(np.int64(0))
        )
        empty = op.broadcast(
            op.constant(np.float32(0)),
            op.concat([batch, op.constant(np.array([HEADS, 0, HEAD_SIZE]))], 0),
        )
        past = op.gather(op.read_value(empty, variable), beams, op.constant(np.int64(0)))
        cached.append(op.concat([past, new], 2))
        sinks.append(op.assign(cached[-1], variable))
    seen = op.transpose(
        op.scaled_dot_product_attention(query, *cached, mask), np.array([0, 2, 1, 3])
    )
    hidden = op.matmul(
        op.reshape(seen, np.array([0, 0, HIDDEN]), True), stored(HIDDEN, HIDDEN, kind), False, True
    )
    logits = op.matmul(hidden, table if tied else stored(VOCABULARY, HIDDEN, kind), False, True)
    model = ov.Model([op.result(logits)], sinks, [ids, beams, mask], "decoder")
    if last_only:
        only_last_logits(model)
    return model


def compiled(model, **properties):
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "kind, weight_bytes, row_bytes, scales_a_row, zero_bytes",
    [
        ("f32", 4, 4, 0, 0),
        ("f16", 2, 2, 0, 0),
        ("u8", 1, 1, 1, 1),
        ("i8", 1, 1, 1, 0),
        ("u4", 0.5, 0.5, HIDDEN // GROUP, 0.5),
        ("i4", 0.5, 0.5, HIDDEN // GROUP, 0),
    ],
)
def test_weights_are_counted_as_they_are_kept(
    kind, weight_bytes, row_bytes, scales_a_row, zero_bytes, tied, tmp_path
):
    model = decoder("f32" if kind == "f16" else kind, tied=tied)
    if kind == "f16":
        ov.save_model(model, tmp_path / "half.xml", compress_to_fp16=True)  # as export.py does
        model = ov.Core().read_model(tmp_path / "half.xml")
    rows = 4 * HIDDEN + VOCABULARY
    expected = rows * HIDDEN * weight_bytes + rows * scales_a_row * (4 + zero_bytes)
    counted = traffic.weight_bytes_per_step(compiled(model))
    assert (
        0 <= counted - expected <= HIDDEN * max(row_bytes, 4)
    )  # the rest is the row of the embedding table


def test_products_attention_and_head_are_counted_in_flop():
    model = decoder("u8")
    counted = traffic.count(model, compiled(model))
    assert (counted.body_flop_per_token, counted.head_flop_per_token) == (2 * MATRICES, 2 * HEAD)
    assert counted.attention_flop_per_past_token == 4 * HEADS * HEAD_SIZE


def test_a_sliced_head_counts_for_one_position_of_the_prompt():
    whole, sliced = (
        traffic.count(m, compiled(m)) for m in (decoder("f32"), decoder("f32", last_only=True))
    )
    assert not whole.logits_of_last_only and sliced.logits_of_last_only
    difference = traffic.prefill_flop(whole, 7, 3) - traffic.prefill_flop(sliced, 7, 3)
    assert difference == 3 * 6 * 2 * HEAD
    attention = 7 * 8 / 2 * 4 * HEADS * HEAD_SIZE
    assert traffic.prefill_flop(sliced, 7) == 7 * 2 * MATRICES + 2 * HEAD + attention


@pytest.mark.parametrize(
    "requested, of_a_head",
    [
        ({"KV_CACHE_PRECISION": "f32"}, 4 * HEAD_SIZE),
        ({"KV_CACHE_PRECISION": "f16"}, 2 * HEAD_SIZE),
        ({"KV_CACHE_PRECISION": "u8"}, HEAD_SIZE + 8),
        ({"KV_CACHE_PRECISION": "bf16"}, 4 * HEAD_SIZE),  # computed in f32, and so kept
        (
            {"KV_CACHE_PRECISION": "u8", "KEY_CACHE_GROUP_SIZE": 16, "VALUE_CACHE_GROUP_SIZE": 16},
            HEAD_SIZE + 16,
        ),
    ],
)
def test_the_cache_is_counted_in_the_precision_in_force(requested, of_a_head):
    model = decoder("f32")
    assert traffic.kv_bytes_per_token(model, compiled(model, **requested)) == 2 * HEADS * of_a_head


def test_what_has_no_weights_or_no_state_is_refused():
    rows = op.parameter([-1, HIDDEN], np.float32)
    model = ov.Model(
        [op.result(op.matmul(rows, stored(HIDDEN, HIDDEN, "f32"), False, True))], [rows], "product"
    )
    with pytest.raises(ValueError, match="no key-value cache"):
        traffic.count(model, compiled(model))
    empty = ov.Model([op.result(op.relu(rows))], [rows], "relu")
    with pytest.raises(ValueError, match="shows none"):
        traffic.weight_bytes_per_step(compiled(empty))


def test_shares_are_bytes_and_operations_over_the_roof():
    demand = traffic.Traffic(1000, 10.0, 200, 50, 4, True)
    assert traffic.decode_bytes_per_step(demand, 2, 30) == 1000 + 2 * 30 * 10
    assert traffic.prefill_flop(demand, 3) == 3 * 200 + 50 + 6 * 4
    roofs = Roofline(read_bandwidth_bytes_per_s=6400, peak_gemm_flop_per_s=1348, took_s=0.0)

    def used(*step_s):
        samples = {
            "time_to_first_token_s": [[2.0]],
            "time_per_output_token_s": [list(step_s)],
        }
        return traffic.utilization(demand, roofs, samples, 3, 54, 2)  # mean context 3 + 54 / 2

    found, line = used(0.5)
    assert found == {"mfu": [[pytest.approx(0.5)]], "mbu": [[pytest.approx(0.5)]]}
    assert "more or faster cores" in line
    found, line = used(0.3)
    assert found["mbu"] == [[pytest.approx(1600 / 0.3 / 6400)]] and "faster memory" in line
    assert set(used()[0]) == {"mfu"}  # one token: nothing was decoded


def test_the_demo_model_against_a_count_of_its_own():
    if not DEMO.is_file():
        pytest.skip("no demo model: ./run.sh --prepare exports it")
    hidden, inner, layers, heads, kv_heads, size, words = (
        576,
        1536,
        30,
        9,
        3,
        64,
        49152,
    )  # SmolLM2-135M's config.json
    of_layer = {
        "q": (hidden, hidden),
        "k": (kv_heads * size, hidden),
        "v": (kv_heads * size, hidden),
        "o": (hidden, hidden),
    }
    of_layer |= {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    body = layers * sum(rows * columns for rows, columns in of_layer.values())
    rows = layers * sum(rows for rows, _ in of_layer.values()) + words
    model = ov.Core().read_model(DEMO)
    counted = traffic.count(model, compiled(model, KV_CACHE_PRECISION="u8"))
    assert (counted.body_flop_per_token, counted.head_flop_per_token) == (
        2 * (body + size // 2),
        2 * words * hidden,
    )  # 32: of RoPE
    assert counted.attention_flop_per_past_token == layers * 4 * heads * size
    assert counted.weight_bytes_per_step == pytest.approx(
        body + words * hidden + rows * 5, rel=1e-4
    )  # f32 scale, u8 zero point
    assert counted.weight_bytes_per_step == pytest.approx(
        DEMO.with_suffix(".bin").stat().st_size, rel=0.02
    )
    assert counted.kv_bytes_per_token == layers * 2 * kv_heads * (size + 8)
