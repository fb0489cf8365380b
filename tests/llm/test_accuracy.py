"""What a setting costs in quality: accuracy.py against PyTorch and on good and broken models."""

import random
import shutil

import numpy as np
import pytest
from conftest import REPO, assert_one_line
from llm_in_process import DEMO, InProcess

TEXT = REPO / "LICENSE"
SHORT = ("--text", TEXT, "--max_tokens", 128, "--max_new_tokens", 16)


@pytest.fixture
def llm(tmp_path) -> InProcess:
    return InProcess("llm-workload", tmp_path / "results")


def score(llm: InProcess, model, *args, **how) -> dict:
    """The record of a run of accuracy.py that must succeed."""
    named = ("--model_name", model, "--results_dir", llm.results)
    done = llm.run("accuracy.py", *named, *args, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Perplexity: " in done.stdout
    return llm.last_record()


def value(run: dict, metric: str) -> float:
    return run["metrics"][metric]["median"]


def tiny_model(folder, seed: int):
    """A Llama of two layers with the demo's tokenizer; its random weights make decided choices."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder with an fp32 export, its PyTorch model, its tokenizer)"""
    folder = tmp_path_factory.mktemp("tiny")
    made = tiny_model(folder / "torch", 0)
    named = ("--model_id", folder / "torch", "--output", folder / "fp32")
    done = InProcess("llm-workload", folder).run("export.py", *named, "--weight_format", "fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, *made


def broken_copy(model, copy) -> None:
    """A copy of an exported model with noise for weights."""
    import openvino as ov

    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("openvino_model.*"))
    ir = ov.Core().read_model(model / "openvino_model.xml")
    for node in ir.get_ops():
        if (
            node.get_type_name() == "Constant"
            and node.data.dtype == np.float32
            and node.data.size > 1000
        ):
            noise = (
                np.random.default_rng(0)
                .normal(0, node.data.std(), node.data.shape)
                .astype(np.float32)
            )
            node.output(0).replace(ov.op.Constant(noise).output(0))
    ov.save_model(ir, copy / "openvino_model.xml", compress_to_fp16=False)


def torch_perplexity(model, tokens, context: int, stride: int) -> float:
    """As in https://huggingface.co/docs/transformers/perplexity, but each token weighs alike."""
    import torch

    total, count, before = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + context, len(tokens))
        ids = torch.tensor(tokens[None, begin:end])
        labels = ids.clone()
        labels[:, : before - end] = -100  # scored in the window before
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
        count += int((labels[0, 1:] != -100).sum())
        before = end
        if end == len(tokens):
            break
    return float(np.exp(total / count))


@pytest.mark.parametrize("context, stride", [(64, 24), (64, 64), (256, 128)])
def test_each_token_is_scored_once(context, stride):
    from accuracy import windows_of

    for count in (2, 63, 64, 65, 300):
        scored = [
            t
            for window in windows_of(count, context, stride)
            for t in range(window.first, window.end)
        ]
        unscored = {0} | (
            set(range(0, count, stride)) if stride == context else set()
        )  # nothing is before these
        assert scored == [t for t in range(count) if t not in unscored]
        assert all(
            w.first > w.begin and w.end - w.begin <= context
            for w in windows_of(count, context, stride)
        )


def test_perplexity_is_pytorchs_and_a_model_agrees_with_itself(llm, tiny):
    folder, model, tokenizer = tiny
    read = ("--text", TEXT, "--context", 64, "--stride", 24, "--max_tokens", 200)
    compared = ("--num_prompts", 6, "--prompt_tokens", 16, "--max_new_tokens", 24)
    models = ("--reference_model", folder / "fp32", "--precision", "f32")
    run = score(llm, folder / "fp32", *models, *read, *compared)
    text = TEXT.read_text()
    tokens = np.array(tokenizer(text)["input_ids"])[:200]
    assert value(run, "perplexity") == pytest.approx(
        torch_perplexity(model, tokens, 64, 24), rel=1e-4
    )
    low, high = run["metrics"]["perplexity"]["ci95"]
    assert low < value(run, "perplexity") < high and sum(run["output"]["tokens_scored"]) == 199
    nats = np.dot(np.ravel(run["samples"]["nll_per_token"]), run["output"]["tokens_scored"])
    assert value(run, "bits_per_byte") == pytest.approx(
        nats / np.log(2) / len(tokenizer.decode(tokens[1:]).encode())
    )
    assert run["workload"] == "llm-accuracy" and run["primary"] == "perplexity"
    assert value(run, "token_agreement") == 1 and run["metrics"]["perplexity_ratio"]["ci95"] == [
        1,
        1,
    ]
    gate = run["output"]["gate"]
    assert (gate["metric"], gate["limit"], gate["passed"]) == ("perplexity_ratio", 1.01, True)
    assert value(run, "kl_divergence") == 0 and set(
        np.ravel(run["samples"]["tokens_until_divergence"])
    ) <= set(range(1, 25))


