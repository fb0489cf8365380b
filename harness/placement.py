"""Where the work runs and how: the CPUs in the mask, threads, precision; asked of OpenVINO, then read back from it.

OpenVINO runs on TBB, which does not know OMP_NUM_THREADS: it is handed on here as INFERENCE_NUM_THREADS. An affinity
mask (numactl, taskset) OpenVINO keeps to by itself.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass

from harness.cli import UserError, non_negative_int

# What the runtime graph calls the layers that carry nearly all of the arithmetic.
COMPUTE_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention", "GatherMatmul")
PRECISION_CAPABILITY = {"bf16": "BF16", "f16": "FP16"}
KV_CACHE_PRECISIONS = ("u4", "u8", "bf16", "f16", "f32")  # that the CPU plugin takes
WEIGHT_FORMATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}


@dataclass(frozen=True)
class Placement:
    """What was asked for. `threads` is None where OpenVINO is to choose."""

    cpus: tuple[int, ...]  # this process's affinity mask
    threads: int | None
    threads_asked_by: str | None  # "--threads" or "OMP_NUM_THREADS"
    precision: str

    @classmethod
    def from_arguments(cls, args) -> Placement:
        """From --threads, else OMP_NUM_THREADS, and the mask this process was started with.

        Raises UserError where OMP_NUM_THREADS is not a number.
        """
        cpus = tuple(sorted(os.sched_getaffinity(0)))
        if args.threads:
            return cls(cpus, args.threads, "--threads", args.precision)
        text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "16" or, for nested regions, "16,2"
        if not text:
            return cls(cpus, None, None, args.precision)
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"OMP_NUM_THREADS is '{text}': set it to a number of threads, or unset it")
        return cls(cpus, int(text), "OMP_NUM_THREADS", args.precision)


def check_device(core, device: str) -> None:
    """Raise UserError unless OpenVINO has this device."""
    there = core.available_devices
    known = {name.split(".")[0] for name in there} | {"AUTO", "HETERO", "MULTI"}
    if device.split(":")[0].split(".")[0] not in known:
        raise UserError(f"no device '{device}' here; OpenVINO sees: {', '.join(there) or 'none'} (--device)")


def openvino_config(core, device: str, placement: Placement, hint: str, extra: dict) -> dict:
    """Properties to compile a model with. `extra` (--ov_config) has the last word.

    Raises UserError where the device cannot compute in the precision that was asked for.
    """
    check_device(core, device)
    config = {"PERFORMANCE_HINT": hint}
    if device.startswith("CPU"):
        if placement.threads:
            config["INFERENCE_NUM_THREADS"] = placement.threads
            if placement.threads > physical_cores(placement.cpus):
                config["ENABLE_HYPER_THREADING"] = True
        needed = PRECISION_CAPABILITY.get(placement.precision)
        able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        if needed and needed not in able:
            raise UserError(f"this {device} does not compute in {placement.precision}; it offers {', '.join(able)} (--precision)")
    if placement.precision in ("f32", "bf16", "f16"):
        config["INFERENCE_PRECISION_HINT"] = placement.precision
    if placement.precision == "f32" and device.startswith("CPU"):
        config["KV_CACHE_PRECISION"] = "f32"  # the CPU plugin's default is u8, whatever the hint
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else activations of compressed layers are rounded to 8 bits
    return {**config, **extra}


def add_llm_arguments(parser) -> None:
    """Options for what an LLM's runtime rounds, besides --precision."""
    group = parser.add_argument_group("rounding")
    group.add_argument("--kv_cache_precision", choices=KV_CACHE_PRECISIONS,
                       help="of the cache of keys and values (default: OpenVINO's choice; f32 with --precision f32)")  # fmt: skip
    group.add_argument("--dynamic_quantization_group_size", type=non_negative_int, metavar="N",
                       help="activations of compressed layers in 8 bits, so many sharing a scale; 0: not at all (default: OpenVINO's "
                       "choice; 0 with --precision f32)")  # fmt: skip


def llm_properties(args) -> dict:
    """The options of add_llm_arguments() that were given, as OpenVINO properties: for `extra` of openvino_config()."""
    asked = {
        "KV_CACHE_PRECISION": args.kv_cache_precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": args.dynamic_quantization_group_size,
    }
    return {name: value for name, value in asked.items() if value is not None}


def llm_signs(args, described: dict) -> list[str]:
    """One sentence for each of those options that the compiled model has otherwise; `described`: from describe()."""
    given = next(iter(described["openvino_properties"].values()))
    return [f"{name} {value} was asked for, {given.get(name, 'none')} was used"
            for name, value in llm_properties(args).items() if given.get(name) != value]  # fmt: skip


