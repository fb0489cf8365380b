"""What this machine can do at most: bytes read and floating-point operations per second.

The two roofs of the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009). As in STREAM
(McCalpin, 1995) the best round counts: a roof is a maximum, and other load only lowers a round.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import progress, system

MIN_WORKING_SET_BYTES = 256 * 2**20
CACHE_MULTIPLE = 4  # the working set, in sizes of all caches together
MAX_MEMORY_SHARE = 0.25  # of the free memory
READ_TIME_S = 0.7
WINDOW_S = 0.025
SLICE_BYTES = 4 * 2**20
GEMM_SIZE = 2048
GEMM_TIME_S = 0.4

Reads = tuple[Sequence[float], Sequence[float]]  # times [N] in s, bytes read until then [N]


@dataclass(frozen=True)
class Roofline:
    read_bandwidth_bytes_per_s: float
    peak_gemm_flop_per_s: float
    took_s: float  # measuring both


def measure(device: str, config: dict, threads: int, weight_format: str) -> Roofline:
    """Both roofs, with these OpenVINO properties, threads and weights (fp32, fp16, int8, int4).

    About 4 s on 2 cores. Nothing else of this process may compute at the same time.
    """
    started = time.perf_counter()
    bandwidth = read_bandwidth_bytes_per_s(threads)
    peak = peak_gemm_flop_per_s(device, config, weight_format)
    return Roofline(bandwidth, peak, time.perf_counter() - started)


def measure_apart(device: str, config: dict, threads: int, weight_format: str) -> Roofline | None:
    """measure() in a process of its own, whose memory is not counted as the run's.

    None where memory is too short, or after Ctrl-C.
    """
    context = multiprocessing.get_context("spawn")
    apart = ProcessPoolExecutor(1, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        with progress.stage("Measuring the machine's roofline"):
            return apart.submit(measure, device, config, threads, weight_format).result()
    except (KeyboardInterrupt, MemoryError, BrokenProcessPool):
        print("warning: the machine's roofline was not measured", file=sys.stderr)
        return None
    finally:
        apart.shutdown(wait=False, cancel_futures=True)


def read_bandwidth_bytes_per_s(threads: int, working_set_bytes: int | None = None) -> float:
    """Bytes per second that so many threads, in this process's CPU mask, read from memory.

    Each thread takes dot products of slices of its own part of an array (BLAS sdot, which releases
    Python's lock): of the kernels tried in NumPy, torch and OpenVINO that one read fastest. Each
    fills its part itself, on a CPU of its own, so that every NUMA node reads its own memory.

    The working set is CACHE_MULTIPLE times all caches of the CPUs in the mask unless stated. The
    best window of WINDOW_S in half of READ_TIME_S counts; in the other half, half the working set
    is read. A virtual machine may have more cache than it reports: where half of the working set is
    read over a tenth faster than all of it, it is doubled, at most twice.

    Raises MemoryError where not even MIN_WORKING_SET_BYTES are free.
    """
    import psutil

    free = int(psutil.virtual_memory().available * MAX_MEMORY_SHARE)
    cpus = sorted(os.sched_getaffinity(0))
    wanted = max(MIN_WORKING_SET_BYTES, CACHE_MULTIPLE * cache_bytes(cpus))
    size = min(working_set_bytes or wanted, free)
    if size < min(MIN_WORKING_SET_BYTES, working_set_bytes or wanted):
        raise MemoryError(f"{free / 2**20:.0f} MiB are too few to measure memory")
    half, whole = _read_rates(size, threads, cpus)
    for _ in range(2):
        if working_set_bytes is not None or half <= 1.1 * whole or 2 * size > free:
            break
        size *= 2
        half, whole = _read_rates(size, threads, cpus)
    return whole


def _read_rates(size_bytes: int, threads: int, cpus: list[int]) -> tuple[float, float]:
    """Bytes per second read from half of an array, over and over, and from all of it."""
    elements = max(size_bytes // threads // 8, 2) * 2  # f32, of a thread's part
    # Longer slices where many threads compete for Python's lock.
    step = min(SLICE_BYTES * max(1, threads // 16) // 4, elements) // 2 * 2
    order = system.one_cpu_per_core(cpus)
    ready = threading.Barrier(threads)
    reads: dict[float, list] = {0.5: [None] * threads, 1.0: [None] * threads}
    failures: list[Exception] = []

    def read(index: int) -> None:
        try:
            if threads <= len(cpus):
                with contextlib.suppress(OSError):  # refused in some containers
                    os.sched_setaffinity(0, {order[index]})  # of this thread only
            part = np.ones(elements, np.float32)
            for share in reads:
                starts = range(0, max(int(share * elements) - step, 0) + 1, step)
                halves = [np.split(part[start : start + step], 2) for start in starts]
                ready.wait()
                times, done, total = [time.perf_counter()], [0], 0
                while times[-1] - times[0] < READ_TIME_S / 2:
                    for first, second in halves:
                        np.dot(first, second)
                        total += first.nbytes + second.nbytes
                        times.append(time.perf_counter())
                        done.append(total)
                reads[share][index] = (times, done)
        except Exception as error:  # raised below; the other threads must not wait for this one
            failures.append(error)
            ready.abort()

    workers = [threading.Thread(target=read, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for error in sorted(failures, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return best_rate(reads[0.5]), best_rate(reads[1.0])


def best_rate(reads: Sequence[Reads], window_s: float = WINDOW_S) -> float:
    """Most bytes per second, of all threads together, in a window in which all were at work.

    Between two times of a thread its reading is taken to be even.
    """
    start = max(times[0] for times, _ in reads)
    end = min(times[-1] for times, _ in reads)
    if end <= start:  # more threads than CPUs, run one after another
        first, last = min(times[0] for times, _ in reads), max(times[-1] for times, _ in reads)
        return sum(done[-1] for _, done in reads) / (last - first)

    window_s = min(window_s, end - start)
    count = max(int((end - start) / window_s * 2) - 1, 1)  # windows overlap by half
    moments = start + np.arange(count + 2) * window_s / 2
    done_until = np.sum([np.interp(moments, times, done) for times, done in reads], axis=0)
    return float(max(done_until[2:] - done_until[:-2])) / window_s


def cache_bytes(cpus: Sequence[int], root: Path = system.CPU) -> int:
    """All unified and data caches of these CPUs, each counted once; 0 where Linux lists none.

    From cpu*/cache (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu).
    """
    caches = {}
    for cpu in cpus:
        for index in (root / f"cpu{cpu}" / "cache").glob("index[0-9]*"):
            names = ("level", "type", "shared_cpu_list", "size")
            *cache, size = (system.read(index / name) or "" for name in names)
            found = re.fullmatch(r"(\d+)([KMG]?)", size)
            if found and cache[1] != "Instruction":
                caches[tuple(cache)] = int(found[1]) * 1024 ** " KMG".index(found[2] or " ")
    return sum(caches.values())


def peak_gemm_flop_per_s(device: str, config: dict, weight_format: str = "fp32") -> float:
    """Operations per second of OpenVINO's own matrix product, 2 per multiply-add.

    GEMM_SIZE rows times constant weights [GEMM_SIZE, GEMM_SIZE], compiled with the run's
    properties: its precision, its rounding of activations and its threads. Once with f32 weights
    and once with weights as the model has them (int8, int4: NNCF's asymmetric form): a CPU with
    8-bit instructions is faster with those, others lose time unpacking them. The best round counts.
    """
    import openvino as ov

    core = ov.Core()
    caches = ("KV_CACHE", "KEY_CACHE", "VALUE_CACHE")  # no such thing in a product
    config = {name: value for name, value in config.items() if not name.startswith(caches)}
    rows = np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
    best_s = float("inf")
    for stored_as in sorted({"fp32", weight_format} & {"fp32", "int8", "int4"}):
        compiled = core.compile_model(matrix_product(rows.shape, stored_as), device, config)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(rows))
        request.infer()
        started, rounds = time.perf_counter(), 0
        while rounds < 2 or time.perf_counter() - started < GEMM_TIME_S:
            before = time.perf_counter()
            request.infer()
            best_s = min(best_s, time.perf_counter() - before)
            rounds += 1
    return 2 * GEMM_SIZE**3 / best_s


def matrix_product(shape: Sequence[int], weight_format: str):
    """ov.Model of rows [M, K] times constant weights [K, K]; int4 has a scale per group of 64."""
    import openvino as ov
    from openvino import opset13 as op

    size, random = shape[1], np.random.default_rng(1)
    rows = op.parameter(list(shape), np.float32)
    if weight_format == "fp32":
        weights = op.constant(random.standard_normal((size, size), np.float32))
    else:
        is_int4 = weight_format == "int4"
        grouped = [size, size // 64, 64] if is_int4 else [size, size]
        element, levels = (ov.Type.u4, 16) if is_int4 else (ov.Type.u8, 256)
        packed = random.integers(0, 256, size * size // (2 if is_int4 else 1), np.uint8)
        stored = op.constant(ov.Tensor(packed, ov.Shape(grouped), element))
        per_group = [*grouped[:-1], 1]
        zero = op.constant(np.full(per_group, levels // 2, np.uint8))
        scale = op.constant(np.full(per_group, 2 / levels, np.float16))
        difference = op.subtract(op.convert(stored, "f16"), op.convert(zero, "f16"))
        weights = op.multiply(difference, scale)
        if is_int4:
            weights = op.reshape(weights, np.array([size, size]), False)
        weights = op.convert(weights, "f32")
    return ov.Model([op.result(op.matmul(rows, weights, False, True))], [rows], "product")