def test_a_broken_model_shows(llm, tiny, tmp_path):
    folder, *_ = tiny
    broken_copy(folder / "fp32", tmp_path / "broken")
    (tmp_path / "broken/export.json").unlink()  # which would tell that it was changed
    run = score(llm, tmp_path / "broken", "--reference_model", folder / "fp32", *SHORT, fresh=True)
    assert value(run, "token_agreement") < 0.05 and value(run, "kl_divergence") > 1
    assert value(run, "tokens_until_divergence") < 2
    assert run["parameters"]["context"] == 256  # the model's maximum
    assert run["output"]["reference"]["sha256"] != run["model"]["sha256"]


def test_the_caches_precision_counts_and_is_read_back(llm, tiny):
    folder, *_ = tiny
    cache = ("--precision", "f32", "--kv_cache_precision", "u4")
    cache += ("--dynamic_quantization_group_size", 64)
    run = score(llm, folder / "fp32", "--reference_model", folder / "fp32", *SHORT, *cache)
    properties = run["placement"]["openvino_properties"]["model"]
    assert (
        properties["KV_CACHE_PRECISION"] == "u4"
        and properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 64
    )
    assert (
        value(run, "kl_divergence") > 0
        and value(run, "perplexity_ratio") != 1
        and not any("requested" in warning for warning in run["warnings"])
    )


def test_shuffled_words_are_less_likely(llm, tmp_path):
    words = (REPO / "audio-ai-workload" / "sample.txt").read_text().split()
    values = []
    for order in (words, random.Random(0).sample(words, len(words))):
        path = tmp_path / "text.txt"
        path.write_text(" ".join(order))
        values.append(value(score(llm, DEMO, "--text", path), "perplexity"))
    assert 5 < values[0] < 40 and values[1] > 3 * values[0]


def test_int4_by_activations_is_recorded(llm, tiny, tmp_path):
    folder, *_ = tiny
    text = tmp_path / "calibration.txt"
    text.write_text(TEXT.read_text()[:3000])
    out = tmp_path / "awq"
    named = ("--model_id", folder / "torch", "--output", out, "--weight_format", "int4")
    done = llm.run("export.py", *named, "--dataset", text, "--awq", "--scale_estimation")
    assert done.returncode == 0, done.stdout + done.stderr
    run = score(llm, out, "--reference_model", folder / "fp32", *SHORT)
    stamp = run["model"]["export"]
    assert (
        stamp["awq"]
        and stamp["scale_estimation"]
        and stamp["dataset"] == "calibration.txt"
        and len(stamp["dataset_sha256"]) == 64
    )
    assert run["model"]["weight_format"] in (
        "int4",
        "int8",
    )  # the tiny model's embeddings, in 8 bits, outweigh its layers
    assert {"u4", "u8"} & set(run["placement"]["executed_precisions"]["model"])
    assert 0.05 < value(run, "token_agreement") < 1


def test_mistakes_are_one_line_each(llm, tiny, tmp_path):
    from transformers import AutoTokenizer

    folder, *_ = tiny

    def fails(*args, words=(), script="accuracy.py"):
        assert_one_line(llm.run(script, *args), *words)

    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text(" \n")
    short.write_text("Two words.")
    a = ("--model_name", folder / "fp32")
    done = llm.run("accuracy.py", "--model_name", "nowhere", fresh=True)
    assert_one_line(done, "no model folder nowhere", "export.py")
    fails(*a, "--reference_model", "nowhere", words=("no model folder nowhere",))
    fails(*a, "--text", empty, words=("is empty",))
    fails(*a, "--text", tmp_path / "no.txt", words=("no.txt", "--text"))
    fails(*a, "--context", 300, words=("exceeds", "256"))
    fails(*a, "--context", 64, "--stride", 65, words=("--stride",))
    fails(*a, "--text", short, "--reference_model", folder / "fp32", words=("too few",))
    other = tmp_path / "other"
    shutil.copytree(folder / "fp32", other)
    changed = AutoTokenizer.from_pretrained(DEMO)
    changed.add_tokens(["<another>"])
    changed.save_pretrained(other)
    fails(*a, "--reference_model", other, words=("different vocabularies",))
    (other / "tokenizer.json").write_text("{}")
    fails(*a, "--reference_model", other, words=("cannot load",))
    export = {"script": "export.py"}
    fails("--model_id", folder, "--awq", **export, words=("--awq is for 4-bit", "int4"))
    fails(
        "--model_id",
        folder,
        "--awq",
        "--weight_format",
        "int4",
        **export,
        words=("--awq", "--dataset"),
    )
    fails(
        "--model_id",
        folder,
        "--dataset",
        TEXT,
        "--weight_format",
        "int4",
        **export,
        words=("changes nothing",),
    )
    assert llm.run("accuracy.py", "--kv_cache_precision", "u9").returncode == 2
