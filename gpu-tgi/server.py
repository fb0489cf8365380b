"""What the LLM server under test says about itself, and one request to see that it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil
from prometheus_client.parser import text_string_to_metric_families

from harness import cli
from harness.cli import UserError
from harness.redaction import HIDDEN, is_secret, redact, redact_command

RECOVERY_WAIT_S = 15.0  # for a server that went away to come back
TOKEN_COUNTERS = (
    "tgi_request_generated_tokens_sum",
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
)
INSPECTED = (
    '{"image":{{json .Config.Image}},"image_id":{{json .Image}},"arguments":{{json .Args}},'
    '"devices":{{json .HostConfig.DeviceRequests}}}'
)
MAX_BYTES = 16 * 2**20  # of an answer


@dataclass(frozen=True)
class Probe:
    """An answer read in full, which ab does not do."""

    text: str
    headers: dict[str, str]  # names in lower case
    body_bytes: int
    generated_tokens: int | None  # None where the answer does not say
    prompt_tokens: int | None


def plain(text: object, limit: int = 200) -> str:
    """What a server said, fit to be printed and recorded: one line, short, without secrets."""
    return cli.printable(" ".join(redact(str(text)[: 8 * limit]).split()))[:limit]


def root(url: str) -> str:
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"


def fetch(
    url: str, body: bytes | None = None, timeout_s: float = 10.0
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body; as ab without a proxy and redirects.

    Raises UserError where nobody answers, or not in `timeout_s` and MAX_BYTES.
    """
    expired = threading.Event()
    try:
        status, headers, content = _exchange(url, body, timeout_s, expired)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if expired.is_set():
            reason = f"no whole answer came within {timeout_s:g} s"
        raise UserError(
            f"no server answers at {redact(root(url))}: {plain(reason)} "
            "(start one with `bash gpu-tgi/start_tgi.sh`, or set URL)"
        ) from None
    if status in (301, 302, 303, 307, 308):
        where = plain(headers.get("location", "nowhere"))
        raise UserError(
            f"{redact(url)} redirects ({status}) to {where}: set URL to the server's own"
        )
    return status, headers, content


def _exchange(
    url: str, body: bytes | None, timeout_s: float, expired: threading.Event
) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    https = parts.scheme == "https"
    connect = http.client.HTTPSConnection if https else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)

    def expire() -> None:
        expired.set()
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, expire)  # the connection's own timeout is per read
    try:
        connection.connect()
        open_socket = connection.sock
        timer.start()
        path = parts._replace(scheme="", netloc="", fragment="").geturl()
        headers = {"Content-Type": "application/json"}
        connection.request("POST" if body else "GET", path or "/", body, headers)
        answer = connection.getresponse()
        content = answer.read(MAX_BYTES + 1)
    finally:
        timer.cancel()
        connection.close()
    if len(content) > MAX_BYTES:
        raise ValueError(f"the answer is longer than {MAX_BYTES} bytes")
    if answer.length:
        raise ValueError(f"the answer was cut off: {answer.length} bytes are missing")
    if expired.is_set():
        raise ValueError
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def fetch_json(url: str) -> dict:
    """The JSON object at `url`; empty where there is none."""
    status, _, body = fetch(url)
    try:
        found = json.loads(body) if status == 200 else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def wait_until_healthy(url: str) -> bool:
    """Whether something answers within RECOVERY_WAIT_S; one without /health counts as healthy."""
    deadline = time.monotonic() + RECOVERY_WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(UserError):
            if fetch(root(url) + "/health")[0] in (200, 204, 404):
                return True
        time.sleep(0.5)
    return False


