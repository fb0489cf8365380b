"""Measure every combination of prompt lengths, answer lengths and batch sizes on one loaded model.

  python3 sweep.py --model_name="llama-2-7b-chat-ov" --prompt_tokens 32 256 1024 --max_new_tokens 16 128 --batch_size 1 4

Prompts are random tokens, other ones each time. Each combination is measured as by infer.py --prompt_tokens, and has a record of
its own. What they come to is printed as a table, and written to --table and --plot.
"""

import argparse
import csv
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import infer
from harness import cli, placement as place, record

SHOWN = {
    "tokens/s": "tokens_per_second",
    "TTFT s": "time_to_first_token_s",
    "prefill tokens/s": "prompt_tokens_per_second",
    "TPOT s": "time_per_output_token_s",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    infer.add_model_arguments(parser)
    for name, default, what in (
        ("prompt_tokens", [32, 256, 1024], "tokens in a prompt"),
        ("max_new_tokens", [128], "tokens to generate for each prompt"),
        ("batch_size", [1, 4], "prompts answered together"),
    ):
        parser.add_argument(f"--{name}", type=cli.positive_int, nargs="+", default=default, metavar="N", help=what)
    parser.add_argument("--table", type=Path, default=Path("sweep.csv"), help="the medians as CSV")
    parser.add_argument("--plot", type=Path, default=Path("sweep.png"), help="picture of both rates against prompt length")
    cli.add_common_arguments(parser, iteration="one answer to each prompt", num_iters=6)
    args = parser.parse_args()
    if args.json:
        parser.error("each combination has a record of its own: leave --json out")
    for name in ("concurrency", "prompt_file", "chat", "stream"):  # options of infer.py's that a sweep has not
        setattr(args, name, None)
    return args


def main() -> int:
    args = parse_args()
    placement = place.Placement.from_arguments(args)
    infer.check_folder(args)
    record.check_destination(args)
    loaded = infer.Loaded(args, placement)
    infer.check_context(loaded.context, max(args.prompt_tokens), max(args.max_new_tokens))
    rows, status = [], cli.EXIT_OK
    try:
        for prompt_tokens, max_new_tokens, batch_size in itertools.product(
            args.prompt_tokens, args.max_new_tokens, args.batch_size
        ):
            its = argparse.Namespace(**{**vars(args), "prompt_tokens": prompt_tokens, "max_new_tokens": max_new_tokens,
                                        "batch_size": batch_size})  # fmt: skip
            print(f"\n== {prompt_tokens} prompt tokens, {max_new_tokens} new, batch {batch_size}")
            run = loaded.run(its)
            status = record.finish(run, its)
            rows.append({"prompt_tokens": prompt_tokens, "max_new_tokens": max_new_tokens, "batch_size": batch_size,
                         **{label: run["metrics"].get(name, {}).get("median") for label, name in SHOWN.items()}})  # fmt: skip
            if status != cli.EXIT_OK:
                break
    except KeyboardInterrupt:
        status = cli.EXIT_INTERRUPTED
        print("interrupted: the combinations measured until then are below", file=sys.stderr)
    if rows:
        show(rows, args)
    return status


def show(rows: list[dict], args: argparse.Namespace) -> None:
    """Print the table, write it and the picture. What can't be written is told: the records are there."""
    told = [[f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "-") for value in row.values()]
            for row in rows]  # fmt: skip
    print("\n" + "\n".join(cli.columns([list(rows[0]), *told], str.rjust)))
    try:
        with open(args.table, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        plot(rows, args.plot)
    except (OSError, ValueError) as error:
        print(f"warning: cannot write the table or the picture: {cli.one_line(error)} (--table, --plot)", file=sys.stderr)
    else:
        print(f"Table: {args.table}; plot: {args.plot}")


def plot(rows: list[dict], path: Path) -> None:
    """Prompt tokens per second, and time per output token, against prompt length: a line a batch size and answer length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for batch_size, max_new_tokens in sorted({(row["batch_size"], row["max_new_tokens"]) for row in rows}):
        its = [row for row in rows if (row["batch_size"], row["max_new_tokens"]) == (batch_size, max_new_tokens)]
        for axis, label in zip(axes, ("prefill tokens/s", "TPOT s")):
            points = [(row["prompt_tokens"], row[label]) for row in its if row[label] is not None]
            axis.plot(*zip(*points), "o-", label=f"batch {batch_size}, {max_new_tokens} new tokens") if points else None
    for axis, title in zip(axes, ("Prefill: prompt tokens per second", "Decode: seconds per output token")):
        axis.set(xlabel="prompt tokens", title=title, ylim=(0, None), xscale="log")
        axis.set_xticks(sorted({row["prompt_tokens"] for row in rows}), sorted({row["prompt_tokens"] for row in rows}))
    axes[0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    cli.run(main)
