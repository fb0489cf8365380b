"""Export a chat model to OpenVINO IR, with its tokenizer, into a folder that infer.py and other OpenVINO runtimes read.

From a Hugging Face model id, a local folder in the same layout, or a GGUF file:
  python3 export.py
  python3 export.py --model_id ./my-llama --output my-llama-ov --weight_format int4
  python3 export.py --model_id SmolLM2-135M-Instruct.Q4_1.gguf --output smollm2-135m-instruct-ov

What a format costs in quality: accuracy.py.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli, files, measure, model as model_files
from harness.cli import UserError

PACKAGES = ("torch", "transformers", "optimum-intel", "nncf", "openvino", "openvino-tokenizers")
HUB_TIMEOUT_S = 10
CALIBRATION_WINDOWS, CALIBRATION_TOKENS = 128, 64  # at most so many windows of the text, of so many tokens each


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--model_id", default="meta-llama/Llama-2-7b-chat-hf", help="hub id, local folder or .gguf file")
    parser.add_argument("--output", type=Path, default=Path("llama-2-7b-chat-ov"), help="folder to make")
    parser.add_argument("--weight_format", choices=("fp32", "fp16", "int8", "int4"), default="int8", help="of the stored weights")
    parser.add_argument("--group_size", type=int, default=64, help="int4: weights that share a scale; -1: a whole row")
    parser.add_argument("--ratio", type=float, default=1.0, help="int4: share of the layers in 4 bits, the rest in 8")
    parser.add_argument("--sym", action="store_true", help="int4 and int8: symmetric quantization")
    parser.add_argument(
        "--dataset", type=Path, metavar="FILE", help="int4: calibrate on this text (UTF-8); not the one judged on"
    )
    parser.add_argument("--awq", action="store_true", help="int4: activation-aware weight quantization; needs --dataset")
    parser.add_argument("--scale_estimation", action="store_true",
                        help="int4: scales that keep layers' outputs near the original's; needs --dataset")  # fmt: skip
    parser.add_argument("--trust_remote_code", action="store_true", help="run the model repository's own Python code")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    text = read_dataset(args)
    source = Path(args.model_id)
    parameters = {"weight_format": args.weight_format}
    if args.weight_format == "int4":
        parameters.update(group_size=args.group_size, ratio=args.ratio)
    if args.weight_format in ("int8", "int4"):
        parameters.update(sym=args.sym)
    if text:
        parameters.update(awq=args.awq, scale_estimation=args.scale_estimation, dataset=args.dataset.name,
                          dataset_sha256=model_files.sha256(args.dataset))  # fmt: skip
    if source.suffix == ".gguf":
        if not source.is_file():
            raise UserError(f"no GGUF file {source}")
        parameters["source_sha256"] = model_files.sha256(source)
    stamp = model_files.stamp(source.name if source.exists() else args.model_id, PACKAGES, **parameters)
    if source.suffix == ".gguf" and model_files.exported_already(args.output, stamp):
        return cli.EXIT_OK
    if not source.exists():
        check_hub_access(args.model_id)

    with model_files.exporting(args.output, stamp) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = args.model_id
        if source.suffix == ".gguf":
            model = str(unpack_gguf(source, Path(scratch, "unpacked")))
        export(model, folder, Path(scratch), args, text)
    print(
        f"{args.output}: {args.model_id} with {args.weight_format} weights; peak memory {measure.peak_rss_bytes() / 2**30:.1f} GiB"
    )
    return cli.EXIT_OK


def read_dataset(args: argparse.Namespace) -> str | None:
    """The text to calibrate on; None where no method asked for needs one. Raises UserError for options that don't go together."""
    asked = [f"--{name}" for name in ("awq", "scale_estimation") if getattr(args, name)]
    if args.weight_format != "int4" and (asked or args.dataset):
        raise UserError(f"{(asked or ['--dataset'])[0]} is for 4-bit weights: add --weight_format int4")
    if asked and not args.dataset:
        raise UserError(f"{asked[0]} needs text like that the model will see: name a file of it with --dataset")
    if not args.dataset:
        return None
    if not asked and args.ratio == 1.0:
        raise UserError("--dataset changes nothing by itself: add --awq, --scale_estimation or a --ratio below 1")
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
    except GatedRepoError:
        raise UserError(
            f"{model_id} is gated: ask for access at https://huggingface.co/{model_id}, then log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{model_id} is neither a local folder, nor a .gguf file, nor a model on the hub that you may see"
        ) from None
    except Exception as error:  # no network, a proxy, the hub down: whatever it is, the hub was not reached
        raise UserError(
            f"cannot reach the hub for {model_id} ({cli.one_line(error)}): name a local folder or .gguf file"
        ) from None