def is_local(url: str) -> bool:
    """Whether the server runs on this machine, so that this machine's GPUs are its own."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(urlsplit(url).hostname, None)}
    except OSError:
        return False
    interfaces = psutil.net_if_addrs().values()
    return bool(addresses & {own.address for interface in interfaces for own in interface})


def describe(url: str, api: str, model: str | None, container: str) -> tuple[dict, dict]:
    """The record's `server` and `model`. Raises UserError where nobody answers, or another API."""
    local = is_local(url)
    docker = _container(container) if local else None
    if api == "tgi":
        info = fetch_json(root(url) + "/info")
        if not isinstance(info.get("model_id"), str):
            raise UserError(
                f"{root(url)}/info does not answer as TGI does: "
                "for an OpenAI-compatible server set API=openai"
            )
        name, version = "TGI", info.get("version")
    else:
        listed = fetch_json(root(url) + "/v1/models").get("data")
        served = (
            [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        )
        model = model or next((each["id"] for each in served if each.get("id")), None)
        if not model:
            raise UserError(
                f"{root(url)}/v1/models names no model: set MODEL to its name on the server"
            )
        info = {"model_id": model}
        owner = next((each.get("owned_by") for each in served if each.get("id") == model), None)
        name = owner or "OpenAI-compatible server"
        version = fetch_json(root(url) + "/version").get("version")
    info = {plain(key): _scalar(key, value) for key, value in list(info.items())[:100]}
    arguments = docker["arguments"] if docker else []
    quantize = "--quantize" in arguments[:-1] and arguments[arguments.index("--quantize") + 1]
    weight_format = str(quantize or info.get("model_dtype") or "unknown")
    return {
        "name": plain(name),
        "url": redact(url),
        "api": api,
        "version": None if version is None else plain(version),
        "is_local": local,
        "container": docker,
        "info": info,
    }, {
        "name": info["model_id"],
        "source": info["model_id"],
        "weight_format": weight_format.removeprefix("torch."),
        "bytes": None,
        "sha256": None,
        "files": [],
        "export": {"revision": info.get("model_sha")},
    }


def _scalar(key: str, value: object) -> str | float | None:
    """A value of a server's /info for the record: no more than a line."""
    if is_secret(key):
        return HIDDEN
    if isinstance(value, (int, float)) and abs(value) < 1e15:  # neither infinite nor NaN
        return value
    return None if value is None else plain(value)


def _container(name: str) -> dict | None:
    """How the container was started, without its environment, which holds the token."""
    if not shutil.which("docker"):
        return None
    command = ["docker", "inspect", "--type", "container", "--format", INSPECTED, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        container = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if container:
        container["arguments"] = redact_command(container["arguments"] or [])
    return container


def gpu_indices(server: dict) -> list[int] | None:
    """The GPUs to watch: those given to the container; None (all) where it does not say."""
    if not server["is_local"]:
        return []
    requests = (server["container"] or {}).get("devices") or []
    ids = [device for request in requests for device in request.get("DeviceIDs") or []]
    return [int(each) for each in ids] if ids and all(each.isdigit() for each in ids) else None


def request_body(data: dict, api: str, url: str, model: str) -> dict:
    """`data` (as in data.json) in this API's form; what already has that form stays as it is."""
    if api == "tgi" or "inputs" not in data:
        return data
    max_tokens = data.get("parameters", {}).get("max_new_tokens", 100)
    body = {"model": model, "max_tokens": max_tokens, "temperature": 0}
    if urlsplit(url).path.endswith("/chat/completions"):
        return {**body, "messages": [{"role": "user", "content": data["inputs"]}]}
    return {**body, "prompt": data["inputs"]}


def max_new_tokens(body: dict) -> int | None:
    """As the request limits them; None where it does not."""
    return body.get("parameters", {}).get("max_new_tokens") or body.get("max_tokens")


def with_prompt(body: dict, prompt: str) -> dict:
    """The same request for another prompt."""
    if "messages" in body:
        last = {**body["messages"][-1], "content": prompt}
        return {**body, "messages": [*body["messages"][:-1], last]}
    return {**body, "inputs" if "inputs" in body else "prompt": prompt}


def parse_answer(answer: bytes) -> dict | None:
    """The JSON object of an answer with generated text, of any API here; None for all else."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, list) and parsed:  # TGI at "/"
        parsed = parsed[0]
    is_one = isinstance(parsed, dict) and ("generated_text" in parsed or "choices" in parsed)
    return parsed if is_one else None


def probe(url: str, body: bytes, timeout_s: float) -> Probe:
    """Send one request; raise UserError where the answer holds no generated text."""
    status, headers, answer = fetch(url, body, timeout_s)
    if status != 200:
        said = plain(answer.decode(errors="replace")) or "nothing more"
        raise UserError(f"{redact(url)} answers {status}: {said} (check URL, API, DATA, MODEL)")
    parsed, text = parse_answer(answer) or {}, None
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        text = parsed.get("generated_text") or parsed["choices"][0].get("text")
        text = text or parsed["choices"][0]["message"]["content"]
    if not isinstance(text, str) or not text:
        said = plain(answer.decode(errors="replace"))
        raise UserError(
            f"{redact(url)} answers without generated text (check URL, API, DATA): {said}"
        )
    usage = parsed["usage"] if isinstance(parsed.get("usage"), dict) else {}

    def tokens(header: str, key: str) -> int | None:
        stated = str(headers.get(header, usage.get(key)))
        return int(stated) if re.fullmatch("[0-9]{1,15}", stated) else None

    generated = tokens("x-generated-tokens", "completion_tokens")
    prompt = tokens("x-prompt-tokens", "prompt_tokens")
    return Probe(text, headers, len(answer), generated, prompt)


def generated_tokens_so_far(url: str) -> float | None:
    """The server's own count of generated tokens, from /metrics; None where it has none."""
    try:
        status, _, body = fetch(root(url) + "/metrics")
        families = text_string_to_metric_families(body.decode(errors="replace"))
        counts = [each for family in families for each in family.samples if status == 200]
    except (UserError, ValueError, LookupError, TypeError):
        return None
    for counter in TOKEN_COUNTERS:
        values = [sample.value for sample in counts if sample.name == counter]
        if values:
            return sum(values) if math.isfinite(sum(values)) else None
    return None
