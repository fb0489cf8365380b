"""What the LLM server under test says about itself, and one request to see that it answers."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from harness.cli import UserError

# Counters of generated tokens in Prometheus form: TGI, vLLM, SGLang, llama-server.
TOKEN_COUNTERS = (
    "tgi_request_generated_tokens_sum", "vllm:generation_tokens_total", "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
)  # fmt: skip
# ab asks no proxy either.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Probe:
    """An answer looked at in full, which ab does not do."""

    text: str
    body_bytes: int
    generated_tokens: int | None  # None where the answer does not say
    prompt_tokens: int | None


def root(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def fetch(url: str, body: bytes | None = None, timeout_s: float = 10.0) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body. Raises UserError where nobody answers."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"no server answers at {root(url)}: {getattr(reason, 'strerror', None) or reason} "
                        "(start one with `bash gpu-tgi/start_tgi.sh`, or set URL)") from None  # fmt: skip


def fetch_json(url: str) -> dict:
    """The JSON object at `url`; empty where there is none."""
    status, _, body = fetch(url)
    try:
        found = json.loads(body) if status == 200 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_healthy(url: str) -> bool:
    """Whether something answers; a server without /health counts as healthy."""
    try:
        return fetch(root(url) + "/health")[0] in (200, 204, 404)
    except UserError:
        return False


def is_local(url: str) -> bool:
    """Whether the server runs on this machine, so that this machine's GPUs are its own."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(urlsplit(url).hostname, None)}
    except OSError:
        return False
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return bool(addresses & own)


def describe(url: str, api: str, model: str | None, container: str | None) -> tuple[dict, dict]:
    """The record's `server` and `model`. Raises UserError where nobody answers, or somebody else."""
    local = is_local(url)
    docker = _container(container) if container and local else None
    told = {"api": api, "url": url, "is_local": local, "container": docker}
    if api == "tgi":
        info = fetch_json(root(url) + "/info")
        if "model_id" not in info:
            raise UserError(f"{root(url)}/info does not answer as TGI does: for an OpenAI-compatible server set API=openai")
        kept = ("model_device_type", "max_concurrent_requests", "max_total_tokens", "max_input_length", "max_input_tokens",
                "max_batch_total_tokens", "max_batch_size", "waiting_served_ratio", "sha", "docker_label")  # fmt: skip
        server = {**told, "name": "TGI", "version": info.get("version"), "info": {k: info[k] for k in kept if k in info}}
        arguments = docker["arguments"] if docker else []
        quantize = arguments[arguments.index("--quantize") + 1] if "--quantize" in arguments[:-1] else None
        return server, _model(info["model_id"], quantize or info.get("model_dtype"), info.get("model_sha"))
    served = fetch_json(root(url) + "/v1/models").get("data") or [{}]
    name = model or served[0].get("id")
    if not name:
        raise UserError(f"{root(url)}/v1/models names no model: set MODEL to the name the server knows it by")
    version = fetch_json(root(url) + "/version").get("version")
    owner = next((entry.get("owned_by") for entry in served if entry.get("id") == name), None)
    return {**told, "name": owner or "OpenAI-compatible server", "version": version}, _model(name, None, None)


def _model(name: str, weight_format: str | None, revision: str | None) -> dict:
    return {"name": name, "source": name, "weight_format": (weight_format or "unknown").removeprefix("torch."), "bytes": None,
            "sha256": None, "files": [], "export": {"revision": revision}}  # fmt: skip


def _container(name: str) -> dict | None:
    """How the container was started, without its environment, which holds the token."""
    if not shutil.which("docker"):
        return None
    form = '{"image":{{json .Config.Image}},"image_id":{{json .Image}},"arguments":{{json .Args}},"devices":{{json .HostConfig.DeviceRequests}}}'
    try:
        done = subprocess.run(["docker", "inspect", "--type", "container", "--format", form, name], capture_output=True,
                              text=True, timeout=10)  # fmt: skip
        told = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if told:
        arguments = told["arguments"] or []
        hidden = {i + 1 for i, argument in enumerate(arguments) if re.search(r"(api-key|token|secret|password)$", argument)}
        told["arguments"] = ["(hidden)" if i in hidden else argument for i, argument in enumerate(arguments)]
    return told


def gpu_indices(server: dict) -> list[int] | None:
    """The GPUs given to the container; None (all) where it does not say."""
    requests = (server.get("container") or {}).get("devices") or []
    ids = [device for request in requests for device in request.get("DeviceIDs") or []]
    return [int(device) for device in ids] if ids and all(device.isdigit() for device in ids) else None


def request_body(data: dict, api: str, url: str, model: str) -> dict:
    """`data` (as in data.json) in the form that this API wants; what already has that form stays as it is."""
    if api == "tgi" or "inputs" not in data:
        return data
    parameters = data.get("parameters", {})
    asked = {"model": model, "max_tokens": parameters.get("max_new_tokens", 100), "temperature": 0}
    if urlsplit(url).path.endswith("/chat/completions"):
        return {**asked, "messages": [{"role": "user", "content": data["inputs"]}]}
    return {**asked, "prompt": data["inputs"]}


def with_prompt(body: dict, prompt: str) -> dict:
    """The same request for another prompt."""
    if "messages" in body:
        return {**body, "messages": [*body["messages"][:-1], {**body["messages"][-1], "content": prompt}]}
    return {**body, "inputs" if "inputs" in body else "prompt": prompt}


def probe(url: str, body: bytes, timeout_s: float) -> Probe:
    """Send one request and check that it is answered with generated text. Raises UserError."""
    status, headers, answer = fetch(url, body, timeout_s)
    if status != 200:
        said = " ".join(answer.decode(errors="replace").split())[:200]
        raise UserError(f"{url} answers {status} to the request: {said or 'nothing more'} (check URL, API, DATA, MODEL)")
    try:
        told = json.loads(answer)
        if isinstance(told, list):  # TGI at "/"
            told = told[0]
        choice = (told.get("choices") or [{}])[0]
        text = told.get("generated_text") or choice.get("text") or choice.get("message", {}).get("content")
        usage = told.get("usage") or {}
    except (ValueError, AttributeError, IndexError, KeyError):
        text = None
    if not text:
        raise UserError(f"{url} answers without generated text (check URL, API, DATA): {answer[:200].decode(errors='replace')}")

    def tokens(header: str, key: str) -> int | None:
        return int(headers[header]) if headers.get(header, "").isdigit() else usage.get(key)

    return Probe(text, len(answer), tokens("x-generated-tokens", "completion_tokens"), tokens("x-prompt-tokens", "prompt_tokens"))


def generated_tokens_so_far(url: str) -> float | None:
    """The server's own count of generated tokens, from /metrics; None where it has none."""
    try:
        status, _, body = fetch(root(url) + "/metrics")
    except UserError:
        return None
    for counter in TOKEN_COUNTERS if status == 200 else ():
        values = re.findall(rf"^{counter}(?:{{[^}}]*}})? ([\d.eE+-]+)$", body.decode(errors="replace"), re.MULTILINE)
        if values:
            return sum(map(float, values))
    return None
