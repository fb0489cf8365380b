"""What a setting costs in quality: error rates of Whisper's transcripts against references.

  python3 accuracy.py --reference sample.txt
  python3 accuracy.py --ovmodel_path whisper-base-int8-ov-model --audio calls/ --reference texts/

All files are transcribed once, untimed. Word and character error rate are those of all files
together, after Whisper's text normalization. Where a reference knows when each word was spoken,
the errors of words' times are measured, too.
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import audio_input
import error_rates
import model

from harness import cli, run
from harness.monitor import SystemMonitor


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_arguments(parser)
    reference = model.REFERENCE_HELP
    parser.add_argument("--reference", type=Path, required=True, metavar="PATH", help=reference)
    cli.add_common_arguments(parser, iteration=None)
    return model.parse(parser)


def main() -> int:
    args = parse_args()
    paths = audio_input.find(args.audio)
    references = error_rates.read_references(args.reference, paths)
    has_times = any(reference.words for reference in references)
    settings = replace(model.Settings.from_arguments(args), word_timestamps=has_times)
    run.check_destination(args)
    recordings = [audio_input.Recording(path, audio_input.read(path)) for path in paths]
    audio = [recording.samples for recording in recordings]

    loaded = model.load(settings)
    system = run.print_header(loaded.model, loaded.placement, args.device, loaded.load_time_s)
    with SystemMonitor() as monitor:
        done = model.transcribe(loaded.whisper, audio, settings.options(), "transcribing")
    if monitor.status != "complete":
        raise KeyboardInterrupt

    results = [model.describe(each.result) for each in done]
    files = [{"name": path.name, **result} for path, result in zip(paths, results)]
    samples = error_rates.score(files, references, args.task)
    truth = hashlib.sha256("\n".join(each.text for each in references).encode()).hexdigest()
    described = audio_input.describe(recordings)
    rates = [f"{file['name']}: word error rate {file['word_error_rate']:.2%}" for file in files]
    record = run.build(
        args,
        workload="audio-accuracy",
        title="Audio AI accuracy",
        primary="word_error_rate",
        samples=samples,
        task={**settings.describe_task(files), "reference sha256": truth},
        work=[],
        input=described,
        system=system,
        monitor=monitor,
        output={"files": files},
        details=rates,
        check_samples=False,
        **model.record_arguments(args, loaded, files),
    )
    return run.finish(record, args)


if __name__ == "__main__":
    cli.run(main)
