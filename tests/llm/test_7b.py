"""A model of Llama 2 7B's size is exported and runs within 24 GiB of memory.

RUN_7B=1 ./test.sh -k 7b    (33 GB of disk, a quarter of an hour)
"""

import json
import os
import re
import shutil
import sys

import pytest
from conftest import REPO, Workload

FOLDER = REPO / "llm-workload"
TOKENIZER = FOLDER / "smollm2-135m-instruct-ov"
SHARD_BYTES = 2 * 2**30
MOST_GIB = 24


def make_random_llama(folder, **shape) -> None:
    """A Llama with random weights in bf16, a shard at a time in memory.

    `shape` is of LlamaConfig, whose default is Llama 2 7B's.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    config = LlamaConfig(
        vocab_size=49152, dtype="bfloat16", architectures=["LlamaForCausalLM"], **shape
    )
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()
        }
    torch.manual_seed(0)
    where, shard, size, number = {}, {}, 0, 0
    for name, shape in shapes.items():
        is_norm = name.endswith("norm.weight")
        shard[name] = (
            torch.ones(shape, dtype=torch.bfloat16)
            if is_norm
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
        )
        size += shard[name].nbytes
        if size > SHARD_BYTES or name == list(shapes)[-1]:
            number += 1
            file = f"model-{number:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


@pytest.mark.skipif(
    "RUN_7B" not in os.environ,
    reason="takes a quarter of an hour and 33 GB of disk: RUN_7B=1 runs it",
)
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_a_7b_model_is_exported_and_runs_in_24_gib(tmp_path, weight_format):
    source, exported = tmp_path / "source", tmp_path / f"7b-{weight_format}-ov"
    llm = Workload("llm-workload", tmp_path / "results")
    try:
        make_random_llama(source)
        done = llm.run(
            "export.py",
            "--model_id",
            source,
            "--weight_format",
            weight_format,
            "--output",
            exported,
            timeout=3600,
            fresh=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        export_gib = float(re.search(r"peak memory ([\d.]+) GiB", done.stdout)[1])
        shutil.rmtree(source)
        run, _ = llm.measure(
            "--model_name",
            exported,
            "--prompt_tokens",
            32,
            "--max_new_tokens",
            8,
            "--num_iters",
            1,
            "--warmup",
            0,
            "--skip_limits",
            timeout=1800,
            fresh=True,
        )
        run_gib = run["metrics"]["peak_rss_bytes"]["median"] / 2**30
        print(
            f"{weight_format}: exporting took {export_gib} GiB at most, running {run_gib:.1f} GiB",
            file=sys.stderr,
        )
        assert (
            run["output"]["generated_tokens"] == [8]
            and run["model"]["weight_format"] == weight_format
        )
        assert max(export_gib, run_gib) < MOST_GIB
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(exported, ignore_errors=True)
