"""Damaged and hostile records, the same for the same seed."""

import copy
import json
import random
from collections.abc import Iterator

from conftest import REPO
from simulated import WORKLOADS, record

from harness import record as records

HOSTILE = (
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(1)",
    "$\\frac{1}$",
    "$x",
    "\x1b[31mred\x1b]0;title\x07",
    "\ud800",
    "a|b`c",
    "two\nlines",
    "\t=1",
    "\u202egnp.exe",
    "\0",
    "_hidden",
    "汉字 🚀",
    "word " * 900,
    "x" * 5000,
    "",
    "../..",
)
ODD_NUMBERS = (0, -5, 0.5, 1e308, -1e308, 1e-320, 5e-324, 10**400, 2**64, float("nan"))
ODD_NUMBERS += (float("inf"), float("-inf"), -0.0, 1e24, 1e-9)
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": {}}, [1, 2, 3], ["a"], {"n": 1})


def originals() -> list[dict]:
    """Records of each kind of workload: measured ones of both versions, and simulated ones."""
    example = next(iter(sorted((REPO / "tests/version_1/threads-1").glob("*.json"))))
    measured = records.read(example)
    made = [json.loads(example.read_text()), measured]
    for day, workload in enumerate(WORKLOADS):
        samples = [90.0 + i for i in range(8)]
        simulated = record(samples, workload=workload, latency_s=[0.1] * 8, day=day, concurrency=4)
        real = {key: measured[key] for key in ("model", "system", "placement", "usage")}
        server = {"name": "TGI", "url": "http://h:80", "version": "3", "is_local": True}
        made.append(simulated | real | ({"server": server} if workload == "gpu-tgi" else {}))
    return made


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Files that were records until one to three places of each were damaged."""
    draw, made = random.Random(seed), originals()
    for number in range(count):
        original = made[number % len(made)]
        yield _file(draw, original) if draw.random() < 0.1 else _content(draw, original)


def _content(draw: random.Random, original: dict) -> bytes:
    mutant = copy.deepcopy(original)
    mutant["id"] = f"mutant {draw.random()}"
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(mutant))
        # As likely in each part of the record, however large it is.
        part = draw.choice(sorted({key for _, key, top in places if top is None} - {None}))
        within = [place for place in places if part in (place[1], place[2])]
        inner, key, _ = draw.choice(within)
        _damage(draw, inner, key)
    return json.dumps(mutant, ensure_ascii=draw.random() < 0.9).encode(errors="surrogatepass")


def _places(record: dict) -> Iterator[tuple]:
    """(container, key, key of the part of the record it is in or None) of every value."""
    stack = [(record, key, None) for key in record]
    while stack:
        inner, key, top = stack.pop()
        yield inner, key, top
        value = inner[key]
        below = (
            value
            if isinstance(value, dict)
            else range(len(value))[:20]
            if isinstance(value, list)
            else ()
        )
        stack += [(value, each, top or key) for each in below]


def _damage(draw: random.Random, inner, key) -> None:
    kind = draw.randrange(8)
    value = inner[key]
    if isinstance(value, str) and draw.random() < 0.7:
        inner[key] = draw.choice(HOSTILE)
    elif kind == 0:
        del inner[key]
    elif kind == 1:
        inner[key] = draw.choice(OTHERS)
    elif kind == 2:
        inner[key] = draw.choice(ODD_NUMBERS)
    elif kind == 3:
        inner[key] = draw.choice(HOSTILE)
    elif kind == 4 and isinstance(inner, dict):
        inner[draw.choice(HOSTILE)] = inner.pop(key)
    elif isinstance(value, (int, float)):
        inner[key] = value * draw.choice((-1, 0, 0.5, 3, 1e-300, 1e15, 1e30, 1e300))
    elif isinstance(value, list):
        inner[key] = draw.choice((value[:1], value * 2, value[::-1], [value], [*value, "x"]))
    else:
        inner[key] = draw.choice((str(value), [value], {"value": value}))


def _file(draw: random.Random, original: dict) -> bytes:
    """Damage to the file rather than to its values."""
    content = json.dumps(original).encode()
    at = draw.randrange(len(content))
    deep = draw.choice((500, 900, 5000, 200_000))
    return draw.choice(
        (
            content[:at],
            content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
            b"[" * deep + b"]" * deep,
            content.replace(
                b'"parameters": {',
                b'"parameters": {"x": ' + b'{"x":' * deep + b"0" + b"}" * deep + b",",
                1,
            ),
            content.replace(b"[", b"[1e999, ", 1),
            content.replace(b": ", b": " + b"1" * 5000, 1),
            b"",
            b"\0" * 1000,
        )
    )
