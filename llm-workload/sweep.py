"""Measure every combination of prompt lengths, answer lengths and batch sizes on a loaded model.

  python3 sweep.py --model_name="llama-2-7b-chat-ov" --prompt_tokens 32 256 1024 --batch_size 1 4

Prompts are random tokens, different in each call. Each combination is measured as by infer.py
--prompt_tokens and has a record of its own; their medians are printed as a table, and written to
--table and --plot.
"""

import argparse
import csv
import itertools
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import infer
import model
from runtimes import RUNTIMES

from harness import files, plot, run

COLUMNS = {
    "tokens/s": "tokens_per_second",
    "TTFT s": "time_to_first_token_s",
    "prefill tokens/s": "prompt_tokens_per_second",
    "TPOT s": "time_per_output_token_s",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_model_arguments(parser)
    infer.add_runtime_arguments(parser)
    model.add_generation_arguments(parser)
    add = parser.add_argument
    numbers = {"type": cli.positive_int, "nargs": "+", "metavar": "N"}
    add("--prompt_tokens", **numbers, default=[32, 256, 1024], help="tokens per prompt")
    add("--max_new_tokens", **numbers, default=[128], help="tokens to generate per prompt")
    add("--batch_size", **numbers, default=[1, 4], help="prompts answered together")
    named = "default: beside the records, named after the time"
    add("--table", type=Path, help=f"the medians as CSV ({named})")
    add("--plot", type=Path, help=f"picture of prefill and decode ({named})")
    cli.add_common_arguments(parser, iteration="one answer to each prompt", num_iters=6)
    args = parser.parse_args()
    if args.json:
        parser.error("each combination has a record of its own: leave --json out")
    return args


def main() -> int:
    args = parse_args()
    model.check_folder(args.model_name)
    run.check_destination(args)
    name = f"llm-sweep_{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    for option, suffix in (("table", ".csv"), ("plot", ".png")):
        path = getattr(args, option) or args.results_dir / (name + suffix)
        files.check_new(path, f"--{option}", args.overwrite)
        setattr(args, option, path)
    loaded = model.load(args.model_name, RUNTIMES[args.runtime], args)
    system = model.print_header(args, loaded)
    model.check_context(loaded.text, max(args.prompt_tokens), max(args.max_new_tokens))
    rows, status = [], cli.EXIT_OK
    first_s = roofs = None
    combinations = itertools.product(args.prompt_tokens, args.max_new_tokens, args.batch_size)
    for combination in combinations:
        prompt_tokens, max_new_tokens, batch_size = combination
        print(f"\n== {prompt_tokens} prompt tokens, {max_new_tokens} new, batch {batch_size}")
        config = model.generation_config(args, loaded.text, max_new_tokens)
        prompts = model.random_prompts(loaded.text, prompt_tokens, args.seed)
        job = infer.Job(prompts, config, batch_size, args.warmup, args.num_iters, args.min_duration)
        try:
            first_s = first_s or infer.first_inference_time_s(loaded, job)
            described = infer.describe(args, loaded, system, job)
            measured = infer.measure(loaded, job, run.start(args, **described))
        except KeyboardInterrupt:
            run.discard()
            print("interrupted: the combinations measured until then are below", file=sys.stderr)
            status = cli.EXIT_INTERRUPTED
            break
        roofs = roofs or infer.measure_roofline(args, loaded, measured)
        record = infer.make_record(args, described, loaded, job, measured, first_s, roofs)
        settings = dict(zip(("prompt_tokens", "max_new_tokens", "batch_size"), combination))
        record["parameters"] |= settings
        status = run.finish(record, args)
        metrics = record["metrics"]
        medians = {label: metrics.get(name, {}).get("median") for label, name in COLUMNS.items()}
        rows.append({**settings, **medians})
        if status != cli.EXIT_OK:
            break
    if rows:
        show(rows, args)
    return status


def show(rows: list[dict], args: argparse.Namespace) -> None:
    """Print the table, write it and the picture. What can't be written is only a warning."""
    lines = [["-" if cell is None else f"{cell:.4g}" for cell in row.values()] for row in rows]
    print("\n" + "\n".join(cli.columns([list(rows[0]), *lines], str.rjust)))
    try:
        with open(args.table, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"Table: {args.table}")
    except OSError as error:
        print(f"warning: cannot write {args.table}: {error.strerror} (--table)", file=sys.stderr)
    panels = [plot.Panel(label, series(rows, label)) for label in ("prefill tokens/s", "TPOT s")]
    plot.lines(args.plot, panels, "prompt tokens")


def series(rows: list[dict], label: str) -> dict[str, list[tuple[float, float]]]:
    """Points over prompt length, a line per batch size and answer length."""
    lines: dict[str, list] = {}
    for row in rows:
        if row[label] is not None:
            name = f"batch {row['batch_size']}, {row['max_new_tokens']} new tokens"
            lines.setdefault(name, []).append((row["prompt_tokens"], row[label]))
    return lines


if __name__ == "__main__":
    cli.run(main)
