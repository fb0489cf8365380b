"""Transcripts against references: word and character error rate, and errors of words' times.

Both are compared after Whisper's own text normalization.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import files
from harness.cli import UserError

# Written without spaces: each character counts as a word, as in the Whisper paper (appendix C).
NO_SPACES = frozenset(("zh", "yue", "ja", "th", "lo", "my"))


@dataclass(frozen=True)
class Word:
    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Reference:
    """A true transcript, and where known when each word was spoken."""

    text: str
    words: tuple[Word, ...] = ()


def read_references(reference: Path, audio: Sequence[Path]) -> list[Reference]:
    """The true transcript of each audio file.

    From a file for a single one; for any number from a folder, NAME.json or NAME.txt for NAME.ext.
    Raises UserError where one is missing, unreadable or holds no words.
    """
    if not reference.is_dir():
        if len(audio) > 1:
            raise UserError(
                f"{reference} is one transcript for {len(audio)} audio files: give --reference a "
                "folder, with NAME.txt for each audio NAME.ext"
            )
        return [read_reference(reference)]
    stems = [reference / path.stem for path in audio]
    paths = [
        timed if (timed := Path(f"{stem}.json")).is_file() else Path(f"{stem}.txt")
        for stem in stems
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"no reference {missing[0]}{more}: each audio NAME.ext needs NAME.txt there"
        )
    return [read_reference(path) for path in paths]


def read_reference(path: Path) -> Reference:
    """A text file, or openai-whisper's JSON: "text", and where known "segments" of "words"."""
    text, words = files.read_text(path, "--reference").removeprefix("\ufeff"), ()
    if path.suffix == ".json":
        try:
            content = json.loads(text)
            text = content["text"]
            words = timed_words(content)
            normalized(text, "en")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"the reference {path} is not of openai-whisper's JSON form") from None
    if not all(normalized(text, language) for language in ("en", "de")):
        state = "holds no words" if text.strip() else "is empty"
        raise UserError(f"the reference {path} {state}")
    return Reference(text, words)


def timed_words(result: dict) -> tuple[Word, ...]:
    """The words of openai-whisper's result, where it has their times."""
    return tuple(
        Word(word["word"].strip(), float(word["start"]), float(word["end"]))
        for segment in result.get("segments", ())
        for word in segment.get("words", ())
    )


def score(
    files: Sequence[dict], references: Sequence[Reference], task: str
) -> dict[str, list[list[float]]]:
    """Samples of the error metrics over all files together; each file is given its own rates.

    None without references. A long file weighs more than a short one: errors are summed, and
    words. Times of words are compared where transcript and reference have the same word.
    """
    texts, starts_s, ends_s = [], [], []
    for file, reference in zip(files, references):
        language = "en" if task == "translate" else file["language"]
        texts.append((reference.text, file["transcript"], language))
        file |= rates(texts[-1:])
        starts, ends = word_time_errors(reference.words, timed_words(file), language)
        starts_s, ends_s = starts_s + starts, ends_s + ends
    samples = {name: [[rate]] for name, rate in rates(texts).items()} if texts else {}
    if starts_s:
        samples |= {"word_start_error_s": [starts_s], "word_end_error_s": [ends_s]}
    return samples


def rates(texts: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Errors per word and per character of (reference, transcript, code of their language)."""
    import jiwer

    words, characters = [], []
    for *pair, language in texts:
        words.append([normalized(text, language) for text in pair])
        # A space there is the normalizer's.
        unspaced = [text.replace(" ", "") for text in words[-1]]
        characters.append(unspaced if language in NO_SPACES else words[-1])
    return {
        "word_error_rate": jiwer.process_words(*map(list, zip(*words))).wer,
        "character_error_rate": jiwer.process_characters(*map(list, zip(*characters))).cer,
    }


def word_time_errors(
    reference: Sequence[Word], found: Sequence[Word], language: str
) -> tuple[list[float], list[float]]:
    """The absolute errors of starts and of ends, s, of each word that both have after alignment."""
    import jiwer

    def keyed(words: Sequence[Word]) -> list[tuple[str, Word]]:
        keys = [("_".join(normalized(word.text, language).split()), word) for word in words]
        return [(key, word) for key, word in keys if key]

    true, ours = keyed(reference), keyed(found)
    if not true or not ours:
        return [], []
    texts = (" ".join(key for key, _ in words) for words in (true, ours))
    pairs = [
        (true[chunk.ref_start_idx + offset][1], ours[chunk.hyp_start_idx + offset][1])
        for chunk in jiwer.process_words(*texts).alignments[0]
        if chunk.type == "equal"
        for offset in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    starts_s = [abs(word.start_s - same.start_s) for same, word in pairs]
    return starts_s, [abs(word.end_s - same.end_s) for same, word in pairs]


def normalized(text: str, language: str) -> str:
    """Without case, punctuation, and for English spelling variants and fillers."""
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    if language == "en":
        return EnglishTextNormalizer()(text).strip()
    return BasicTextNormalizer(split_letters=language in NO_SPACES)(text).strip()
