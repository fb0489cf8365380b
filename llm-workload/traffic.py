"""What a decoder reads and computes for a token, counted in the model, and so how close a run came to the machine's limits.

What the CPU plugin keeps in memory is not what the file holds, so weights are counted in its execution graph
(CompiledModel.get_runtime_model()), and shapes in the model itself. Seen there with OpenVINO 2026.4 on a CPU with AVX2:
u8 and u4 weights and their zero points stay packed, scales become f32, and a decoder's f16 weights stay f16 even where it
computes in f32 (DnnlFCPrimitive::useWeightsDecompressionImpl in the plugin's dnnl_fullyconnected_primitive.cpp: for models with
ScaledDotProductAttention and a state). Resident memory agrees: a first step of a 135 M decoder adds 256 MiB with f16 weights,
128 MiB with u8. Not tried: a CPU that computes in bf16.
"""

import math
from dataclasses import dataclass

# The execution graph's names of layers that multiply by constant weights.
WEIGHT_LAYERS = ("FullyConnected", "MatMul", "LLMMLP", "QKVProjection")
EXPERT_LAYERS = ("GatherMatmul", "GroupedMatMul", "MoE")
FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
MOVES = ("Slice", "StridedSlice", "Gather", "Reshape", "Squeeze", "Unsqueeze", "Convert", "Transpose")


@dataclass(frozen=True)
class Traffic:
    """A decoder's demands; FLOP count an addition and a multiplication each."""

    weight_bytes_per_step: int  # read once a step, whatever the batch
    kv_bytes_per_token: float  # held, and read every step, of a past token of a sequence
    body_flop_per_token: int  # all products with weights but the head's
    head_flop_per_token: int  # of the product that gives the logits
    attention_flop_per_past_token: int  # of a new token with one token it sees
    logits_of_last_only: bool  # the model computes logits of the last position of the prompt only


def count(model, compiled_model) -> Traffic:
    """A decoder's demands: `model` is the ov.Model, `compiled_model` what the CPU plugin made of it.

    Raises ValueError where they cannot be told: no state, or a mixture of experts, of which a token reads only some.
    """
    body, head = weights_multiplied(model)
    return Traffic(
        weight_bytes_per_step=weight_bytes_per_step(compiled_model),
        kv_bytes_per_token=kv_bytes_per_token(model, compiled_model),
        body_flop_per_token=2 * body,
        head_flop_per_token=2 * head,
        attention_flop_per_past_token=attention_flop_per_past_token(model),
        logits_of_last_only=logits_of_last_only(model),
    )


def weight_bytes_per_step(compiled_model) -> int:
    """Bytes of weights, scales, zero points and biases that one step reads, as the CPU plugin keeps them.

    A layer that computes in floating point holds its weights in its own precision (runtimePrecision). Of an embedding table a
    row is read; where the head is tied to it, the head has a copy of its own, which counts in full. Vectors of norms and the
    like are left out: a thousandth. Raises ValueError for a mixture of experts and on another device than a CPU.
    """
    total, found = 0, False
    for node in compiled_model.get_runtime_model().get_ops():
        kind, precision = _told(node, "layerType"), _told(node, "runtimePrecision")
        if kind in EXPERT_LAYERS:
            raise ValueError("a mixture of experts: which weights a token reads is not known")
        if kind in WEIGHT_LAYERS:
            constants = [constant for source in node.input_values() for constant in _constants(source.get_node())]
            total += sum(_bytes(constant, precision) for constant in constants)
            found = found or bool(constants)
        elif kind == "Gather":
            table = node.input_value(0).get_node()
            if _told(table, "layerType") == "Const" and len(table.get_output_partial_shape(0)) > 1:
                rows = table.get_output_partial_shape(0)[0].get_length()
                total += _bytes(table) // max(rows, 1)
    if not found:
        raise ValueError("the device tells nothing of its weights")
    return total


def _told(node, name: str) -> str | None:
    info = node.get_rt_info()
    return info[name].astype(str) if name in info else None


def _constants(node) -> list:
    """The constants that this node of an execution graph is computed from; none where it depends on anything else."""
    if _told(node, "layerType") == "Const":
        return [node]
    found = []
    for source in node.input_values():
        constants = (
            _constants(source.get_node()) if _told(node, "layerType") in ("Reorder", "Convert", "Transpose", "Reshape") else []
        )
        if not constants:
            return []
        found += constants
    return found


