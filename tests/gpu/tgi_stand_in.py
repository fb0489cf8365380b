"""A stand-in for TGI: its protocol, headers and log lines, with known delays and failures.

It generates nothing: a request of `max_new_tokens` takes that many times --time_per_token, at most
--slots side by side, the others queue. What it served goes to --served, one JSON object per
request, as measured here. Prints its port when ready.
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import sys
import time
from datetime import datetime, timezone
from itertools import count

PHRASES = {
    200: "OK",
    302: "Found",
    404: "Not Found",
    422: "Unprocessable Entity",
    424: "Failed Dependency",
    429: "Too Many Requests",
}
TROUBLES = {
    "cut": "half of the body",
    "drip": "a byte of the body now and then",
    "endless": "a body without end",
    "page": "a web page, whatever was asked for, as from a proxy whose server is gone",
    "text": "the right body as text",
    "no_text": "JSON of another kind",
    "no_headers": "without TGI's own headers",
    "cache": "the answer before, at once",
    "redirect": "redirects to where nobody listens",
}


def debug(ns: int) -> str:
    """A duration as Rust's Debug prints it."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if ns >= size:
            whole, rest = divmod(ns, size)
            digits = str(rest).zfill(len(str(size)) - 1).rstrip("0")
            return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
    return f"{ns}ns"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--served", required=True)
    parser.add_argument("--version", default="3.3.4")
    parser.add_argument("--log_format", choices=("text", "colour", "json"), default="colour")
    parser.add_argument("--time_per_token", type=float, default=0.002, help="s")
    parser.add_argument("--slots", type=int, default=10**6)
    parser.add_argument("--max_concurrent", type=int, default=10**6, help="answers 429 beyond")
    parser.add_argument("--fail_every", type=int, default=0, help="answers every n-th with 424")
    parser.add_argument(
        "--drop_every", type=int, default=0, help="closes every n-th without a word"
    )
    parser.add_argument(
        "--reset_every", type=int, default=0, help="resets the connection of every n-th"
    )
    parser.add_argument("--cut_every", type=int, default=0, help="sends half of every n-th answer")
    parser.add_argument("--die_at", type=int, default=0, help="the process ends at the n-th")
    parser.add_argument("--hang_at", type=int, default=0, help="falls silent from the n-th on")
    parser.add_argument("--trouble", choices=TROUBLES, help="with every answer")
    parser.add_argument("--trouble_from", type=int, default=2, help="from the n-th request on")
    parser.add_argument("--split", action="store_true", help="sends the body after the header")
    parser.add_argument("--info", type=json.loads, default={}, help="more of /info")
    return parser.parse_args()


