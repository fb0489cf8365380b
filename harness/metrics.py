"""The table of metrics: name, unit, direction, label and definition of everything that is measured.

What is printed, drawn, compared and documented takes them from a record, and a record from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    better: str | None  # "higher", "lower", or None where neither is
    label: str
    definition: str
    printed: bool = True  # in the summary of a run; the record has all


# Two lines per metric: name | unit | better | label, then its definition. A name in brackets is
# recorded but not printed.
_TABLE = """
tokens_per_second | tokens/s | higher | Throughput
    Generated tokens over the time they took, prefill included.
generation_time_s | s | lower | Generation time
    From the prompt's token ids to the last new token's id.
time_to_first_token_s | s | lower | Time to first token (TTFT)
    From the prompt's token ids, or the request, to the first new token.
prompt_tokens_per_second | tokens/s | higher | Prefill
    Prompt tokens over the time to first token.
time_per_output_token_s | s | lower | Time per output token (TPOT)
    Time from the first new token to the last, over the tokens after the first.
inter_token_latency_s | s | none | Inter-token latency
    Time between two consecutive tokens.
tokenization_time_s | s | none | Tokenization
    From text to token ids.
detokenization_time_s | s | none | Detokenization
    From token ids to text.
first_inference_time_s | s | lower | First inference
    The first inference after loading: the prompt and one token.
mfu | of peak | none | Prefill MFU
    Model FLOPs utilization: the prompt's FLOP over TTFT, over the measured GEMM peak.
mbu | of peak | none | Decode MBU
    Model bandwidth utilization: bytes read per step over TPOT, over the measured read bandwidth.
energy_per_token_j | J/token | lower | Energy
    Energy of all CPU packages and their memory, over the generated tokens.
users | users | higher | Users
    The most users, thinking in between, of whose answers 95 % had TTFT and TPOT within the limits.
perplexity | perplexity | lower | Perplexity
    exp of the mean negative log-likelihood of the text's tokens.
(nll_per_token) | nats/token | lower | Negative log-likelihood
    Mean negative log-likelihood of a window's tokens.
bits_per_byte | bits/byte | lower | Bits per byte
    The text's negative log-likelihood in bits, over its length in UTF-8.
perplexity_ratio | times | lower | Perplexity ratio
    Perplexity over the reference model's, paired by window.
token_agreement | share | higher | Token agreement
    Share of the reference's tokens that the model would choose too.
kl_divergence | nats/token | lower | KL divergence
    Of the model's distribution of the next token from the reference's.
tokens_until_divergence | tokens | higher | Tokens until divergence
    Tokens that both models' greedy answers share before they part.

frames_per_second | frames/s | higher | Throughput
    Frames that were finished, over time, the pipeline being full from beginning to end.
inference_time_per_frame_s | s | lower | Inference time per frame
    Time of a frame's OpenVINO request, others running beside it, over its batch size.
frame_latency_s | s | lower | Frame latency
    From the decoded frame to the frame taken by the encoder, or drawn.
(pass_time_s) | s | lower | Time per pass
    The frames of one pass over the video, over throughput.
cpu_time_per_frame_s | s | lower | CPU time per frame
    CPU time of the process over frames.
cpu_utilization | share | higher | CPU utilization
    CPU time of the process, over time and the CPUs in the mask.
(decode_time_per_frame_s) | s | lower | Decode time per frame
    Time of this stage in all its threads, over frames.
(letterbox_time_per_frame_s) | s | lower | Letterbox time per frame
    Time of this stage in all its threads, over frames.
(postprocess_time_per_frame_s) | s | lower | Postprocess time per frame
    Time of this stage in all its threads, over frames.
(save_time_per_frame_s) | s | lower | Save time per frame
    Time of this stage in all its threads, over frames.
(draw_time_per_frame_s) | s | lower | Draw time per frame
    Time of this stage in all its threads, over frames.
(encode_time_per_frame_s) | s | lower | Encode time per frame
    Time of this stage in all its threads, over frames.
energy_per_frame_j | J/frame | lower | Energy
    Energy of all CPU packages and their memory, over frames.
