"""OpenVINO on this machine: CPUs, threads and precision as requested, then read back as effective.

OpenVINO runs on TBB, which does not know OMP_NUM_THREADS: it is passed on here as
INFERENCE_NUM_THREADS. OpenVINO keeps to an affinity mask (numactl, taskset) by itself.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass

from harness.cli import UserError
from harness.system import physical_cores

# What the runtime graph calls the layers that carry nearly all of the arithmetic.
COMPUTE_LAYERS = "Convolution Deconvolution FullyConnected MatMul".split()
COMPUTE_LAYERS += "ScaledDotProductAttention GatherMatmul".split()
PRECISION_CAPABILITY = {"bf16": "BF16", "f16": "FP16"}
FLOATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}  # OpenVINO's type: weight format
WEIGHT_FORMATS = {**FLOATS, "u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}
# That may be requested; OpenVINO takes what the mask allows, and a warning says so.
MAX_THREADS = max(1024, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Placement:
    """What was requested. `threads` is None where OpenVINO is to choose."""

    cpus: tuple[int, ...]  # this process's affinity mask
    threads: int | None
    threads_requested_by: str | None  # "--threads" or "OMP_NUM_THREADS"
    precision: str

    @classmethod
    def from_arguments(cls, args) -> Placement:
        """From --threads, else OMP_NUM_THREADS, and the mask this process was started with.

        Raises UserError where OMP_NUM_THREADS is not a number, or far more threads than the
        machine has CPUs are requested.
        """
        cpus = tuple(sorted(os.sched_getaffinity(0)))
        if args.threads:
            check_threads(args.threads, "--threads")
            return cls(cpus, args.threads, "--threads", args.precision)
        # "16" or, for nested regions, "16,2"
        text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        if not text:
            return cls(cpus, None, None, args.precision)
        if not (text.isascii() and text.isdigit() and text.strip("0")):
            raise UserError(f"OMP_NUM_THREADS is '{text}': set it to a number, or unset it")
        threads = int(text[:9])  # int() refuses thousands of digits
        check_threads(threads, "OMP_NUM_THREADS")
        return cls(cpus, threads, "OMP_NUM_THREADS", args.precision)


def check_threads(threads: int, source: str) -> None:
    if threads > MAX_THREADS:
        machine = f"this machine has {os.cpu_count()} CPUs"
        raise UserError(f"{source} {threads} is too many: {machine}, {MAX_THREADS} threads is most")


def check_device(core, device: str) -> None:
    """Raise UserError unless OpenVINO has this device."""
    there = core.available_devices
    known = {name.split(".")[0] for name in there} | {"AUTO", "HETERO", "MULTI"}
    if device.split(":")[0].split(".")[0] not in known:
        found = ", ".join(there) or "none"
        raise UserError(f"no device '{device}' here; OpenVINO sees: {found} (--device)")


def compile_config(core, device: str, placement: Placement, hint: str, extra: dict) -> dict:
    """Properties to compile a model with; those of `extra` (--ov_config) override others.

    Raises UserError where the device cannot compute in the requested precision.
    """
    check_device(core, device)
    bind_numpy()
    config: dict = {"PERFORMANCE_HINT": hint}
    if device.startswith("CPU"):
        if placement.threads:
            config["INFERENCE_NUM_THREADS"] = placement.threads
            if placement.threads > physical_cores(placement.cpus):
                config["ENABLE_HYPER_THREADING"] = True
        needed = PRECISION_CAPABILITY.get(placement.precision)
        able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        if needed and needed not in able:
            problem = f"this {device} does not compute in {placement.precision}"
            raise UserError(f"{problem}; it offers {', '.join(able)} (--precision)")
    if placement.precision in ("f32", "bf16", "f16"):
        config["INFERENCE_PRECISION_HINT"] = placement.precision
    if placement.precision == "f32" and device.startswith("CPU"):
        # Otherwise an LLM's cache is u8, and compressed layers round activations to 8 bits.
        config |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return {**config, **extra}


def computed_in(core, device: str, config: dict):
    """The float type that models are computed in: ov.Type.f32, bf16 or f16.

    It is read back from a model of one operation. f32 where a device does not say, as AUTO.
    """
    import openvino as ov
    from openvino import opset13 as opset

    numbers = opset.parameter([1])
    compiled = core.compile_model(ov.Model([opset.relu(numbers)], [numbers]), device, config)
    try:
        found = compiled.get_property("INFERENCE_PRECISION_HINT")
    except RuntimeError:
        return ov.Type.f32
    return found if found in (ov.Type.bf16, ov.Type.f16) else ov.Type.f32


def bind_numpy() -> None:
    """Let OpenVINO's bindings find NumPy now, in one thread.

    They do so at the first array; where two threads have their first arrays at the same time, each
    may wait for the other forever (seen with OpenVINO 2026.4.1).
    """
    import numpy as np
    import openvino

    openvino.Tensor(np.zeros(1, np.uint8)).data.sum()


def weight_format(model) -> str:
    """The format that most of a model's weights are stored in: fp32, fp16, bf16, int8 or int4."""
    elements: Counter = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = node.get_element_type().get_type_name()
            elements[name] += math.prod(node.get_output_shape(0))
    stored = {name: count for name, count in elements.items() if name in WEIGHT_FORMATS}
    return WEIGHT_FORMATS[max(stored, key=stored.__getitem__)] if stored else "unknown"


