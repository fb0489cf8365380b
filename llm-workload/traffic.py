"""What a decoder reads and computes per token, counted in the model: the work behind MFU and MBU.

What the CPU plugin keeps in memory is not what the file has, so weights are counted in its
execution graph (CompiledModel.get_runtime_model()). With OpenVINO 2026.4 on a CPU with AVX2: u8 and
u4 weights and their zero points stay packed, scales become f32, and a decoder's f16 weights stay
f16 even where it computes in f32 (DnnlFCPrimitive::useWeightsDecompressionImpl in the plugin's
dnnl_fullyconnected_primitive.cpp). Resident memory agrees: a first step of a 135 M decoder adds
256 MiB with f16 weights, 128 MiB with u8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from harness import openvino_setup
from harness.roofline import Roofline

# The execution graph's names of layers that multiply by constant weights.
WEIGHT_LAYERS = ("FullyConnected", "MatMul", "LLMMLP", "QKVProjection")
EXPERT_LAYERS = ("GatherMatmul", "GroupedMatMul", "MoE")
FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
PHASES = ("to_first_token", "per_output_token")
MAX_MFU = 1.5  # more is not prefill of the whole prompt; the roofline itself varies
MEMORY_BOUND = 0.7  # the MBU from which on memory is named as the limit
PACKED_CACHES = ("u8", "i8", "u4")
SCALINGS = ("Convert", "Multiply", "Divide", "Tanh", "Add")  # that may follow the head


@dataclass(frozen=True)
class Traffic:
    """A decoder's demands; FLOP count an addition and a multiplication each."""

    weight_bytes_per_step: int  # read once per step, at any batch size
    kv_bytes_per_token: float  # kept per past token of a sequence, and read every step
    body_flop_per_token: int  # all products with weights but the head's
    head_flop_per_token: int  # of the product that gives the logits
    attention_flop_per_past_token: int  # of a new token with one token it attends to
    logits_of_last_only: bool  # logits are computed for the prompt's last position only


def count(model, compiled_model) -> Traffic:
    """The demands of `model`, an ov.Model with a state, as compiled: `compiled_model`.

    Raises ValueError where they are unknown: no state, or a mixture of experts, of which a token
    reads only some.
    """
    body, head = weights_multiplied(model)
    positions = model.outputs[0].partial_shape[1].get_max_length()
    return Traffic(
        weight_bytes_per_step=weight_bytes_per_step(compiled_model),
        kv_bytes_per_token=kv_bytes_per_token(model, compiled_model),
        body_flop_per_token=2 * body,
        head_flop_per_token=2 * head,
        attention_flop_per_past_token=attention_flop_per_past_token(model),
        logits_of_last_only=positions == 1 or bool(paged_caches(compiled_model)),
    )


def weight_bytes_per_step(compiled_model) -> int:
    """Bytes of weights, scales, zero points and biases that one step reads, as the plugin has them.

    A layer that computes in floating point has its weights in its own precision (runtimePrecision).
    Of an embedding table one row is read; a head tied to it has a copy of its own, which counts in
    full. Vectors of norms and the like, a thousandth, are left out. Raises ValueError for a mixture
    of experts and on other devices than a CPU.
    """
    total, found = 0, False
    for node in compiled_model.get_runtime_model().get_ops():
        kind, precision = _info(node, "layerType"), _info(node, "runtimePrecision")
        if kind in EXPERT_LAYERS:
            raise ValueError("a mixture of experts: which weights a token reads is unknown")
        if kind in WEIGHT_LAYERS:
            constants = [c for source in node.input_values() for c in _constants(source.get_node())]
            total += sum(_bytes(constant, precision) for constant in constants)
            found = found or bool(constants)
        elif kind == "Gather":
            table = node.input_value(0).get_node()
            shape = table.get_output_partial_shape(0)
            if _info(table, "layerType") == "Const" and len(shape) > 1:
                total += _bytes(table) // max(shape[0].get_length(), 1)
    if not found:
        raise ValueError("the device shows none of its weights")
    return total


def _info(node, name: str) -> str | None:
    info = node.get_rt_info()
    return info[name].astype(str) if name in info else None


