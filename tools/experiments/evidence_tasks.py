"""The tasks of the evidence tables: rows from public data by path, labels as one token, public text without labels.

Every task is classification by a word after the prompt. A label's word is one token of the family's tokenizer, so one
forward pass scores all answers. Rows are drawn by the seed: clients' rows from the task's training part, test rows
balanced over the labels from its test part ("valid" for choosing learning rates). Public rows are texts of the same
kind that no client holds, without labels: those of the valid part, of Shakespeare those of other speakers; or, to see
what that is worth, those of another task.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

Row = tuple[str, str]  # text, label

PUBLIC, PUBLIC_OTHER = "public.jsonl", "public_other.jsonl"
NUM_SPEAKERS = 10
LONGEST_TEXT = 160  # characters
CLINC_WORDS = {
    "banking": ("bank", "banking"),
    "credit_cards": ("credit", "card", "debt"),
    "kitchen_and_dining": ("food", "kitchen"),
    "home": ("home", "house"),
    "auto_and_commute": ("car", "road", "drive"),
    "travel": ("travel", "journey", "visit"),
    "utility": ("time", "tool", "use"),
    "work": ("work", "job"),
    "small_talk": ("talk", "friend", "speak"),
    "meta": ("language", "name", "voice"),
}
DOLLY_WORDS = {
    "brainstorming": ("ideas", "idea", "think"),
    "classification": ("class", "group", "kind"),
    "closed_qa": ("read", "book", "text"),
    "creative_writing": ("story", "write", "poem"),
    "general_qa": ("general", "common", "world"),
    "information_extraction": ("find", "extract", "list"),
    "open_qa": ("question", "fact", "answer"),
    "summarization": ("short", "sum", "brief"),
}


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        read: (data folder, part) -> all rows of "train", "valid" or "test".
        words: Label -> words to try in order; a label without one gets a word of its own name, or a common word.
        template: The prompt.
        other: Name of the task whose training texts are the other public text.
        max_tokens: Longest row.
        public: Part whose texts are the public questions: "valid", or one that `read` knows besides.
    """

    read: Callable[[Path, str], list[Row]]
    words: Mapping[str, Sequence[str]]
    template: str
    other: str
    max_tokens: int = 40
    public: str = "valid"


def _read_clinc(data: Path, part: str) -> list[Row]:
    rows, folder = _read_intents(data / "intent" / "CLINC150", part), data / "intent" / "CLINC150"
    domains = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    return [(text, domain_of[intent]) for text, intent in rows]


def _read_banking(data: Path, part: str) -> list[Row]:
    return _read_intents(data / "intent" / "BANKING77", part)


def _read_intents(folder: Path, part: str) -> list[Row]:
    texts, labels = ((folder / part / name).read_text(encoding="utf-8").splitlines() for name in ("seq.in", "label"))
    return list(zip(texts, labels, strict=True))


def _read_dolly(data: Path, part: str) -> list[Row]:
    """Return instructions with their categories."""
    files = sorted((data / "dolly").glob("local_training_*.json"))
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    return _part_of([(row["instruction"], row["category"]) for row in rows], part)


