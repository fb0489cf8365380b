"""What a setting costs in quality: error rates of Whisper's transcripts against references.

  python3 accuracy.py
  python3 accuracy.py --ovmodel_path whisper-base-int8-ov-model --audio calls/ --reference texts/

Without options, sample.mp3 is scored against sample.txt. All files are transcribed once, untimed.
Word and character error rate are those of all files together, after Whisper's text normalization.
Where a reference knows when each word was spoken, the errors of words' times are measured, too.
"""

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli

cli.quit_on_signals()  # while the libraries load

import audio_input
import error_rates
import model

from harness import gate, progress, run
from harness.monitor import SystemMonitor

MAX_FILES_PRINTED = 20  # those with the highest word error rate

GATE = "word_error_rate"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    model.add_arguments(parser)
    model.add_file_arguments(parser)
    cli.add_common_arguments(parser, iteration=None)
    gate.add_arguments(parser, GATE)
    args = model.parse(parser)
    if not args.reference and args.audio != [model.SAMPLE]:
        parser.error("--audio needs --reference: the true transcripts")
    args.reference = args.reference or model.SAMPLE.with_suffix(".txt")
    return args


def main() -> int:
    args = parse_args()
    job = model.prepare(args, audio_input.find(args.audio), word_timestamps=None)
    most = gate.limit(args, GATE, audio_input.describe(job.recordings)["sha256"])
    with SystemMonitor(keep=lambda: False) as monitor, progress.stage("Transcribing"):
        done = job.transcribe("transcribing")
    names = [recording.path.name for recording in job.recordings]
    files = [{"name": name, **model.describe(each.result)} for name, each in zip(names, done)]
    texts = "\n".join(reference.text for reference in job.references)
    truth = hashlib.sha256(texts.encode()).hexdigest()
    samples = error_rates.score(files, job.references, args.task)
    worst = sorted(files, key=lambda file: -file["word_error_rate"])[:MAX_FILES_PRINTED]
    rates = [f"{file['name']}: word error rate {file['word_error_rate']:.2%}" for file in worst]
    record = run.build(
        args,
        workload="audio-accuracy",
        title="Audio AI accuracy",
        primary=GATE,
        samples=samples,
        work=[],
        monitor=monitor,
        output={"files": files, **gate.output(most, GATE, samples[GATE][0][0])},
        details=rates,
        check_samples=False,
        **model.record_arguments(job, files, **{"reference sha256": truth}),
    )
    return run.finish(record, args)


if __name__ == "__main__":
    cli.run(main)