def check_int8(placement: Placement, stored_as: str) -> None:
    """Raise UserError where int8 is requested and the model's weights are not integers."""
    if placement.precision == "int8" and stored_as not in ("int8", "int4"):
        problem = f"--precision int8 needs an int8 model; this one's weights are {stored_as}"
        raise UserError(f"{problem}: see export.py --help")


def read_properties(compiled_model) -> dict:
    """The properties of a compiled model, read back, as JSON values."""
    names = set(compiled_model.get_property("SUPPORTED_PROPERTIES")) - {"SUPPORTED_PROPERTIES"}
    return {name: _plain(compiled_model.get_property(name)) for name in sorted(names)}


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "get_type_name"):  # openvino.Type
        return value.get_type_name()
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return getattr(value, "name", str(value))


def layers_by_precision(compiled_model) -> Counter:
    """Number of compute layers by (kind, precision), as the device's execution graph names them.

    For a layer with compressed weights that is the weights' type (u8, i8, u4 ...), not the type it
    computes in. DYNAMIC_QUANTIZATION_GROUP_SIZE says whether its activations are rounded to 8 bits.
    """
    layers: Counter = Counter()
    for node in compiled_model.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in COMPUTE_LAYERS:
            layers[info["layerType"].astype(str), info["runtimePrecision"].astype(str)] += 1
    return layers


def describe(placement: Placement, compiled_models: dict) -> dict:
    """The record's placement: what was requested, and what the compiled models (by name) have.

    Threads and precision are those of the first model.
    """
    properties = {name: read_properties(model) for name, model in compiled_models.items()}
    layers = {name: layers_by_precision(model) for name, model in compiled_models.items()}
    main, main_layers = next(iter(properties.values())), next(iter(layers.values()))
    # A convolution has no form with compressed weights alone: one in 8 bits computes in 8 bits.
    quantized = main_layers["Convolution", "i8"] or main_layers["Convolution", "u8"]
    hint = main.get("INFERENCE_PRECISION_HINT", "unknown")
    executed = {
        name: Counter(kind[1] for kind in found.elements()) for name, found in layers.items()
    }
    return {
        "cpus": list(placement.cpus),
        "physical_cores": physical_cores(placement.cpus),
        "share_of_machine": min(1.0, len(placement.cpus) / (os.cpu_count() or 1)),
        "threads_requested": placement.threads,
        "threads_requested_by": placement.threads_requested_by,
        "threads_effective": main.get("INFERENCE_NUM_THREADS"),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "precision_requested": placement.precision,
        "precision_effective": "int8" if quantized else hint,
        "executed_precisions": {name: dict(counts) for name, counts in executed.items()},
        "openvino_properties": properties,
    }


def one_line(placement: dict, device: str) -> str:
    """The record's placement in a line, for the terminal."""
    precision = placement["precision_effective"]
    main = next(iter(placement["openvino_properties"].values()))
    name, layers = next(iter(placement["executed_precisions"].items()))
    group = main.get("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    if precision == "int8":
        count = layers.get("i8", 0) + layers.get("u8", 0)
        rest = main.get("INFERENCE_PRECISION_HINT")
        of = f" of the {name}" if len(placement["executed_precisions"]) > 1 else ""
        precision += f" in {count} of {sum(layers.values())} compute layers{of}"
        precision += f", {rest} in the others"
    elif placement["precision_requested"] == "auto":
        precision += " (OpenVINO's choice)"
    if not precision.startswith("int8") and group and layers.keys() - FLOATS:
        precision += f", activations in 8 bits by groups of {group} where the CPU can"
    source = placement["threads_requested_by"]
    threads = f"{placement['threads_effective']} threads" + (f" ({source})" if source else "")
    return f"{device}, {threads}, {len(placement['cpus'])} CPUs allowed; precision {precision}"