def _read_shakespeare(data: Path, part: str) -> list[Row]:
    """Return speeches of the ten who speak most often, with who speaks; as "public" the speeches of all others."""
    text = (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    pairs = (speech.split(":\n", 1) for speech in text.split("\n\n") if ":\n" in speech)
    speeches = [(said, speaker.strip()) for speaker, said in pairs]
    often = {speaker for speaker, _ in Counter(speaker for _, speaker in speeches).most_common(NUM_SPEAKERS)}
    if part == "public":
        return [(_shortened(said), speaker) for said, speaker in speeches if speaker not in often]
    return _part_of([row for row in speeches if row[1] in often], part)


def _part_of(rows: Sequence[Row], part: str) -> list[Row]:
    """Return a fifth of the rows as "test", a tenth as "valid", or the rest: shortened, and equal texts in one part."""
    place = {"test": (0, 1), "valid": (2,), "train": range(3, 10)}[part]
    shortened = [(_shortened(text), label) for text, label in rows]
    return [(text, label) for text, label in shortened if zlib.crc32(text.encode()) % 10 in place]


def _shortened(text: str) -> str:
    return " ".join(text.split())[:LONGEST_TEXT]


TASKS = {
    "clinc150": Task(_read_clinc, CLINC_WORDS, "Query: {text}\nTopic:", other="banking77"),
    "banking77": Task(_read_banking, {}, "Query: {text}\nTopic:", other="clinc150", max_tokens=64),
    "shakespeare": Task(
        _read_shakespeare, {}, "Speech: {text}\nSpeaker:", other="clinc150", max_tokens=64, public="public"
    ),
    "dolly": Task(_read_dolly, DOLLY_WORDS, "Text: {text}\nTask:", other="clinc150", max_tokens=64),
}


def label_words(task: Task, labels: Sequence[str], tokenizer: Tokenizer) -> dict[str, str]:
    """Return a word for each label, no two alike, each with the space before it one token.

    Raises:
        ValueError: If a label that has words has none that is one token and free.
    """
    taken: dict[str, str] = {}
    for label in labels:
        wanted = task.words.get(label) or sorted(label.strip("?").lower().split("_"), key=len, reverse=True)
        free = [word for word in wanted if word not in taken.values() and _is_one_token(tokenizer, word)]
        if not free and label in task.words:
            raise ValueError(f"{label}: none of {', '.join(wanted)} is one token of the tokenizer and free.")
        taken[label] = free[0] if free else ""
    common = iter(_common_words(tokenizer, set(taken.values())))
    return {label: f" {word or next(common)}" for label, word in taken.items()}


def _is_one_token(tokenizer: Tokenizer, word: str) -> bool:
    return len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1


def _common_words(tokenizer: Tokenizer, taken: set[str]) -> list[str]:
    """Return whole words that are one token, the earliest made of the tokenizer first."""
    words = (tokenizer.decode([number]).strip() for _, number in sorted(tokenizer.get_vocab().items(), key=_by_number))
    whole = (word for word in words if len(word) > 4 and word.isascii() and word.islower() and word not in taken)
    return [word for word in dict.fromkeys(whole) if _is_one_token(tokenizer, word)]


def _by_number(item: tuple[str, int]) -> int:
    return item[1]


@dataclass(frozen=True)
class PreparedTask:
    """Rows of a run on disk.

    Attributes:
        folder: Holds train.jsonl, test.jsonl, public.jsonl, public_other.jsonl.
        word_of: Label -> its word, in the order of the labels.
        num_test: Test rows.
    """

    folder: Path
    word_of: Mapping[str, str]
    num_test: int


def prepare(
    name: str, data: Path, tokenizer: Tokenizer, out: Path, *, seed: int, num_rows: int, num_test: int, part: str
) -> PreparedTask:
    """Draw the rows of a run and write them, unless they are there.

    Args:
        name: One of `TASKS`.
        data: Folder of the public data.
        tokenizer: The family's.
        out: Where to write.
        seed: The run's.
        num_rows: Training rows of the whole fleet, balanced over the labels as far as there are rows.
        num_test: Test rows, balanced likewise.
        part: What is tested on, "test" or "valid".
    """
    task = TASKS[name]
    train = task.read(data, "train")
    word_of = label_words(task, sorted({label for _, label in train}), tokenizer)
    folder = out / "rows" / f"{name}-{part}-{num_rows}-{num_test}-seed-{seed}"
    tested = _balanced(task.read(data, part), num_test, seed, f"{name}/{part}")
    if not (folder / PUBLIC).exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = _balanced(train, num_rows, seed, f"{name}/train")
        _write(folder / "train.jsonl", [{"text": text, "label": word_of[label]} for text, label in drawn])
        _write(folder / "test.jsonl", [{"text": text, "label": word_of[label]} for text, label in tested])
        _write(folder / PUBLIC_OTHER, [{"text": text} for text, _ in TASKS[task.other].read(data, "train")])
        _write(folder / PUBLIC, [{"text": text} for text, _ in task.read(data, task.public)])
    return PreparedTask(folder, word_of, len(tested))


def _balanced(rows: Sequence[Row], num_rows: int, seed: int, purpose: str) -> list[Row]:
    """Draw rows, from each label in turn while it has any."""
    draw = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    of_label: dict[str, list[Row]] = defaultdict(list)
    for place in draw.permutation(len(rows)).tolist():
        of_label[rows[place][1]].append(rows[place])
    turns = [(turn, label) for label, mine in of_label.items() for turn in range(len(mine))]
    order = {label: place for place, label in enumerate(draw.permutation(sorted(of_label)).tolist())}
    turns.sort(key=lambda item: (item[0], order[item[1]]))
    return [of_label[label][turn] for turn, label in turns[:num_rows]]


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    temporary = path.with_suffix(".unfinished")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, path)
