"""Pre-train the embedded model family: a tokenizer and four tiny LLaMAs, on the public modules of the corpus alone.

`small` and `large` are trained from nothing; the siblings `large-3q` and `large-2q` are cut from the trained `large`
(six and four of its eight layers) and healed by further training. No client's text is ever read. Reproduce with

    OMP_NUM_THREADS=1 python tools/pretrain_family.py --seed 17

The log goes to `tools/pretrain_family.log`. The numbers of steps are fixed, so the same seed, Python version (the
corpus is its standard library) and torch version give the same weights on one kind of CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "engine"))

from heterotune.data.stdlib_source import read_stdlib  # noqa: E402
from heterotune.randomness import NO_CLIENT, NO_ROUND, generator  # noqa: E402

EOS = "<|endoftext|>"
VOCAB_SIZE = 2048
CONTEXT = 256
BATCH_ROWS = 8  # of CONTEXT tokens: 2,048 tokens a step
HELDOUT_EVERY = 16  # of the public files, in path order
HELDOUT_BLOCKS = 96
WARMUP_SHARE = 0.05
SIBLINGS = {"large-3q": (0, 1, 2, 4, 6, 7), "large-2q": (0, 2, 4, 7)}
WIDTHS = {"small": (64, 4, 176), "large": (128, 8, 352)}  # hidden size, layers, feed-forward size


@dataclass(frozen=True)
class Blocks:
    """The public tokens in rows of CONTEXT + 1, int64: to train on, and held out by whole files."""

    train: torch.Tensor
    heldout: torch.Tensor


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer; EOS is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def cut_blocks(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Join texts with EOS and cut them into rows of CONTEXT + 1 tokens; the rest is dropped."""
    eos_id = tokenizer.token_to_id(EOS)
    stream = np.concatenate([np.array([*encoding.ids, eos_id]) for encoding in tokenizer.encode_batch(texts)])
    num_rows = len(stream) // (CONTEXT + 1)
    return torch.from_numpy(stream[: num_rows * (CONTEXT + 1)].reshape(num_rows, CONTEXT + 1).astype(np.int64))


def build(name: str) -> LlamaForCausalLM:
    """Return an untrained member of the family."""
    hidden_size, num_layers, intermediate_size = WIDTHS[name]
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def cut_sibling(large: LlamaForCausalLM, kept_layers: tuple[int, ...]) -> LlamaForCausalLM:
    """Return a copy of `large` with only the named layers."""
    config = LlamaConfig(**{**large.config.to_dict(), "num_hidden_layers": len(kept_layers)})
    sibling = LlamaForCausalLM(config)
    tensors = {}
    for key, tensor in large.state_dict().items():
        parts = key.split(".")
        if parts[:2] == ["model", "layers"]:
            if int(parts[2]) not in kept_layers:
                continue
            parts[2] = str(kept_layers.index(int(parts[2])))
        tensors[".".join(parts)] = tensor.clone()
    sibling.load_state_dict(tensors)
    return sibling


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, blocks: Blocks, loss_of: Callable) -> float:
    """Mean loss on the held-out public files, in nats per token."""
    model.eval()
    losses = [loss_of(model, rows).item() for rows in blocks.heldout[:HELDOUT_BLOCKS].split(BATCH_ROWS)]
    return float(np.mean(losses))


