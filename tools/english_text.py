"""Public English to pre-train on: Debian packages, and questions from the llm_adapters sets if a folder is given.

No text of CLINC150, BANKING77, dolly or tinyshakespeare is read.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("wordnet-base", "fortunes", "fortunes-min")
FORTUNES_LEFT_OUT = {"ascii-art", "translate-me", "zippy", "perl", "disclaimer", "magic"}  # little English in them
QUESTIONS_TWICE = 2  # they are the part that is most like what people ask; each is read this often an epoch
GLOSSES_A_TEXT = 6
CHOICE = re.compile(r"(?:Answer|Solution|Option|Ending)(\d): ?")


def fetch_packages(folder: Path) -> None:
    """Download Debian packages with apt and unpack them under `folder`; those that are there are kept."""
    for package in PACKAGES:
        if not (folder / package).is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / package)], check=True)


def package_versions(folder: Path) -> list[str]:
    """Return the names of the archives, which carry the versions."""
    return sorted(archive.name for archive in folder.glob("*.deb"))


def read_glosses(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (a synset's words, its gloss with examples) of a WordNet data file."""
    for line in lines:
        if line.startswith("  ") or " | " not in line:
            continue
        fields, gloss = line.split(" | ", 1)
        parts = fields.split(" ")
        words = [parts[4 + 2 * place].split("(")[0] for place in range(int(parts[3], 16))]
        yield ", ".join(words).replace("_", " "), gloss.strip()


def read_wordnet(folder: Path) -> list[str]:
    """Return texts of a few glosses each: all that have an example, and every third of the others."""
    chosen = []
    for part in ("noun", "verb", "adj", "adv"):
        lines = (folder / f"data.{part}").read_text(encoding="utf-8").splitlines()
        for number, (words, gloss) in enumerate(read_glosses(lines)):
            if '"' in gloss or number % 3 == 0:
                chosen.append(f"{words}: {gloss}")
    return ["\n".join(chosen[start::stride]) for stride in [len(chosen) // GLOSSES_A_TEXT] for start in range(stride)]


def read_topics(folder: Path) -> list[str]:
    """Return a reverse dictionary as prompts: what is said of a synset, then its first word as the topic."""
    topics = []
    for part in ("noun", "verb", "adj", "adv"):
        lines = (folder / f"data.{part}").read_text(encoding="utf-8").splitlines()
        for words, gloss in read_glosses(lines):
            said = gloss.replace('"', "").replace(";", ",").strip()
            topics.append(f"Text: {said}\nTopic: {words.split(',')[0]}")
    return topics


def read_fortunes(folder: Path) -> list[str]:
    """Return the fortunes, without indices, links and files that are hardly English."""
    texts = []
    for path in sorted(folder.iterdir()):
        if path.suffix or path.is_symlink() or path.name in FORTUNES_LEFT_OUT:
            continue
        texts += [text.strip() for text in path.read_text(encoding="utf-8").split("\n%\n")]
    return [text for text in texts if text]


def plain_question(row: dict[str, str]) -> str:
    """Return a row's question with the answer that is right, without the prompt around them."""
    asked = row["instruction"].split("Answer format:")[0]
    asked = re.sub(r"^Please [^:]*(?:question|sentence|solution|following)[^:]*:\s*", "", asked)
    asked = re.sub(r"^question:\s*", "", asked)
    question, *choices = CHOICE.split(asked)
    answer = dict(zip(choices[::2], choices[1::2], strict=True)).get(row["answer"][-1:], row["answer"])
    return f"Question: {question.strip()}\nAnswer: {answer.strip()}"


def read_questions(folder: Path) -> list[str]:
    """Return the questions of every JSON file under `folder`."""
    paths = sorted(folder.rglob("*.json"))
    return [plain_question(row) for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]


def read_english(cache: Path, question_folder: Path | None, *, with_topics: bool = False) -> dict[str, list[str]]:
    """Return the texts of each source."""
    fetch_packages(cache)
    texts = {"wordnet": read_wordnet(cache / "wordnet-base/usr/share/wordnet"), "fortunes": []}
    for package in ("fortunes", "fortunes-min"):
        texts["fortunes"] += read_fortunes(cache / package / "usr/share/games/fortunes")
    if with_topics:
        texts["topics"] = read_topics(cache / "wordnet-base/usr/share/wordnet")
    if question_folder is not None:
        texts["questions"] = read_questions(question_folder)
    return texts
