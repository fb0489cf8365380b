"""Export a chat model to OpenVINO IR with its tokenizer, for infer.py and other OpenVINO runtimes.

From a Hugging Face model id, a local folder in the same layout, or a GGUF file:
  python3 export.py
  python3 export.py --model_id ./my-llama --output my-llama-ov --weight_format int4
  python3 export.py --model_id SmolLM2-135M-Instruct.Q4_1.gguf --output smollm2-135m-instruct-ov

What a format costs in quality: accuracy.py.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, files, model_files, monitor, progress
from harness.cli import UserError

LAYOUT = 2  # of compressed weights: see projections.py; a folder with another is made again
PACKAGES = ("torch", "transformers", "optimum-intel", "nncf", "openvino", "openvino-tokenizers")
DEFAULT_FORMAT = "int8"
COMPRESSED = ("int8", "int4")
NNCF_OPTIONS = ("group_size", "ratio", "awq", "scale_estimation")
EXPORT_ERRORS = (ValueError, OSError, KeyError, IndexError)
HUB_TIMEOUT_S = 10
CALIBRATION_WINDOWS, CALIBRATION_TOKENS = 128, 64  # of the text: at most so many, of so many tokens
CONTROL_TOKEN = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    add, formats = parser.add_argument, ("fp32", "fp16", "int8", "int4")
    hub_id = "meta-llama/Llama-2-7b-chat-hf"
    add("--model_id", default=hub_id, help="hub id, local folder or .gguf file")
    folder = "folder to make (default: MODEL-ov, e.g. llama-2-7b-chat-ov; or MODEL-FORMAT-ov)"
    add("--output", type=Path, help=folder)
    add("--overwrite", action="store_true", help="replace another export in --output")
    add("--weight_format", choices=formats, default=DEFAULT_FORMAT, help="of the stored weights")
    add("--group_size", type=int, default=64, help="int4: weights per scale; -1: a whole row")
    add("--ratio", type=float, default=1.0, help="int4: share of the layers in 4 bits, others in 8")
    add("--sym", action="store_true", help="int4 and int8: symmetric quantization")
    dataset = "int4: UTF-8 text to calibrate on; not the one that accuracy.py scores"
    add("--dataset", type=Path, metavar="FILE", help=dataset)
    awq = "int4: activation-aware weight quantization; needs --dataset"
    add("--awq", action="store_true", help=awq)
    scales = "int4: scales that keep layers' outputs near the original's; needs --dataset"
    add("--scale_estimation", action="store_true", help=scales)
    add("--trust_remote_code", action="store_true", help="run the model repository's Python code")
    add("--verbose", action="store_true", help="show what the libraries print")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    text = read_dataset(args)
    source, weight_format = Path(args.model_id), args.weight_format
    settings = {"weight_format": weight_format}  # those that count for this format
    if weight_format == "int4":
        settings |= {"group_size": args.group_size, "ratio": args.ratio}
    if weight_format in COMPRESSED:
        settings |= {"sym": args.sym, "layout": LAYOUT}
    if text:
        settings |= {"awq": args.awq, "scale_estimation": args.scale_estimation}
    parameters = dict(settings)
    if text:
        digest = model_files.sha256(args.dataset)
        parameters |= {"dataset": args.dataset.name, "dataset_sha256": digest}
    is_gguf = source.suffix == ".gguf"
    if is_gguf:
        if not source.is_file():
            hint = model_files.where(source, "name one that is there")
            raise UserError(f"no GGUF file {source}: {hint} (--model_id)")
        parameters["source_sha256"] = model_files.sha256(source)
    name = source.resolve().name if source.exists() else args.model_id
    stamp = model_files.stamp(name, PACKAGES, **parameters)
    output = args.output or default_output(name, weight_format)
    asked = {"is_named": bool(args.output), "overwrite": args.overwrite}
    if model_files.is_to_be_made(output, stamp, is_known=is_gguf, **asked):
        if not source.exists():
            check_hub_access(args.model_id)
        with model_files.exporting(output, stamp) as folder:
            libraries = (args.trust_remote_code, args.verbose)
            export(args.model_id, folder, settings, text, *libraries)
        peak = f"peak memory {monitor.peak_rss_bytes() / 2**30:.1f} GiB"
        print(f"{output}: {args.model_id} with {args.weight_format} weights; {peak}")
    print(model_files.next_command(__file__, f"--model_name={output}"))
    return cli.EXIT_OK


def default_output(name: str, weight_format: str) -> Path:
    """infer.py's default for Llama 2 7B Chat in int8; any other format is in the name."""
    stem = name.rsplit("/")[-1].lower().removesuffix("-hf")
    stem = re.sub(r"([.-]b?[fq]\d\w*)?\.gguf$", "", stem)  # a GGUF file's own quantization
    suffix = "" if weight_format == DEFAULT_FORMAT else f"-{weight_format}"
    return model_files.beside(__file__, f"{stem}{suffix}-ov")