def physical_cores(cpus: tuple[int, ...]) -> int:
    """Physical cores among these logical CPUs; each CPU counts as one where the machine does not tell."""
    cores = set()
    for cpu in cpus:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as siblings:
                cores.add(siblings.read().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def weight_format(model) -> str:
    """The format that most of a model's weights are stored in: fp32, fp16, bf16, int8 or int4."""
    elements = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            elements[node.get_element_type().get_type_name()] += math.prod(node.get_output_shape(0))
    stored = {name: count for name, count in elements.items() if name in WEIGHT_FORMATS}
    return WEIGHT_FORMATS[max(stored, key=stored.get)] if stored else "unknown"


def check_int8(placement: Placement, stored_as: str) -> None:
    """Raise UserError where int8 was asked for and the model's weights are not integers."""
    if placement.precision == "int8" and stored_as not in ("int8", "int4"):
        raise UserError(f"--precision int8 needs a model exported so; this one's weights are {stored_as}: see export.py --help")


def read_back(compiled_model) -> dict:
    """The properties a compiled model really has, as JSON values."""
    names = [name for name in compiled_model.get_property("SUPPORTED_PROPERTIES") if name != "SUPPORTED_PROPERTIES"]
    return {name: _plain(compiled_model.get_property(name)) for name in names}


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "get_type_name"):  # openvino.Type
        return value.get_type_name()
    return value if isinstance(value, (bool, int, float, str, type(None))) else getattr(value, "name", str(value))


def layers_by_precision(compiled_model) -> Counter:
    """Number of compute layers by kind and precision, as the device's own execution graph names them.

    For a layer with compressed weights that is the weights' type (u8, i8, u4 ...), whatever it computes in: whether its
    activations are rounded to 8 bits too is told by DYNAMIC_QUANTIZATION_GROUP_SIZE among the properties.
    """
    layers = Counter()
    for node in compiled_model.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in COMPUTE_LAYERS:
            layers[info["layerType"].astype(str), info["runtimePrecision"].astype(str)] += 1
    return layers


def executed_precisions(layers: Counter) -> dict[str, int]:
    """Number of compute layers by precision, of all kinds together."""
    counted = Counter()
    for (_, precision), count in layers.items():
        counted[precision] += count
    return dict(counted)


def describe(placement: Placement, compiled_models: dict) -> dict:
    """The record's placement: what was asked for and what the compiled models (by name) were given."""
    properties = {name: read_back(compiled) for name, compiled in compiled_models.items()}
    layers = {name: layers_by_precision(compiled) for name, compiled in compiled_models.items()}
    main, main_layers = next(iter(properties.values())), next(iter(layers.values()))
    # A convolution has no form with compressed weights alone: one in 8 bits computes in 8 bits.
    quantized = any(kind == "Convolution" and precision in ("i8", "u8") for kind, precision in main_layers)
    return {
        "cpus": list(placement.cpus),
        "physical_cores": physical_cores(placement.cpus),
        "threads_asked": placement.threads,
        "threads_asked_by": placement.threads_asked_by,
        "threads_given": main.get("INFERENCE_NUM_THREADS"),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "precision_asked": placement.precision,
        "precision_used": "int8" if quantized else main.get("INFERENCE_PRECISION_HINT", "unknown"),
        "executed_precisions": {name: executed_precisions(counted) for name, counted in layers.items()},
        "openvino_properties": properties,
    }


def one_line(described: dict, device: str) -> str:
    """The record's placement in a line, for the terminal."""
    precision = described["precision_used"]
    main, layers = next(iter(described["openvino_properties"].values())), next(iter(described["executed_precisions"].values()))
    if described["precision_asked"] == "auto" and precision != "int8":
        precision += " (OpenVINO's choice)"
    group = main.get("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    if precision == "int8":
        count = sum(layers.get(name, 0) for name in ("i8", "u8"))
        precision += f" in {count} of {sum(layers.values())} compute layers, {main.get('INFERENCE_PRECISION_HINT')} in the others"
    elif group and set(layers) - {"f32", "f16", "bf16"}:
        precision += f", activations of compressed layers in 8 bits by groups of {group} where the CPU can"
    asked = f", asked for by {described['threads_asked_by']}" if described["threads_asked_by"] else ""
    return f"{device}, {described['threads_given']} threads{asked}, on {len(described['cpus'])} CPUs; precision {precision}"