def _bytes(constant, precision: str | None = None) -> int:
    """Bytes of a constant, where floats of a matrix are held in `precision`."""
    shape = constant.get_output_partial_shape(0)
    element = constant.get_output_element_type(0)
    if element.is_dynamic() or shape.is_dynamic:
        return 0
    dims = [dim.get_length() for dim in shape]
    bits = element.bitwidth
    if precision in FLOAT_BYTES and element.is_real() and sum(dim > 1 for dim in dims) > 1:
        bits = 8 * FLOAT_BYTES[precision]
    return -(-math.prod(dims) * bits // 8)


def kv_bytes_per_token(model, compiled_model) -> float:
    """Bytes that the key-value cache holds of a past token: of all layers, keys and values, scales and zero points included.

    KV_CACHE_PRECISION is not always what is held. From the plugin's scaled_attn.cpp (getKVCachePrecision, resetBeamTablePastkv):
    u8 is, with an f32 scale and zero point for each token and head (or each KEY_CACHE_GROUP_SIZE, VALUE_CACHE_GROUP_SIZE
    elements of a head); f16 is, unless the model computes in bf16; else it is the precision that attention computes in.
    The growth of resident memory of a state, between these settings, agrees for f32, f16 and bf16; that of u8 was not told apart
    from buffers. Raises ValueError where the model has no such state.
    """
    held, total = _read_back(compiled_model), 0.0
    for shape in kv_states(model):
        for group in ("KEY", "VALUE"):
            total += shape[group][0] * held_bytes(shape[group][1], held, group)
    if not total:
        raise ValueError("the model has no key-value cache as a state")
    return total


def held_bytes(head_size: int, held: dict, which: str) -> float:
    """Bytes of a head's vector of keys ("KEY") or values ("VALUE"), under these properties of the compiled model."""
    kind, computed = held.get(f"{which}_CACHE_PRECISION") or held.get("KV_CACHE_PRECISION"), held["INFERENCE_PRECISION_HINT"]
    if kind in ("u8", "i8", "u4"):
        group = held.get(f"{which}_CACHE_GROUP_SIZE") or head_size
        return head_size * (0.5 if kind == "u4" else 1) + -(-head_size // group) * 2 * 4
    if kind != "f16" or computed == "bf16":
        kind = computed
    return head_size * FLOAT_BYTES.get(kind, 4)


def _read_back(compiled_model) -> dict:
    names = ["KV_CACHE_PRECISION", "INFERENCE_PRECISION_HINT"]
    names += [f"{which}_CACHE_{what}" for which in ("KEY", "VALUE") for what in ("PRECISION", "GROUP_SIZE")]
    supported = compiled_model.get_property("SUPPORTED_PROPERTIES")
    values = {name: compiled_model.get_property(name) for name in names if name in supported}
    return {name: value if isinstance(value, int) else value.get_type_name() for name, value in values.items()}


def kv_states(model) -> list[dict[str, tuple[int, int]]]:
    """Of each attention layer (number of heads, size of a head) of the cached keys (KEY) and values (VALUE)."""
    states = []
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention":
            found = {which: _state_behind(node.input_value(port)) for which, port in (("KEY", 1), ("VALUE", 2))}
            if all(found.values()):
                states.append(found)
    return states


def _state_behind(output) -> tuple[int, int] | None:
    """Heads and head size of the nearest ReadValue [B, heads, tokens, size], looking no further than products with weights."""
    near, seen = [output.get_node()], set()
    while near:
        after = []
        for node in near:
            if node.get_type_name() == "ReadValue":
                shape = node.get_output_partial_shape(0)
                return (shape[1].get_length(), shape[3].get_length()) if len(shape) == 4 else None
            if node.get_name() not in seen and node.get_type_name() not in ("MatMul", "ShapeOf", "Parameter", "Constant"):
                seen.add(node.get_name())
                after += [source.get_node() for source in node.input_values()]
        near = after
    return None


def weights_multiplied(model) -> tuple[int, int]:
    """Number of weights that every token is multiplied with: in the body, and in the head, whose product is the result."""
    body = head = 0
    for node in model.get_ops():
        if node.get_type_name() == "MatMul":
            elements = sum(_constant_elements(source) for source in node.input_values())
            if _is_head(node):
                head += elements
            else:
                body += elements
    return body, head


def _constant_elements(output) -> int:
    """Elements of a matrix that is computed from constants alone; else 0."""
    pending = [output.get_node()]
    seen = set()
    while pending:
        node = pending.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_type_name() in ("Parameter", "ReadValue") or len(seen) > 20:  # decompression takes a handful of nodes
            return 0
        pending += [source.get_node() for source in node.input_values()]
    return math.prod(dim.get_length() for dim in output.get_partial_shape())


def _is_head(node) -> bool:
    """Whether this product goes to a result with nothing but a scaling or conversion in between."""
    while True:
        consumers = [port.get_node() for port in node.output(0).get_target_inputs()]
        if any(consumer.get_type_name() == "Result" for consumer in consumers):
            return True
        if len(consumers) != 1 or consumers[0].get_type_name() not in ("Convert", "Multiply", "Divide", "Tanh", "Add"):
            return False
        node = consumers[0]
        if len(node.input_values()) > 1 and not any(_constant_elements(source) for source in node.input_values()):
            return False


def logits_of_last_only(model) -> bool:
    """Whether a slice before the head leaves one position: from -1 on, or the index -1."""
    for node in model.get_ops():
        if node.get_type_name() != "MatMul" or not _is_head(node):
            continue
        source = node.input_value(0).get_node()
        while source.get_type_name() in MOVES:
            if source.get_type_name() in ("Slice", "StridedSlice", "Gather"):
                picked = source.input_value(1).get_node()
                if picked.get_type_name() == "Constant" and -1 in picked.get_data().flatten():
                    return True
            source = source.input_value(0).get_node()
    return False


def attention_flop_per_past_token(model) -> int:
    """FLOP of one new token with one token that it sees, in all layers: 2 heads x (size of a key + size of a value) each."""
    total = 0
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention":
            query, value = node.get_input_partial_shape(0), node.get_input_partial_shape(2)
            total += 2 * query[1].get_length() * (query[3].get_length() + value[3].get_length())
    return total


def decode_bytes_per_step(traffic: Traffic, batch_size: int, mean_context_tokens: float) -> float:
    """weights + batch x context x KV: what a step that gives one token to each sequence reads."""
    return traffic.weight_bytes_per_step + batch_size * mean_context_tokens * traffic.kv_bytes_per_token


def decode_bandwidth_share(
    traffic: Traffic,
    time_per_step_s: float,
    read_bandwidth_bytes_per_s: float,
    *,
    batch_size: int = 1,
    mean_context_tokens: float = 0,
) -> float:
    """decode_bytes_per_step / time_per_step_s / read_bandwidth: 1 where nothing but faster memory would help.

    A step gives `batch_size` tokens, so time_per_step_s is the time per output token, or batch_size / (tokens a second). A model
    whose weights fit into cache may exceed 1.
    """
    return decode_bytes_per_step(traffic, batch_size, mean_context_tokens) / time_per_step_s / read_bandwidth_bytes_per_s


def prefill_flop(traffic: Traffic, prompt_tokens: int, batch_size: int = 1) -> float:
    """FLOP that a prompt needs: P x body + positions x head + P (P + 1) / 2 x attention, as each token sees those before it.

    `positions` is 1 where the model computes logits of the last position only, else P.
    """
    positions = 1 if traffic.logits_of_last_only else prompt_tokens
    products = prompt_tokens * traffic.body_flop_per_token + positions * traffic.head_flop_per_token
    seen = prompt_tokens * (prompt_tokens + 1) / 2
    return batch_size * (products + seen * traffic.attention_flop_per_past_token)


def prefill_compute_share(
    traffic: Traffic, prompt_tokens: int, time_s: float, peak_gemm_flop_per_s: float, *, batch_size: int = 1
) -> float:
    """prefill_flop / time_s / peak_gemm: 1 where nothing but more or faster cores would help. `time_s`: to the first token."""
    return prefill_flop(traffic, prompt_tokens, batch_size) / time_s / peak_gemm_flop_per_s