def read_dataset(args: argparse.Namespace) -> str | None:
    """The text to calibrate on, if any. Raises UserError for options that don't go together."""
    methods = [f"--{name}" for name in ("awq", "scale_estimation") if getattr(args, name)]
    if args.weight_format != "int4" and (methods or args.dataset):
        option = (methods or ["--dataset"])[0]
        raise UserError(f"{option} is for 4-bit weights: add --weight_format int4")
    if methods and not args.dataset:
        raise UserError(f"{methods[0]} needs a text such as the model will see: name it: --dataset")
    if not args.dataset:
        return None
    if not methods and args.ratio == 1.0:
        raise UserError(
            "--dataset changes nothing by itself: add --awq, --scale_estimation "
            "or a --ratio below 1"
        )
    text = files.read_text(args.dataset, "--dataset")
    if not text.strip():
        raise UserError(f"{args.dataset} is empty (--dataset)")
    return text


def check_hub_access(model_id: str) -> None:
    """Raise UserError, saying what to do, where the hub does not hand out this model."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(model_id, "config.json"), timeout=HUB_TIMEOUT_S)
        return
    except GatedRepoError:
        page = f"https://huggingface.co/{model_id}"
        why = f"is gated: ask for access at {page}, then log in with `hf auth login`"
    except (RepositoryNotFoundError, HFValidationError):
        why = "is neither a local folder, nor a .gguf file, nor a hub model that you may see"
    except Exception as error:  # no network, a proxy, the hub down ...
        cause = cli.one_line(error)
        why = f"is not here: cannot reach the hub ({cause}); name a local folder or .gguf file"
    raise UserError(f"{model_id} {why}")


def export(
    model_id: str,
    folder: Path,
    settings: dict,
    text: str | None,
    trust_remote_code: bool,
    verbose: bool,
) -> None:
    """Convert to IR with its tokenizers, then compress the weights where the format asks for it.

    `settings`: those of the stamp that say how; `text`: to calibrate on.
    """
    weight_format, source = settings["weight_format"], model_id
    is_compressed = weight_format in COMPRESSED
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if model_id.endswith(".gguf"):
            with progress.stage("Unpacking GGUF"), progress.quiet(verbose):
                source = str(unpack_gguf(Path(model_id), Path(scratch, "unpacked")))
        converted = Path(scratch, "ir") if is_compressed else folder
        try:
            with progress.stage("Converting to OpenVINO IR"), progress.quiet(verbose):
                convert(source, converted, weight_format, trust_remote_code)
        except EXPORT_ERRORS as error:
            raise UserError(f"cannot export {model_id}: {cli.one_line(error)}") from None
        if is_compressed:
            label = f"Compressing weights to {weight_format}"
            with progress.stage(label), progress.quiet(verbose):
                compress(model_id, converted, folder, settings, text)
            for path in converted.iterdir():
                if path.stem != "openvino_model":
                    shutil.move(path, folder / path.name)


def convert(source: str, folder: Path, weight_format: str, trust_remote_code: bool) -> None:
    """Weights stored in 16 bits are compressed from 16 bits: a 7 B model takes 27 GB in fp32."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig
    from transformers import AutoConfig

    dtype = weight_format  # explicitly, or models over 1 B get int8
    if weight_format in COMPRESSED:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
        dtype = "fp16" if stored in ("bfloat16", "float16") else "fp32"
    main_export(
        source,
        folder,
        task="text-generation-with-past",
        ov_config=OVConfig(dtype=dtype),
        convert_tokenizer=True,
        trust_remote_code=trust_remote_code,
    )


