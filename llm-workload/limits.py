"""What this machine can do at most, measured in the run itself: bytes read from memory and multiplications a second.

Both are roofs in the sense of the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009): decoding is held against
the first, prefill against the second. As with STREAM (McCalpin, 1995), the best round counts: a roof is a maximum, and what
others do on the machine only lowers a round.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from bisect import bisect_left
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")
MIN_WORKING_SET_BYTES = 256 * 2**20
CACHES_FOLD = 4  # the working set, in sizes of all caches together
MEMORY_SHARE = 0.25  # of the free memory at most
READ_TIME_S = 0.7
WINDOW_S = 0.025
SLICE_BYTES = 4 * 2**20
GEMM_SIZE = 2048
GEMM_TIME_S = 0.4


@dataclass(frozen=True)
class Limits:
    """`took_s` is how long measuring both took."""

    read_bandwidth_bytes_per_s: float
    peak_gemm_flop_per_s: float
    took_s: float


def measure(device: str, config: dict, threads: int, weight_format: str) -> Limits:
    """Both roofs, with the OpenVINO properties, number of threads, and weights (fp32, fp16, int8, int4) of the run.

    About 4 s on 2 cores. To be called while nothing else of this process computes.
    """
    started = time.perf_counter()
    bandwidth = read_bandwidth_bytes_per_s(threads)
    peak = peak_gemm_flop_per_s(device, config, weight_format)
    return Limits(bandwidth, peak, time.perf_counter() - started)


def measure_apart(device: str, config: dict, threads: int, weight_format: str) -> Limits | None:
    """measure() in a process of its own, so that its memory is not taken for the run's. None where memory is too short, or after
    Ctrl-C."""
    apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        return apart.submit(measure, device, config, threads, weight_format).result()
    except (KeyboardInterrupt, MemoryError, BrokenProcessPool):
        print("warning: the machine's limits were not measured", file=sys.stderr)
        return None
    finally:
        apart.shutdown(wait=False, cancel_futures=True)


def read_bandwidth_bytes_per_s(threads: int, working_set_bytes: int | None = None) -> float:
    """Bytes a second that so many threads, in this process's CPU mask, read from memory.

    Each thread takes dot products of two halves of slices of its own part of an array (BLAS sdot, without Python's lock).
    Of a sum, a maximum, einsum, a matrix times a vector, torch's sum and dot, and OpenVINO's ReduceMax and FullyConnected with
    f32, f16 and u8 weights, that kernel read fastest on 2 cores of an AMD EPYC with 32 MB of L3: 22 to 24 GB/s, OpenVINO's 7 to
    13, the others 10 to 20. It is memory that limits it: of 8 MB it reads 47 to 60 GB/s there, of 256 MB to 3 GB 16 to 24.
    Threads fill their part themselves, each on a CPU of its own, so that on NUMA machines all nodes read their own memory.

    Best window of WINDOW_S in half of READ_TIME_S; the other half reads half the working set. A virtual machine may have more
    cache than it is told: where half the working set reads more than a tenth faster than all of it, it is doubled, twice at
    most and while memory allows.

    Parameters
    ----------
    threads : as many as OpenVINO was given (INFERENCE_NUM_THREADS).
    working_set_bytes : CACHES_FOLD times all caches of the CPUs in the mask, and at least MIN_WORKING_SET_BYTES, unless given.

    Raises MemoryError where not even MIN_WORKING_SET_BYTES are free.
    """
    import psutil

    room = int(psutil.virtual_memory().available * MEMORY_SHARE)
    cpus = sorted(os.sched_getaffinity(0))
    size = min(working_set_bytes or max(MIN_WORKING_SET_BYTES, CACHES_FOLD * cache_bytes(cpus)), room)
    if size < min(MIN_WORKING_SET_BYTES, working_set_bytes or MIN_WORKING_SET_BYTES):
        raise MemoryError(f"{room / 2**20:.0f} MiB may be used, {MIN_WORKING_SET_BYTES // 2**20} are needed to measure memory")
    half, whole = _read_rates(size, threads, cpus)
    for _ in range(2):
        if working_set_bytes is not None or half <= 1.1 * whole or 2 * size > room:
            break
        size *= 2
        half, whole = _read_rates(size, threads, cpus)
    return whole


def _read_rates(size_bytes: int, threads: int, cpus: list[int]) -> tuple[float, float]:
    """Bytes a second read of a half of an array, over and over, and of all of it."""
    import numpy as np

    each = max(size_bytes // threads // 8, 2)  # f32 elements in a half of a thread's part
    pick = one_cpu_a_core(cpus)
    ready = threading.Barrier(threads)
    progress = {share: [None] * threads for share in (0.5, 1.0)}  # (times [N], bytes until then [N]) of each thread
    failed = []

    def read(index: int) -> None:
        try:
            if threads <= len(cpus):
                with contextlib.suppress(OSError):  # it is as well without, but for NUMA
                    os.sched_setaffinity(0, {pick[index]})  # of this thread only
            mine = np.ones(2 * each, np.float32)
            step = min(SLICE_BYTES * max(1, threads // 16) // 4, 2 * each) // 2 * 2  # longer where many want Python's lock
            for share in progress:
                slices = [mine[at : at + step] for at in range(0, max(int(share * mine.size) - step, 0) + 1, step)]
                halves = [(piece[: piece.size // 2], piece[piece.size // 2 : piece.size // 2 * 2]) for piece in slices]
                ready.wait()
                times, done, total = [time.perf_counter()], [0], 0
                while times[-1] - times[0] < READ_TIME_S / 2:
                    for first, second in halves:
                        np.dot(first, second)
                        total += first.nbytes + second.nbytes
                        times.append(time.perf_counter())
                        done.append(total)
                progress[share][index] = (times, done)
        except Exception as error:  # told by the thread that waits; the others must not wait for this one
            failed.append(error)
            ready.abort()

    workers = [threading.Thread(target=read, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])
    return best_rate(progress[0.5]), best_rate(progress[1.0])


def best_rate(progress: list[tuple[list[float], list[int]]], window_s: float = WINDOW_S) -> float:
    """Most bytes a second, of all threads together, in any window of time in which all were at work.

    `progress` has, of each thread, times [N] in s and bytes read until then [N]; in between it is taken to be even.
    """
    start, end = max(times[0] for times, _ in progress), min(times[-1] for times, _ in progress)
    if end <= start:  # more threads than CPUs, taken one after another
        first, last = min(times[0] for times, _ in progress), max(times[-1] for times, _ in progress)
        return sum(done[-1] for _, done in progress) / (last - first)

    def until(moment: float) -> float:
        total = 0.0
        for times, done in progress:
            at = min(max(bisect_left(times, moment), 1), len(times) - 1)
            share = (moment - times[at - 1]) / (times[at] - times[at - 1])
            total += done[at - 1] + min(max(share, 0.0), 1.0) * (done[at] - done[at - 1])
        return total

    window_s = min(window_s, end - start)
    count = max(int((end - start) / window_s * 2) - 1, 1)  # windows overlap by half
    read = [until(start + index * window_s / 2) for index in range(count + 2)]
    return max(later - now for now, later in zip(read, read[2:])) / window_s


def cache_bytes(cpus: list[int], root: Path = CPU) -> int:
    """All unified and data caches of these CPUs, each counted once; 0 where Linux does not tell.

    From /sys/devices/system/cpu/cpu*/cache (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu).
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    caches = {}
    for cpu in cpus:
        for index in (root / f"cpu{cpu}" / "cache").glob("index[0-9]*"):
            try:
                level, kind, size, shared = ((index / name).read_text().strip()
                                             for name in ("level", "type", "size", "shared_cpu_list"))  # fmt: skip
            except OSError:
                continue
            found = re.fullmatch(r"(\d+)([KMG]?)", size)
            if found and kind != "Instruction":
                caches[level, kind, shared] = int(found[1]) * units.get(found[2], 1)
    return sum(caches.values())


def one_cpu_a_core(cpus: list[int], root: Path = CPU) -> list[int]:
    """These CPUs, first one of each physical core, then the rest: the order in which OpenVINO too takes them."""
    firsts, rest, seen = [], [], set()
    for cpu in cpus:
        try:
            core = (root / f"cpu{cpu}" / "topology/thread_siblings_list").read_text().strip()
        except OSError:
            core = str(cpu)
        (rest if core in seen else firsts).append(cpu)
        seen.add(core)
    return firsts + rest


def peak_gemm_flop_per_s(device: str, config: dict, weight_format: str = "fp32") -> float:
    """Floating-point (or 8-bit) operations a second of OpenVINO's own matrix product, an addition and a multiplication each.

    A product of GEMM_SIZE rows with constant weights [GEMM_SIZE, GEMM_SIZE], compiled with the run's properties, so in the
    precision (INFERENCE_PRECISION_HINT), with the rounding of activations (DYNAMIC_QUANTIZATION_GROUP_SIZE) and the threads of
    the run. Once with f32 weights and once with weights as the model has them (int8, int4: NNCF's asymmetric form): a CPU with
    8-bit instructions is faster with those, another one loses time unpacking them. The best round of either counts.
    """
    import numpy as np
    import openvino as ov

    core = ov.Core()
    config = {key: value for key, value in config.items() if not key.startswith(("KV_CACHE", "KEY_CACHE", "VALUE_CACHE"))}
    kinds = ("fp32", weight_format) if weight_format in ("int8", "int4") else ("fp32",)
    rows = np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
    best_s = float("inf")
    for kind in kinds:
        request = core.compile_model(_product(rows.shape, kind), device, config).create_infer_request()
        request.set_input_tensor(ov.Tensor(rows))
        request.infer()
        started, rounds = time.perf_counter(), 0
        while rounds < 2 or time.perf_counter() - started < GEMM_TIME_S:
            before = time.perf_counter()
            request.infer()
            best_s = min(best_s, time.perf_counter() - before)
            rounds += 1
    return 2 * GEMM_SIZE**3 / best_s


def _product(shape: tuple[int, int], weight_format: str):
    """An ov.Model: rows [M, K] times constant weights [K, K], stored as the format says, scales by groups of 64 for int4."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    size, random = shape[1], np.random.default_rng(1)
    rows = op.parameter(list(shape), np.float32)
    if weight_format == "fp32":
        weights = op.constant(random.standard_normal((size, size), np.float32))
    else:
        group = 64 if weight_format == "int4" else size
        grouped = [size, size // group, group] if weight_format == "int4" else [size, size]
        kind, top = (ov.Type.u4, 16) if weight_format == "int4" else (ov.Type.u8, 256)
        packed = random.integers(0, 256, size * size * (4 if kind == ov.Type.u4 else 8) // 8, np.uint8)
        stored = op.constant(ov.Tensor(packed, ov.Shape(grouped), kind))
        per_group = [*grouped[:-1], 1]
        zero = op.constant(np.full(per_group, top // 2, np.uint8))
        scale = op.constant(np.full(per_group, 2 / top, np.float16))
        shifted = op.subtract(op.convert(stored, "f16"), op.convert(zero, "f16"))
        weights = op.multiply(shifted, scale)
        if len(grouped) == 3:
            weights = op.reshape(weights, np.array([size, size]), False)
        weights = op.convert(weights, "f32")
    return ov.Model([op.result(op.matmul(rows, weights, False, True))], [rows], "product")