def unpack_gguf(path: Path, folder: Path) -> Path:
    """De-quantize a GGUF file into a transformers folder, tokenizer and chat template included."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        fields = GGUFReader(path).fields
        if fields["tokenizer.ggml.model"].contents() == "gpt2" and fields["general.architecture"].contents() == "llama":
            tokenizer = byte_level_tokenizer(fields)  # transformers would take it for a SentencePiece vocabulary
        else:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise UserError(f"cannot read {path} as GGUF: {cli.one_line(error)}") from None
    text = "Naïve café: 80 words, isn't it?"
    if tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() != text:
        raise UserError(
            f"the tokenizer inside {path.name} is of a kind that can't be converted: name the model's original folder"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level_tokenizer(fields: dict):
    """A GGUF file's byte-level BPE tokenizer.

    Raises ValueError where the way the text is split before BPE is not one of those known here.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def value(name: str, default=None):
        field = fields.get(f"tokenizer.{name}")
        return field.contents() if field else default

    split = value("ggml.pre", "default")
    if split not in ("default", "gpt-2", "smollm"):
        raise ValueError(f"unknown tokenizer '{split}'")
    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == control])
    special = {
        f"{role}_token": tokens[value(f"ggml.{name}_token_id")]
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if value(f"ggml.{name}_token_id") is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=value("chat_template"), **special)


def calibration_inputs(ir, folder: Path, text: str) -> list[dict]:
    """Windows of the text, spread evenly over it, as inputs of the stateful model `ir`, whose tokenizer is in `folder`.

    NNCF resets the state before each. Raises UserError where the text is shorter than a window.
    """
    import numpy as np
    from transformers import AutoTokenizer

    tokens = np.asarray(AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"], dtype=np.int64)
    count = min(CALIBRATION_WINDOWS, len(tokens) // CALIBRATION_TOKENS)
    if not count:
        raise UserError(f"the text has {len(tokens)} tokens: calibration takes {CALIBRATION_TOKENS} or more (--dataset)")
    wanted = {name for port in ir.inputs for name in port.get_names()}
    windows = []
    for start in np.linspace(0, len(tokens) - CALIBRATION_TOKENS, count).astype(int):
        ids = tokens[None, start : start + CALIBRATION_TOKENS]
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None],
                  "beam_idx": np.zeros(1, dtype=np.int32)}  # fmt: skip
        windows.append({name: value for name, value in inputs.items() if name in wanted})
    return windows


def export(model: str, folder: Path, scratch: Path, args: argparse.Namespace, text: str | None = None) -> None:
    """Convert to IR with its tokenizers, then compress the weights where the format asks for it. `text`: to calibrate on."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    is_compressed = args.weight_format in ("int8", "int4")
    converted = scratch / "ir" if is_compressed else folder
    # Said outright, or models over 1 B get int8. Weights stored in 16 bits are compressed from 16 bits: a model of 7 B takes 27 GB
    # in fp32.
    dtype = args.weight_format if not is_compressed else "fp16" if stored_in_16_bits(model, args) else "fp32"
    config = OVConfig(dtype=dtype)
    try:
        main_export(model, converted, task="text-generation-with-past", ov_config=config, convert_tokenizer=True,
                    trust_remote_code=args.trust_remote_code)  # fmt: skip
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"cannot export {args.model_id}: {cli.one_line(error)}") from None
    if is_compressed:
        compress(converted, folder, args, text)
        for path in converted.iterdir():
            if path.stem != "openvino_model":
                shutil.move(path, folder / path.name)


def stored_in_16_bits(model: str, args: argparse.Namespace) -> bool:
    from transformers import AutoConfig

    try:
        told = AutoConfig.from_pretrained(model, trust_remote_code=args.trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"cannot export {args.model_id}: {cli.one_line(error)}") from None
    return str(getattr(told, "dtype", None)).removeprefix("torch.") in ("bfloat16", "float16")


def compress(converted: Path, folder: Path, args: argparse.Namespace, text: str | None) -> None:
    """Compress the weights of the IR in `converted` with NNCF, and save it in `folder`.

    With `text`, NNCF calibrates on it: activation-aware weight quantization (Lin et al., AWQ, 2023), scale estimation, and, for a
    ratio below 1, which layers stay in 8 bits.
    """
    import nncf
    import openvino as ov

    ir = ov.Core().read_model(converted / "openvino_model.xml")
    how = {"mode": getattr(nncf.CompressWeightsMode, f"{args.weight_format.upper()}_{'SYM' if args.sym else 'ASYM'}")}
    if args.weight_format == "int4":
        how.update(group_size=args.group_size, ratio=args.ratio, all_layers=False)
    if text:
        windows = calibration_inputs(ir, converted, text)
        how.update(dataset=nncf.Dataset(windows), subset_size=len(windows), awq=args.awq, scale_estimation=args.scale_estimation)
    refused = (nncf.ValidationError, nncf.ParameterNotSupportedError, nncf.InvalidGroupSizeError, nncf.UnsupportedModelError)
    try:
        ir = nncf.compress_weights(ir, **how)
    except refused as error:
        raise UserError(f"cannot compress {args.model_id}: {cli.one_line(error)}") from None
    ov.save_model(ir, folder / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    cli.run(main)