def _constants(node) -> list:
    """The constants that a node of an execution graph is made of; none where of anything else."""
    kind = _info(node, "layerType")
    if kind == "Const":
        return [node]
    if kind not in ("Reorder", "Convert", "Transpose", "Reshape"):
        return []
    found = [_constants(source.get_node()) for source in node.input_values()]
    return sum(found, []) if all(found) else []


def _bytes(constant, precision: str | None = None) -> int:
    """Bytes of a constant, where floats of a matrix are kept in `precision`."""
    shape, element = constant.get_output_partial_shape(0), constant.get_output_element_type(0)
    if element.is_dynamic() or shape.is_dynamic:
        return 0
    sizes, bits = list(shape.to_shape()), element.bitwidth
    if precision in FLOAT_BYTES and element.is_real() and sum(size > 1 for size in sizes) > 1:
        bits = 8 * FLOAT_BYTES[precision]
    return -(-math.prod(sizes) * bits // 8)


def paged_caches(compiled_model) -> list:
    """Inputs of a graph with paged attention (openvino-genai's) that are its cache; else none."""
    names = ("key_cache.", "value_cache.")
    return [port for port in compiled_model.inputs if port.any_name.startswith(names)]


def kv_cache_precision(compiled_model) -> str | None:
    """What the key-value cache is really kept in: u8, f16 ...; "u8/u4" where keys differ.

    None on a device that has no such property.
    """
    if caches := paged_caches(compiled_model):
        kept = [port.element_type.get_type_name() for port in caches]
    else:
        properties = openvino_setup.read_properties(compiled_model)
        if "KV_CACHE_PRECISION" not in properties:
            return None
        kept = [_kept_precision(properties, which) for which in ("KEY", "VALUE")]
    return "/".join(dict.fromkeys(kept))


def _kept_precision(properties: dict, which: str) -> str:
    """Of a state's keys ("KEY") or values ("VALUE"); KV_CACHE_PRECISION is not always what is kept.

    From the plugin's scaled_attn.cpp (getKVCachePrecision, resetBeamTablePastkv): packed integers
    are; f16 is, unless the model computes in bf16; otherwise what attention computes in is. The
    growth of resident memory of a state agrees for f32, f16 and bf16.
    """
    computed = properties["INFERENCE_PRECISION_HINT"]
    kept = properties.get(f"{which}_CACHE_PRECISION") or properties["KV_CACHE_PRECISION"]
    if kept in PACKED_CACHES or (kept == "f16" and computed != "bf16"):
        return kept
    return computed


def kv_bytes_per_token(model, compiled_model) -> float:
    """Bytes that the cache keeps per past token: keys and values of all layers, scales included.

    A paged cache has shape [blocks, heads, tokens per block, bytes or elements]: keys have their
    scales and zero points in further rows, values in further columns. In a state, packed integers
    have an f32 scale and zero point per token and head, or per KEY_CACHE_GROUP_SIZE
    (VALUE_CACHE_GROUP_SIZE) elements of a head. Raises ValueError where there is no such cache.
    """
    if caches := paged_caches(compiled_model):
        sizes = {p.any_name: [d.get_length() for d in p.partial_shape[1:]] for p in caches}
        block_tokens = sizes["value_cache.0"][1]
        bits = (math.prod(sizes[p.any_name]) * p.element_type.bitwidth for p in caches)
        return sum(bits) / 8 / block_tokens
    properties = openvino_setup.read_properties(compiled_model)
    total = 0.0
    for state in (variable.info for variable in model.get_variables()):
        shape, which = state.data_shape, state.variable_id.rpartition(".")[2].upper()
        if len(shape) == 4 and which in ("KEY", "VALUE"):  # [B, heads, tokens, size]
            total += shape[1].get_length() * _head_bytes(shape[3].get_length(), properties, which)
    if not total:
        raise ValueError("the model has no key-value cache as a state")
    return total


def _head_bytes(head_size: int, properties: dict, which: str) -> float:
    """Bytes of a head's vector of keys ("KEY") or values ("VALUE") in a state."""
    kept = _kept_precision(properties, which)
    if kept in PACKED_CACHES:
        group = properties.get(f"{which}_CACHE_GROUP_SIZE") or head_size
        return head_size * (0.5 if kept == "u4" else 1) + -(-head_size // group) * 2 * 4
    return head_size * FLOAT_BYTES.get(kept, 4)


def head(model):
    """The MatMul that gives the logits, or None where the model ends otherwise."""
    node = model.outputs[0].get_node().input_value(0).get_node()
    while node.get_type_name() in SCALINGS and len(node.inputs()):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "MatMul" else None


def weights_multiplied(model) -> tuple[int, int]:
    """Weights that every token is multiplied with: in the body, and in the head."""

    def weights(product) -> int:
        return sum(map(_constant_elements, product.input_values()))

    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    last = head(model)
    of_head = weights(last) if last else 0
    return sum(map(weights, products)) - of_head, of_head


def _constant_elements(output) -> int:
    """Elements of a matrix that is computed from constants alone; else 0."""
    pending, seen = [output.get_node()], set()
    while pending:
        node = pending.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        # Decompressing weights takes a handful of nodes.
        if node.get_type_name() in ("Parameter", "ReadValue") or len(seen) > 20:
            return 0
        pending += [source.get_node() for source in node.input_values()]
    return math.prod(dimension.get_length() for dimension in output.get_partial_shape())


def attention_flop_per_past_token(model) -> int:
    """FLOP of a new token with one token it attends to: 2 x heads x (key size + value size)."""
    total = 0
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention":
            _, heads, _, key_size = node.get_input_partial_shape(0)
            value_size = node.get_input_partial_shape(2)[3]
            total += 2 * heads.get_length() * (key_size.get_length() + value_size.get_length())
    return total


def prefill_flop(traffic: Traffic, prompt_tokens: int, batch_size: int = 1) -> float:
    """P x body + positions x head + P (P + 1) / 2 x attention: a token attends to those before it.

    `positions` is 1 where logits of the last position only are computed, else P.
    """
    positions = 1 if traffic.logits_of_last_only else prompt_tokens
    products = prompt_tokens * traffic.body_flop_per_token
    products += positions * traffic.head_flop_per_token
    attended = prompt_tokens * (prompt_tokens + 1) / 2
    return batch_size * (products + attended * traffic.attention_flop_per_past_token)


def decode_bytes_per_step(traffic: Traffic, batch_size: int, mean_context_tokens: float) -> float:
    """weights + batch x context x KV: what a step that gives one token per sequence reads."""
    cache = batch_size * mean_context_tokens * traffic.kv_bytes_per_token
    return traffic.weight_bytes_per_step + cache


def impossible(used: dict) -> list[str]:
    """One sentence where prefill was faster than the machine's matrix product allows."""
    mfu = used["mfu"][0][0]
    if mfu <= MAX_MFU:
        return []
    return [
        f"prefill took {mfu:.1f} times the FLOP/s that the machine has: "
        "part of the prompt was not computed, or the roofline was measured under load"
    ]


def utilization(
    traffic: Traffic,
    roofs: Roofline,
    samples: dict,
    prompt_tokens: int,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[dict, str]:
    """Samples of MFU (prefill) and MBU (decode) of a run with these samples, and what they say.

    At an MFU of 1 only more or faster cores would help, at an MBU of 1 only faster memory. A model
    whose weights fit into the caches may exceed that.
    """
    ttft_s, tpot_s = (sum(samples[f"time_{name}_s"], []) for name in PHASES)
    peak, bandwidth = roofs.peak_gemm_flop_per_s, roofs.read_bandwidth_bytes_per_s
    flop_per_s = prefill_flop(traffic, prompt_tokens, batch_size) / median(ttft_s)
    found = {"mfu": [[flop_per_s / peak]]}
    line = f"Limits: {peak / 1e9:.4g} GFLOP/s of a matrix product, {bandwidth / 1e9:.4g} GB/s read"
    if tpot_s:
        context_tokens = prompt_tokens + max_new_tokens / 2
        step_bytes = decode_bytes_per_step(traffic, batch_size, context_tokens)
        mbu = step_bytes / median(tpot_s) / bandwidth
        found["mbu"] = [[mbu]]
        help = "faster memory or smaller weights" if mbu > MEMORY_BOUND else "more or faster cores"
        line += f"; a decode step reads {step_bytes / 1e6:.4g} MB: {help} would help"
    return found, line