cameras | cameras | higher | Cameras
    The most live cameras of which each had under 1 % of its frames late or dropped.
camera_frames_per_second | frames/s | none | Throughput
    Frames of all cameras that were finished, over time.
frame_delay_s | s | none | Frame delay
    From when a camera's frame was due to its result.
mask_map50_95 | share | higher | Mask mAP50-95
    Mean average precision of masks against ground truth, mean over overlaps of 0.50 to 0.95.
mask_map50 | share | higher | Mask mAP50
    Mean average precision of masks against ground truth, at an overlap of 0.50.
box_map50_95 | share | higher | Box mAP50-95
    Mean average precision of boxes against ground truth, mean over overlaps of 0.50 to 0.95.
box_map50 | share | higher | Box mAP50
    Mean average precision of boxes against ground truth, at an overlap of 0.50.

rtfx | × real time | higher | RTFx
    Inverse real-time factor: seconds of audio over seconds of transcription.
transcription_time_s | s | lower | Transcription time
    From the samples of all files to their transcripts.
word_error_rate | errors per word | lower | Word error rate (WER)
    Wrong, missing and surplus words over the reference's words, normalized, pooled.
character_error_rate | errors per character | lower | Character error rate (CER)
    The same of characters.
word_start_error_s | s | lower | Word start error
    Absolute error of words' starts, of words that match the reference.
word_end_error_s | s | lower | Word end error
    The same of words' ends.
energy_per_audio_second_j | J/audio second | lower | Energy
    Energy of all CPU packages and their memory, over seconds of audio.
calls | calls | higher | Calls
    The most live calls of which each had under 1 % of its transcripts late.
time_to_first_text_s | s | none | Time to first text
    From a window's first sample to its transcript.
window_delay_s | s | none | Transcript delay
    From a window's last sample to its transcript.

requests_per_second | requests/s | higher | Throughput
    Requests answered successfully over the time of an ab run.
successful_requests | requests | higher | Successful requests
    Requests answered successfully.
request_latency_s | s | lower | Request latency
    From connecting to the last byte, as ab sees it.
server_total_time_s | s | lower | Server total time
    A request's time in the server, by its log.
validation_time_s | s | none | Server validation time
    Time to validate and tokenize a request, by the server's log.
queue_time_s | s | lower | Server queue time
    Time a request waited in the server's queue, by its log.
server_inference_time_s | s | lower | Server inference time
    A request's time from the queue to its last token, by the server's log.
server_time_per_token_s | s | lower | Server time per token
    Server inference time over generated tokens: prefill included.
gpu_utilization | share | none | GPU utilization
    Share of the time in which a kernel ran, by NVML.
gpu_memory_used_bytes | bytes | lower | GPU memory
    Most in use, by NVML.
gpu_power_w | W | lower | GPU power
    Of all GPUs, by NVML.
gpu_energy_per_token_j | J/token | lower | GPU energy
    Energy of all GPUs over generated tokens.
levels | levels | none | Levels
    Levels of concurrency that were measured whole.
concurrency_within_slo | requests | higher | Concurrency within SLO
    The highest concurrency whose 95th percentile of latency is within the objective.
generated_tokens_per_request | tokens | none | Tokens per request
    Generated tokens over successful requests.
failed_requests | requests | none | Failed requests
    Requests without a whole, successful answer.
(duration_s) | s | none | Duration
    Time of an ab run.

(load_time_s) | s | lower | Load time
    Reading and compiling the model.
peak_rss_bytes | bytes | lower | Peak memory
    Largest resident memory of the process, mapped files included.
"""


def _parse(table: str) -> dict[str, Metric]:
    lines = [line for line in table.splitlines() if line.strip()]
    metrics = {}
    for line, definition in zip(lines[::2], lines[1::2]):
        name, unit, better, label = line.split(" | ")
        printed, name = not name.startswith("("), name.strip("()")
        direction = None if better == "none" else better
        metrics[name] = Metric(name, unit, direction, label, definition.strip(), printed)
    return metrics


METRICS = _parse(_TABLE)
