"""The model: options of every door, loading, and what each door does before it measures."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmentation import Detections, Letterbox, Thresholds, find_objects

from harness import cli, model_files, openvino_setup, progress, run
from harness.cli import UserError
from harness.openvino_setup import Placement

CAMERA_FPS = 30.0  # of the cameras that throughput is priced in
IOU = 0.7
NOT_SEGMENTATION = "not a segmentation model of fixed size: export one with export.py"
DEMO_CLIP = Path(__file__).resolve().parent / "pharmacy_drivethru.mp4"


@dataclass(frozen=True)
class LoadSettings:
    path: Path  # the .xml
    placement: Placement
    hint: str = "throughput"  # "throughput" or "latency"
    device: str = "CPU"
    batch_size: int = 1
    num_requests: int | None = None  # None: OpenVINO's choice
    ov_config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    compiled: Any  # openvino.CompiledModel, of a network from with_channels_last()
    names: dict[int, str]  # of classes, by index
    weight_format: str
    requests: int  # to run concurrently
    load_time_s: float

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        _, height, width, _ = self.compiled.input().shape
        return height, width


@dataclass(frozen=True)
class Prepared:
    """A loaded model with the parts of the record that are known before measuring."""

    settings: LoadSettings
    model: Model
    description: dict  # the record's model
    placement: dict
    system: dict

    def record_parts(self) -> dict:
        """For run.build()."""
        return {
            "model": self.description,
            "placement": self.placement,
            "system": self.system,
            "comparable_by": {"runtime": "openvino", "device": self.settings.device},
            "configuration": {
                "hint": self.settings.hint,
                "requests": self.model.requests,
                "batch size": self.settings.batch_size,
            },
            "packages": ("openvino", "av", "opencv-python-headless"),
        }


def add_model_arguments(parser: argparse.ArgumentParser, conf: float = 0.25) -> None:
    """Options of every door that runs the model."""
    path = model_files.beside(__file__, "yolov8n-seg_openvino_model/yolov8n-seg.xml")
    parser.add_argument("--model_path", type=Path, default=path, help="the .xml made by export.py")
    parser.add_argument("--conf", type=cli.share, default=conf, help="least score of a detection")
    overlap = "overlap at which the weaker of two boxes of a class is dropped"
    parser.add_argument("--iou", type=cli.share, default=IOU, help=overlap)


def add_parallel_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every door that runs concurrent requests."""
    hint = "what OpenVINO optimizes for: frames per second, or the time of a single frame"
    parser.add_argument(
        "--hint", choices=("throughput", "latency"), default="throughput", help=hint
    )
    requests = "concurrent inference requests (default: OpenVINO's choice)"
    parser.add_argument("--num_requests", type=cli.positive_int, help=requests)


def thresholds(args: argparse.Namespace) -> Thresholds:
    return Thresholds(args.conf, args.iou)


def prepare(args: argparse.Namespace, **others) -> Prepared:
    """Check what is needed, load the model, and print what is about to be measured.

    `others` : fields of LoadSettings that are not options of every door. Raises UserError.
    """
    path, placement = args.model_path, Placement.from_arguments(args)
    settings = LoadSettings(path, placement, device=args.device, ov_config=args.ov_config, **others)
    model_files.check_ir(path, hint=f"make it with `python3 export.py --output {path.parent}`")
    run.check_destination(args)
    with progress.stage("Loading the model"):
        model = load(settings)
    description = model_files.describe(path.stem, path.parent, [path], model.weight_format)
    placement = openvino_setup.describe(settings.placement, {"model": model.compiled})
    extra = f"; {model.requests} concurrent request(s)"
    system = run.print_header(description, placement, settings.device, model.load_time_s, extra)
    return Prepared(settings, model, description, placement, system)


def load(settings: LoadSettings) -> Model:
    """Read, check and compile the model, timed. Raises UserError."""
    import openvino as ov

    core = ov.Core()
    config = openvino_setup.compile_config(
        core, settings.device, settings.placement, settings.hint.upper(), settings.ov_config
    )
    started_s = time.perf_counter()
    try:
        network = core.read_model(settings.path)
        counts = len(network.inputs), len(network.outputs)
        if counts != (1, 2) or network.input().partial_shape.is_dynamic:
            raise UserError(f"{settings.path} is {NOT_SEGMENTATION}")
        _, *size = network.input().shape
        network.reshape([settings.batch_size, *size])
        weight_format = openvino_setup.weight_format(network)
        openvino_setup.check_int8(settings.placement, weight_format)
        compiled = core.compile_model(with_channels_last(network), settings.device, config)
    except (RuntimeError, ValueError) as error:
        raise model_files.cannot_load(settings.path, error) from None
    load_time_s = time.perf_counter() - started_s
    optimal = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    names = class_names(settings.path.parent)
    return Model(compiled, names, weight_format, settings.num_requests or optimal, load_time_s)


def with_channels_last(network):
    """The network with an input of bytes, [batch, H, W, 3], RGB, as frames are.

    Its prototypes are [batch, H / 4, W / 4, 32], as the plugin computes them, so not transposed.
    """
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.output(1).model().set_layout(ov.Layout("NCHW"))
    steps.output(1).tensor().set_layout(ov.Layout("NHWC"))
    return steps.build()


def class_names(folder: Path) -> dict[int, str]:
    """Class names as ultralytics exports them beside the model; empty where they are missing."""
    import yaml

    try:
        return dict(yaml.safe_load((folder / "metadata.yaml").read_text())["names"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return {}


def objects_of(
    request, letterbox: Letterbox, limits: Thresholds, index_in_batch: int = 0
) -> Detections:
    """What a finished request has found in one of its frames."""
    predictions, prototypes = (request.get_output_tensor(i).data[index_in_batch] for i in (0, 1))
    return find_objects(predictions, prototypes, letterbox, limits)