def lm_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss of rows of CONTEXT + 1 tokens."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def learning_rate_at(step: int, num_steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    warmup = max(1, int(num_steps * WARMUP_SHARE))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    name: str,
    model: LlamaForCausalLM,
    blocks: Blocks,
    num_steps: int,
    peak: float,
    seed: int,
    log: Callable,
    *,
    batch_rows: int = BATCH_ROWS,
    loss_of: Callable = lm_loss,
) -> None:
    """Train in place with AdamW; a fresh permutation of the rows per epoch."""
    draw = generator(seed, NO_ROUND, NO_CLIENT, f"pretrain {name}")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    num_parameters = model.num_parameters()
    log(f"{name}: {num_parameters} parameters, {num_steps} steps of {batch_rows} x {CONTEXT} tokens, peak {peak}")
    log(f"{name}: held-out public loss before {heldout_loss(model, blocks, loss_of):.4f} nats/token")
    started, waiting = time.monotonic(), np.empty(0, dtype=np.int64)
    for step in range(num_steps):
        if len(waiting) < batch_rows:
            waiting = np.concatenate([waiting, draw.permutation(len(blocks.train))])
        rows, waiting = blocks.train[torch.from_numpy(waiting[:batch_rows])], waiting[batch_rows:]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, num_steps, peak)
        model.train()
        loss = loss_of(model, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == num_steps:
            heldout, seconds = heldout_loss(model, blocks, loss_of), time.monotonic() - started
            log(f"{name}: step {step + 1} train {loss.item():.4f} held-out {heldout:.4f} {seconds:.0f} s")
    log(f"{name}: held-out public loss after {heldout_loss(model, blocks, loss_of):.4f} nats/token")


def save(model: LlamaForCausalLM, folder: Path, kept_layers: tuple[int, ...]) -> None:
    """Write an ordinary Hugging Face model folder, fp16, with the original layer numbers in its config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.half().contiguous() for key, tensor in model.state_dict().items() if key != "lm_head.weight"}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "original_layers": list(kept_layers)}
    config["dtype"] = config["torch_dtype"] = "float16"
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, and the small file that names EOS."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "model_max_length": CONTEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_public() -> tuple[list[str], list[str]]:
    """Return the public files' texts: to train on, and held out."""
    texts = [file.text for file in read_stdlib("public")]
    heldout = texts[HELDOUT_EVERY // 2 :: HELDOUT_EVERY]
    del texts[HELDOUT_EVERY // 2 :: HELDOUT_EVERY]
    return texts, heldout


def pretrain_family(arguments: argparse.Namespace, log: Callable) -> None:
    """Train and save tokenizer, `small`, `large` and the siblings."""
    seed, output = arguments.seed, arguments.output
    train_texts, heldout_texts = read_public()
    tokenizer = train_tokenizer(train_texts)
    save_tokenizer(tokenizer, output)
    blocks = Blocks(cut_blocks(tokenizer, train_texts), cut_blocks(tokenizer, heldout_texts))
    log(f"public files: {len(train_texts)} + {len(heldout_texts)} held out")
    log(f"rows of {CONTEXT} tokens: {len(blocks.train)} + {len(blocks.heldout)}")
    trained = {}
    for name, num_steps, peak in (("small", arguments.small_steps, 4e-3), ("large", arguments.large_steps, 2.5e-3)):
        torch.manual_seed(seed)
        trained[name] = build(name)
        train(name, trained[name], blocks, num_steps, peak, seed, log)
        save(trained[name], output / name, tuple(range(WIDTHS[name][1])))
    for name, kept_layers in SIBLINGS.items():
        sibling = cut_sibling(trained["large"], kept_layers)
        train(name, sibling, blocks, arguments.heal_steps, 1e-3, seed, log)
        save(sibling, output / name, kept_layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "engine/heterotune/backbone/embedded")
    parser.add_argument("--log", type=Path, default=REPOSITORY / "tools/pretrain_family.log")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--small-steps", type=int, default=4000)
    parser.add_argument("--large-steps", type=int, default=3500)
    parser.add_argument("--heal-steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; another number rounds differently")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    unfinished = arguments.output.with_name(arguments.output.name + ".unfinished")
    final_output, arguments.output = arguments.output, unfinished
    shutil.rmtree(unfinished, ignore_errors=True)
    started = time.monotonic()
    with arguments.log.open("w", encoding="utf-8") as log_file:

        def log(line: str) -> None:
            print(line, flush=True)
            log_file.write(line + "\n")
            log_file.flush()

        steps = f"{arguments.small_steps}/{arguments.large_steps}/{arguments.heal_steps}"
        log(f"seed {arguments.seed}, steps small/large/healing {steps}, threads {arguments.threads}")
        log(
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"tokenizers {tokenizers.__version__}, {platform.machine()}"
        )
        pretrain_family(arguments, log)
        shutil.rmtree(final_output, ignore_errors=True)
        unfinished.rename(final_output)
        num_bytes = sum(path.stat().st_size for path in final_output.rglob("*") if path.is_file())
        log(f"finished: {num_bytes} bytes, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
