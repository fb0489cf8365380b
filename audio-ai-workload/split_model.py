"""Whisper's encoder and decoder as OpenVINO models, split so that no decoding step repeats work.

The keys and values that the decoder's cross-attention reads are the same for a whole 30 s window:
the encoder model computes them too, and the decoder takes them as inputs. Those of the tokens so
far the decoder keeps inside, as state.

W windows of audio are decoded together, G sequences for each (the beam size), N = W * G sequences
in all. Shorter prompts begin with padding, which is never attended to and does not count as a
position.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import torch
import torch.nn.functional as F
from openvino import opset13 as opset
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

CROSS = "cross_"
DECODER_INPUTS = ("tokens", "beam_idx", "padding", "logits_at")


def cross_names(n_layer: int) -> list[str]:
    """Names of the encoder's outputs that are the decoder's inputs, in order."""
    return [f"{CROSS}{kind}.{layer}" for layer in range(n_layer) for kind in ("key", "value")]


def split_heads(x: torch.Tensor, batch, n_head: int) -> torch.Tensor:
    """[any batch, T, state] -> [batch, heads, T', state / heads]"""
    return x.view(batch, -1, n_head, x.shape[-1] // n_head).permute(0, 2, 1, 3)


class EncoderWithCrossAttention(torch.nn.Module):
    """openai-whisper's AudioEncoder, and what each layer of the decoder makes of its result."""

    def __init__(self, whisper_model):
        super().__init__()
        self.encoder = whisper_model.encoder
        blocks = whisper_model.decoder.blocks
        self.attentions = torch.nn.ModuleList(block.cross_attn for block in blocks)

    def forward(self, mel):
        """mel [W, n_mels, frames] -> features [W, n_audio_ctx, state], then for each layer keys,
        scaled for the dot product, and values [W, heads, n_audio_ctx, D]."""
        features, crossed = self.encoder(mel), []
        for attention in self.attentions:
            windows, heads = features.shape[0], attention.n_head
            keys = split_heads(attention.key(features), windows, heads)
            values = split_heads(attention.value(features), windows, heads)
            crossed += [(keys * keys.shape[-1] ** -0.5).contiguous(), values.contiguous()]
        return features, *crossed


class CachedDecoder(torch.nn.Module):
    """openai-whisper's TextDecoder with its cache as inputs and outputs."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens, beam_idx, padding, logits_at, crossed, cache):
        """tokens int64 [N, T], beam_idx int32 [N], padding int64 [N], the number of each sequence's
        first tokens that are none, logits_at int64 [L], which of the T tokens, the encoder's keys
        and values, and keys and values [N, heads, P, D] of the P tokens before, two per layer
        -> logits [N, L, vocabulary] and the cache with T tokens more."""
        decoder, n, t, past = self.decoder, tokens.shape[0], tokens.shape[1], cache[0].shape[2]
        windows = crossed[0].shape[0]
        queries, places = torch.arange(past, past + t), torch.arange(past + t)
        positions = (queries - padding[:, None]).clamp(min=0)
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[positions]
        visible = (places <= queries[:, None]) & (places >= padding[:, None, None])
        # Finite, as padding sees nothing at all, and a mean of nothing is not a number.
        mask = torch.where(visible, 0.0, -1e9)[:, None]
        updated = []
        for index, block in enumerate(decoder.blocks):
            attention, heads, y = block.attn, block.attn.n_head, block.attn_ln(x)
            keys, values = (
                torch.cat([old.index_select(0, beam_idx), split_heads(new(y), n, heads)], dim=2)
                for old, new in zip(cache[2 * index :], (attention.key, attention.value))
            )
            query = split_heads(attention.query(y), n, heads)
            y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            x = x + attention.out(y.permute(0, 2, 1, 3).flatten(start_dim=2))
            updated += [keys, values]

            # No mask: the sequences of a window share its keys as if they were one long sequence.
            attention, y = block.cross_attn, block.cross_attn_ln(x)
            keys, values = crossed[2 * index : 2 * index + 2]
            query = split_heads(attention.query(y), windows, attention.n_head)
            y = torch.softmax(query @ keys.transpose(-1, -2), dim=-1) @ values
            x = x + attention.out(y.permute(0, 2, 1, 3).reshape(n, t, -1))

            x = x + block.mlp(block.mlp_ln(x))
        picked = decoder.ln(x.index_select(1, logits_at))
        return picked @ decoder.token_embedding.weight.transpose(0, 1), *updated


def convert(module: torch.nn.Module, example, **shapes) -> ov.Model:
    """By tracing, once: the check that a second trace is equal would take most of the time."""
    tracing = {"example_input": example, "trace_kwargs": {"check_trace": False}}
    decoder = TorchScriptPythonDecoder(module.eval(), **tracing)
    return ov.convert_model(decoder, example_input=example, **shapes)


def convert_encoder(whisper_model) -> ov.Model:
    """Input mel; outputs audio_features and cross_names(). Shapes: EncoderWithCrossAttention."""
    dims = whisper_model.dims
    shape = [dims.n_mels, 2 * dims.n_audio_ctx]
    module = EncoderWithCrossAttention(whisper_model)
    model = convert(module, torch.zeros(1, *shape), input=[-1, *shape])
    model.input(0).set_names({"mel"})
    for port, name in zip(model.outputs, ["audio_features", *cross_names(dims.n_text_layer)]):
        port.set_names({name})
    return model


def convert_decoder(whisper_model) -> ov.Model:
    """Inputs DECODER_INPUTS and cross_names(); output logits; the cache is state.

    Shapes: CachedDecoder.
    """
    dims = whisper_model.dims
    layers, heads, frames = dims.n_text_layer, dims.n_text_head, dims.n_audio_ctx
    width = dims.n_text_state // heads
    tokens, beam_idx = torch.zeros(2, 2, dtype=torch.int64), torch.arange(2, dtype=torch.int32)
    padding, logits_at = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    crossed = [torch.zeros(2, heads, frames, width)] * (2 * layers)
    cache = [torch.zeros(2, heads, 3, width)] * (2 * layers)
    example = (tokens, beam_idx, padding, logits_at, crossed, cache)
    model = convert(CachedDecoder(whisper_model.decoder), example)

    states = [f"{kind}.{layer}" for layer in range(layers) for kind in ("key", "value")]
    names = [*DECODER_INPUTS, *cross_names(layers), *(f"past_{name}" for name in states)]
    per_layer = [[[-1, heads, frames, width]], [[-1, heads, -1, width]]]
    shapes = [[-1, -1], [-1], [-1], [-1]] + sum((shape * 2 * layers for shape in per_layer), [])
    for port, name, shape in zip(model.inputs, names, shapes):
        port.set_names({name})
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    for port, name in zip(model.outputs, ["logits", *(f"present_{name}" for name in states)]):
        port.set_names({name})
    model.validate_nodes_and_infer_types()
    variables = {f"past_{name}": f"present_{name}" for name in states}
    apply_make_stateful_transformation(model, variables)

    # A state begins as [N, heads, 0, D]: N is known from the tokens only.
    zero, first = opset.constant(np.float32(0)), opset.constant([0])
    shape = opset.shape_of(model.input("tokens"), output_type="i64")
    rest = opset.constant(np.array([heads, 0, width]))
    n = opset.gather(shape, first, opset.constant(0))
    empty = opset.broadcast(zero, opset.concat([n, rest], axis=0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()
    return model


def store_cross(model: ov.Model, element: ov.Type) -> None:
    """Let the encoder or decoder have cross_names() in this type, outside the model.

    Of a type other than computed in, the decoder would convert all of it at each step: a third of
    a step's time in bf16.
    """
    for port in model.inputs:
        if port.any_name.startswith(CROSS):
            readers = port.get_target_inputs()
            port.get_node().set_element_type(element)
            inside = opset.convert(port, "f32")
            for reader in readers:
                reader.replace_source_output(inside.output(0))
    for port in model.outputs:
        if port.any_name.startswith(CROSS):
            source = port.get_node().input_value(0)
            outside = opset.convert(source, element.get_type_name())
            outside.output(0).set_names(source.get_names())
            source.set_names(set())
            port.get_node().input(0).replace_source_output(outside.output(0))
    model.validate_nodes_and_infer_types()


def build_aligner(decoder: ov.Model, heads: list[list[int]]) -> ov.Model:
    """Give the decoder a second output, attention [N, len(heads), T, n_audio_ctx].

    It is the cross-attention before the softmax of each [layer, head] in `heads`, in order. For
    word timestamps: whole sequences at once, one window. The dot products are found as what reads
    a layer's cross_key, so any exported decoder will do, with any weights.
    """
    picked = []
    for layer, head in heads:
        readers = decoder.input(f"{CROSS}key.{layer}").get_target_inputs()
        nodes = [port.get_node() for port in readers]
        (product,) = (node for node in nodes if node.get_type_name() == "MatMul")
        picked.append(opset.gather(product, opset.constant([head]), opset.constant(1)))
    attention = decoder.add_outputs(opset.concat(picked, axis=1).output(0))[0]
    attention.set_names({"attention"})
    return decoder
