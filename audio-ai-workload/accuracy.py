"""Transcripts against references: word and character error rate, after Whisper's own text normalization."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import files
from harness.cli import UserError

# Written without spaces between words: each character counts as a word, as in the Whisper paper (appendix C).
NO_SPACES = frozenset(("zh", "yue", "ja", "th", "lo", "my"))


@dataclass(frozen=True)
class Errors:
    """Wrong, missing and surplus words (characters) of transcripts, and how many words (characters) the references have."""

    word_errors: int
    words: int
    character_errors: int
    characters: int

    @property
    def word_error_rate(self) -> float:
        return self.word_errors / self.words

    @property
    def character_error_rate(self) -> float:
        return self.character_errors / self.characters


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
    """The true transcript of each audio file: of one, from a file; of any number, NAME.json or NAME.txt for NAME.ext in a folder.

    Raises UserError where one is missing, unreadable or holds no words.
    """
    if not reference.is_dir():
        if len(audio) > 1:
            raise UserError(f"{reference} is one transcript for {len(audio)} audio files: give --reference a folder, "
                            "with NAME.txt for each audio NAME.ext")  # fmt: skip
        return [read_reference(reference)]
    paths = [timed if (timed := reference / f"{path.stem}.json").is_file() else reference / f"{path.stem}.txt" for path in audio]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"no reference {missing[0]}{more}: each audio NAME.ext needs NAME.txt there")
    return [read_reference(path) for path in paths]


def read_reference(path: Path) -> Reference:
    """A text file, or a .json in the form of openai-whisper's: "text", and where known "segments" of "words"."""
    text, words = files.read_text(path, "--reference").removeprefix("\ufeff"), ()  # a byte order mark
    if path.suffix == ".json":
        try:
            told = json.loads(text)
            text = told["text"]
            words = tuple(Word(word["word"].strip(), float(word["start"]), float(word["end"]))
                          for segment in told.get("segments", ()) for word in segment.get("words", ()))  # fmt: skip
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"the reference {path} has not the form of openai-whisper's JSON") from None
    if not all(normalized(text, language) for language in ("en", "de")):
        raise UserError(f"the reference {path} is empty" if not text.strip() else f"the reference {path} holds no words")
    return Reference(text, words)


def word_time_errors(reference: Sequence[Word], found: Sequence[Word], language: str) -> tuple[list[float], list[float]]:
    """How far off the times of the words found are, where both have the same word after alignment.

    Returns
    -------
    The absolute errors of starts and of ends, s, a pair for each such word.
    """
    import jiwer

    def keyed(words: Sequence[Word]) -> list[tuple[str, Word]]:
        keys = [("_".join(normalized(word.text, language).split()), word) for word in words]
        return [(key, word) for key, word in keys if key]

    ours, theirs = keyed(found), keyed(reference)
    if not ours or not theirs:
        return [], []
    aligned = jiwer.process_words(" ".join(key for key, _ in theirs), " ".join(key for key, _ in ours)).alignments[0]
    pairs = [
        (theirs[chunk.ref_start_idx + offset][1], ours[chunk.hyp_start_idx + offset][1])
        for chunk in aligned
        if chunk.type == "equal"
        for offset in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    return [abs(mine.start_s - true.start_s) for true, mine in pairs], [abs(mine.end_s - true.end_s) for true, mine in pairs]


def normalized(text: str, language: str) -> str:
    """`text` as Whisper's authors compare it: without case, punctuation, and for English spelling variants and fillers."""
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    normalize = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer(split_letters=language in NO_SPACES)
    return normalize(text).strip()


def errors(reference: str, transcript: str, language: str) -> Errors:
    """Compare a transcript in `language` (a code) with its reference, as they are written."""
    import jiwer

    reference, transcript = normalized(reference, language), normalized(transcript, language)
    words = jiwer.process_words(reference, transcript)
    if language in NO_SPACES:  # a space there is the normalizer's
        reference, transcript = reference.replace(" ", ""), transcript.replace(" ", "")
    characters = jiwer.process_characters(reference, transcript)
    return Errors(*_count(words), *_count(characters))


def pooled(each: Sequence[Errors]) -> Errors:
    """Over all files: the sum of errors and of words, so that a long file weighs more than a short one."""
    return Errors(*(sum(getattr(errors, name) for errors in each) for name in Errors.__dataclass_fields__))


def _count(compared) -> tuple[int, int]:
    """Errors, and the length of the reference."""
    missed = compared.substitutions + compared.deletions
    return missed + compared.insertions, missed + compared.hits