class StandIn:
    def __init__(self, options):
        self.options, self.log, self.served = (
            options,
            open(options.log, "a"),
            open(options.served, "a"),
        )
        self.number, self.tokens, self.under_way = count(1), 0, 0
        self.slots = asyncio.Semaphore(options.slots)
        self.trouble, self.last = None, b""

    async def handle(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split("\r\n")[0].split(" ")
                headers = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
                )
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, more, answer = await self.answer(method, path, body)
                if self.trouble in ("page", "redirect"):
                    status = 200 if self.trouble == "page" else 302
                    more = {"content-type": "text/html", "location": "http://127.0.0.1:9/x"}
                    answer = b"<html><body>We are back soon</body></html>"
                if status is None:
                    if more.get("reset"):
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, linger
                        )
                    break
                keep = headers.get("connection", "").lower() == "keep-alive"
                headers = {
                    "content-type": "application/json",
                    **more,
                    "content-length": len(answer),
                    "connection": "keep-alive" if keep else "close",
                }
                if "endless" in more:
                    del headers["content-length"]
                lines = [
                    f"HTTP/1.1 {status} {PHRASES[status]}",
                    *(f"{k}: {v}" for k, v in headers.items()),
                ]
                head = "\r\n".join(lines).encode() + b"\r\n\r\n"
                sent = answer[: len(answer) // 2] if more.get("x-cut") else answer
                if self.options.split:
                    writer.write(head)
                    await writer.drain()
                    await asyncio.sleep(0.005)
                    head = b""
                while "drip" in more or "endless" in more:
                    writer.write(head + b" " * (1 if "drip" in more else 100_000))
                    await writer.drain()
                    await asyncio.sleep(0.2)
                    head = b""
                writer.write(head + sent)
                await writer.drain()
                if not keep or more.get("x-cut"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method, path, body):
        if path == "/health":
            return 200, {}, b""
        if path == "/info":
            info = {
                "model_id": "stand-in/Llama-2-7b",
                "model_sha": "0f1e",
                "model_dtype": "torch.bfloat16",
                "max_concurrent_requests": 2000,
                "model_device_type": "cuda",
                "version": self.options.version,
                **self.options.info,
            }
            return 200, {}, json.dumps(info).encode()
        if path == "/metrics":
            return (
                200,
                {},
                f"# TYPE x counter\ntgi_request_generated_tokens_sum {self.tokens}\n".encode(),
            )
        if path != "/generate" or method != "POST":
            return 404, {}, b""
        return await self.generate(body)

    async def generate(self, body):
        options, number, arrived = self.options, next(self.number), time.perf_counter_ns()
        if number == options.die_at:
            os._exit(1)
        if options.trouble and number >= options.trouble_from:
            self.trouble = options.trouble
        if self.trouble == "cache":
            return self.last
        if options.hang_at and number >= options.hang_at:
            await asyncio.sleep(3600)
        if options.drop_every and number % options.drop_every == 0:
            self.serve(number, status=None)
            return None, {}, b""
        if options.reset_every and number % options.reset_every == 0:
            self.serve(number, status=None)
            return None, {"reset": True}, b""
        try:
            request = json.loads(body)
            tokens = request["parameters"]["max_new_tokens"]
            prompt = request["inputs"]
        except (ValueError, KeyError):
            return 422, {}, b'{"error":"Input validation error","error_type":"validation"}'
        if self.under_way >= options.max_concurrent:
            self.serve(number, status=429)
            return 429, {}, b'{"error":"Model is overloaded","error_type":"overloaded"}'
        self.under_way += 1
        try:
            queued = time.perf_counter_ns()
            async with self.slots:
                started = time.perf_counter_ns()
                await asyncio.sleep(tokens * options.time_per_token)
                ended = time.perf_counter_ns()
        finally:
            self.under_way -= 1
        if options.fail_every and number % options.fail_every == 0:
            self.serve(number, status=424)
            return (
                424,
                {},
                b'{"error":"Request failed during generation","error_type":"generation"}',
            )
        times = {
            "total_time": ended - arrived,
            "validation_time": queued - arrived,
            "queue_time": started - queued,
            "inference_time": ended - started,
            "time_per_token": (ended - started) // tokens,
        }
        self.tokens += tokens
        self.success(times)
        self.serve(
            number,
            status=200,
            tokens=tokens,
            prompt=prompt,
            **{f"{k}_s": v / 1e9 for k, v in times.items()},
        )
        headers = {f"x-{name.replace('_', '-')}": ns // 10**6 for name, ns in times.items()}
        if self.options.version >= "2":
            headers |= {"x-prompt-tokens": 15, "x-generated-tokens": tokens}
        if options.cut_every and number % options.cut_every == 0:
            headers["x-cut"] = 1
        answer = {"generated_text": " word" * tokens}
        if self.trouble == "cut":
            headers["x-cut"] = 1
        elif self.trouble in ("drip", "endless"):
            headers[self.trouble] = 1
        elif self.trouble == "text":
            headers["content-type"] = "text/plain"
        elif self.trouble == "no_text":
            answer = {"status": "ok"}
        elif self.trouble == "no_headers":
            headers = {}
        self.last = 200, headers, json.dumps(answer).encode()
        return self.last

    def serve(self, number, **facts):
        self.served.write(json.dumps({"number": number, **facts}) + "\n")
        self.served.flush()

    def success(self, times):
        """The line TGI's router logs for a finished request."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        parameters = (
            'GenerateParameters { best_of: None, stop: ["total_time=\\"9s\\""], '
            "max_new_tokens: Some(100), seed: None }"
        )
        spans = {**{k: debug(v) for k, v in times.items()}, "seed": "None"}
        target, source = "text_generation_router::server", "router/src/server.rs"
        if self.options.log_format == "json":
            span = {"parameters": parameters, **spans, "name": "generate"}
            line = json.dumps(
                {
                    "timestamp": now,
                    "level": "INFO",
                    "message": "Success",
                    "target": target,
                    "filename": source,
                    "line_number": 289,
                    "span": span,
                    "spans": [span],
                },
                ensure_ascii=False,
            )
        else:

            def style(code, text):
                return f"\x1b[{code}m{text}\x1b[0m" if self.options.log_format == "colour" else text

            equals = style(2, "=")
            fields = " ".join(
                [
                    style(3, "parameters") + equals + parameters,
                    *(f'{style(3, k)}{equals}"{v}"' for k, v in spans.items()),
                ]
            )
            generate = style(1, "generate") + style(1, "{") + fields + style(1, "}") + style(2, ":")
            where = style(2, target) + style(2, ":") + " " + style(2, source + ":")
            line = (
                f"{style(2, now)} {style(32, ' INFO')} {generate} {where}{style(2, '289:')} Success"
            )
        self.log.write(f"{now} DEBUG another line: Success\n{line}\n")
        self.log.flush()


async def main():
    options = parse_args()
    stand_in = StandIn(options)
    host = os.environ.get("STAND_IN_HOST", "127.0.0.1")
    listener = await asyncio.start_server(stand_in.handle, host, options.port, backlog=4096)
    print(listener.sockets[0].getsockname()[1], flush=True)
    async with listener:
        await listener.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
