"""openai-whisper's decoding of windows, several at once, giving the same tokens in less time.

Of DecodingTask what is replaced is where every token pays: the timestamp rules, the choice of the
next token, and that windows decoded together must have equal prompts. The rest, from options to
results, is openai-whisper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from whisper import decoding as original

PADDING = 0  # any token will do: it is never attended to


class Steps(original.Inference):
    """The decoding steps of some slots' windows; N sequences, windows times beams.

    `padding` is int64 [N], how many of each sequence's first tokens are none.
    """

    def __init__(self, stream, slots: Sequence, padding: np.ndarray, sot_index: int):
        self._stream, self._padding, self._sot_index = stream, padding, sot_index
        self._beam_idx, self._begun = None, False
        stream.begin(stream.decoder, slots)

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        """At first of two tokens, the one at sot_index and the last; then of the last only."""
        logits_at = [self._sot_index, tokens.shape[1] - 1]
        if self._begun:
            tokens, logits_at = tokens[:, -1:].contiguous(), [0]
        self._begun = True
        beam_idx, self._beam_idx = self._beam_idx, None
        step, request = self._stream.step, self._stream.decoder
        return torch.from_numpy(step(request, tokens.numpy(), beam_idx, self._padding, logits_at))

    def rearrange_kv_cache(self, source_indices) -> None:
        self._beam_idx = np.array(source_indices, dtype=np.int32)


class WindowsTask(original.DecodingTask):
    """Decodes the windows that a stream has encoded for these slots.

    `options` are those of each window, which differ in prompt and language only.
    """

    def __init__(self, stream, slots: Sequence, options: Sequence[original.DecodingOptions]):
        model = slots[0]
        prompts = [original.DecodingTask(model, each).initial_tokens for each in options]
        longest = max(map(len, prompts))
        self._rows = [(PADDING,) * (longest - len(prompt)) + prompt for prompt in prompts]
        self._languages = [each.language for each in options]
        super().__init__(model, options[0])
        padding = np.array([longest - len(prompt) for prompt in prompts], np.int64)
        padding = np.repeat(padding, self.n_group)
        self.inference = Steps(stream, slots, padding, self.sot_index)
        self.sot_index = 0  # of the logits requested
        old = self.decoder
        if isinstance(old, original.BeamSearchDecoder):
            self.decoder = BeamSearch(old.beam_size, old.eot, self.inference, old.patience)
        elif old.temperature == 0:
            self.decoder = Greedy(0, old.eot)
        self.logit_filters = [faster(rule) for rule in self.logit_filters]

    def run_all(self) -> list[original.DecodingResult]:
        """run() takes a tensor of as many rows as windows."""
        return self.run(torch.empty(len(self._rows), 0))

    def _get_initial_tokens(self) -> tuple[int, ...]:
        return self._rows[0]

    def _get_audio_features(self, mel: torch.Tensor) -> torch.Tensor:
        # Encoded already. One row per sequence, as run() takes every n_group-th.
        return mel.new_empty(len(mel) * self.n_group, 0)

    def _detect_language(self, audio_features: torch.Tensor, tokens: torch.Tensor):
        tokens[:] = torch.tensor(self._rows)
        return self._languages, None


def faster(rule: original.LogitFilter) -> original.LogitFilter:
    if isinstance(rule, original.ApplyTimestampRules):
        return TimestampRules(rule.tokenizer, rule.sample_begin, rule.max_initial_timestamp_index)
    if isinstance(rule, original.SuppressTokens):
        # From a list it would be made for every token.
        rule.suppress_tokens = torch.tensor(rule.suppress_tokens)
    return rule


class TimestampRules(original.ApplyTimestampRules):
    """The same rules without the softmax over the vocabulary, as logits order tokens equally."""

    def apply(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        begin, eot = self.tokenizer.timestamp_begin, self.tokenizer.eot
        scores = logits.numpy()  # the same memory
        scores[:, self.tokenizer.no_timestamps] = -np.inf
        for row, sampled in zip(scores, tokens[:, self.sample_begin :].tolist()):
            after_timestamp = bool(sampled) and sampled[-1] >= begin
            after_pair = after_timestamp and (len(sampled) < 2 or sampled[-2] >= begin)
            if after_pair:  # they come in pairs, but for one at the very end
                row[begin:] = -np.inf
            elif after_timestamp:
                row[:eot] = -np.inf
            last = next((token for token in reversed(sampled) if token >= begin), None)
            if last is not None:  # they never decrease, and no segment is empty
                row[begin : last + (not after_timestamp or after_pair)] = -np.inf
            if not sampled:
                row[:begin] = -np.inf
                if self.max_initial_timestamp_index is not None:
                    row[begin + self.max_initial_timestamp_index + 1 :] = -np.inf
            # A timestamp is due where all of them together are likelier than any one token of text.
            times, highest = row[begin:], row[begin:].max()
            if highest > -np.inf:
                if highest + np.log(np.exp(times - highest).sum()) > row[:begin].max():
                    row[:begin] = -np.inf


class Greedy(original.GreedyDecoder):
    """GreedyDecoder at temperature 0."""

    def update(
        self, tokens: torch.Tensor, logits: torch.Tensor, sum_logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, bool]:
        picked = torch.from_numpy(logits.numpy().argmax(axis=1))  # faster than torch's
        ended = tokens[:, -1] == self.eot
        sum_logprobs += logits.log_softmax(dim=1)[range(len(picked)), picked] * ~ended
        picked[ended] = self.eot
        return torch.cat([tokens, picked[:, None]], dim=1), bool((picked == self.eot).all())


class BeamSearch(original.BeamSearchDecoder):
    """BeamSearchDecoder with its search for the best tokens in all sequences at once."""

    def update(
        self, tokens: torch.Tensor, logits: torch.Tensor, sum_logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, bool]:
        beams = self.beam_size
        if self.finished_sequences is None:
            self.finished_sequences = [{} for _ in range(len(tokens) // beams)]
        logprobs, best = logits.log_softmax(dim=1).topk(beams + 1)
        totals = (sum_logprobs[:, None] + logprobs).tolist()
        best, prefixes = best.tolist(), tokens.tolist()
        next_tokens, sources = [], []
        for window, finished in enumerate(self.finished_sequences):
            candidates = {}  # sequence: (its log probability, its source); equal ones count once
            for index in range(window * beams, (window + 1) * beams):
                for token, total in zip(best[index], totals[index]):
                    candidates[(*prefixes[index], token)] = (total, index)
            kept = 0
            likeliest = sorted(candidates.items(), key=lambda item: -item[1][0])
            for sequence, (total, source) in likeliest:
                if sequence[-1] == self.eot:
                    if len(finished) < self.max_candidates:
                        finished[sequence] = total
                    continue
                sum_logprobs[len(next_tokens)] = total
                next_tokens.append(sequence)
                sources.append(source)
                kept += 1
                if kept == beams:
                    break
        self.inference.rearrange_kv_cache(sources)
        ended = all(len(found) >= self.max_candidates for found in self.finished_sequences)
        return torch.tensor(next_tokens), ended