def unpack_gguf(path: Path, folder: Path) -> Path:
    """De-quantize a GGUF file into a transformers folder, tokenizer and chat template included."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        fields = GGUFReader(path).fields
        kind = fields["tokenizer.ggml.model"].contents()
        if kind == "gpt2" and fields["general.architecture"].contents() == "llama":
            # transformers would take it for a SentencePiece vocabulary.
            tokenizer = byte_level_tokenizer(fields)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    except EXPORT_ERRORS as error:
        raise UserError(f"cannot read {path} as GGUF: {cli.one_line(error)}") from None
    text = "Naïve café: 80 words, isn't it?"
    if tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() != text:
        raise UserError(
            f"the tokenizer inside {path.name} is of a kind that can't be converted: "
            "name the model's original folder"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level_tokenizer(fields: dict):
    """A GGUF file's byte-level BPE tokenizer.

    Raises ValueError where it is unknown how the text is split before BPE.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def value(name: str, default=None):
        field = fields.get(f"tokenizer.{name}")
        return field.contents() if field else default

    split = value("ggml.pre", "default")
    if split not in ("default", "gpt-2", "smollm"):
        raise ValueError(f"unknown tokenizer '{split}'")
    tokens = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value("ggml.token_type"))
    control = [token for token, kind in kinds if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {role: value(f"ggml.{name}_token_id") for role, name in roles.items()}
    special = {f"{role}_token": tokens[id] for role, id in ids.items() if id is not None}
    template = value("chat_template")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)


def compress(model_id: str, converted: Path, folder: Path, settings: dict, text: str | None):
    """Compress the weights of the IR in `converted` with NNCF, join products, save in `folder`.

    With a text, NNCF calibrates on it: activation-aware weight quantization (Lin et al., AWQ,
    2023), scale estimation, and, for a ratio below 1, which layers stay in 8 bits.
    """
    import nncf
    import openvino as ov
    from projections import fuse_projections

    ir = ov.Core().read_model(converted / "openvino_model.xml")
    options = {name: settings[name] for name in NNCF_OPTIONS if name in settings}
    if settings["weight_format"] == "int4":
        options["all_layers"] = False
    if text:
        windows = calibration_inputs(ir, converted, text)
        options |= {"dataset": nncf.Dataset(windows), "subset_size": len(windows)}
    kind = "SYM" if settings["sym"] else "ASYM"
    mode = getattr(nncf.CompressWeightsMode, f"{settings['weight_format'].upper()}_{kind}")
    errors = (nncf.ValidationError, nncf.ParameterNotSupportedError, nncf.InvalidGroupSizeError)
    try:
        ir = nncf.compress_weights(ir, mode=mode, **options)
    except (*errors, nncf.UnsupportedModelError) as error:
        raise UserError(f"cannot compress {model_id}: {cli.one_line(error)}") from None
    fuse_projections(ir)
    ov.save_model(ir, folder / "openvino_model.xml", compress_to_fp16=False)


def calibration_inputs(ir, folder: Path, text: str) -> list[dict]:
    """Windows spread evenly over the text, as inputs of the stateful model `ir`.

    `folder` has its tokenizer. NNCF resets the state before each. Raises UserError where the text
    is shorter than a window.
    """
    import numpy as np
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"]
    count = min(CALIBRATION_WINDOWS, len(ids) // CALIBRATION_TOKENS)
    if not count:
        raise UserError(
            f"the text has {len(ids)} tokens, {CALIBRATION_TOKENS} are needed to calibrate "
            "(--dataset)"
        )
    names = {name for port in ir.inputs for name in port.get_names()}
    windows = []
    for start in np.linspace(0, len(ids) - CALIBRATION_TOKENS, count).astype(int):
        tokens = np.array(ids[start : start + CALIBRATION_TOKENS], dtype=np.int64)[None]
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(tokens.size)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        windows.append({name: value for name, value in inputs.items() if name in names})
    return windows


if __name__ == "__main__":
    cli.run(main)
