"""Pre-train `tiny`, the base model that ships with the package, and write its folder.

Reads: synthetic notes of its own seeds (their text only, training split, so that no held-out surface
form occurs) and lines of the code tables: "code title", "title code", and several titles with their
codes, inclusion terms among the titles. It never sees a note together with its codes. Runs on two cores
for about an hour; interrupted, it goes on from its last checkpoint.

    python scripts/tiny_base.py --work runs/tiny-base --out src/icdtune/assets/tiny
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icdtune.codes.systems import ICD10CM, ICD10PCS
from icdtune.codes.tables import CodeTable, load_table
from icdtune.data.synthetic import default_generator
from icdtune.files import atomic_directory, atomic_file, write_json
from icdtune.prompts.answer import format_answer

SEED = 90_001
"""Of the notes: far from every seed that a study uses."""
VOCABULARY = 6144
WEIGHT = 2_000
"""How often the tokenizer's text repeats each stem and common end, so that each is one token."""
ROW = 640
BATCH, MICRO = 8, 4
"""Rows an update, rows a backward pass."""
STEPS = 3000
NOTES = 0.25
"""Share of the tokens that are notes."""
LIGHT = 1 << 15
"""Marks a token of a title that stands before its code: which title comes is chance, so that its loss
counts only `LIGHT_WEIGHT`."""
LIGHT_WEIGHT = 0.2
OUTER = "STVWXY"
"""Injuries and external causes: most of the table, and little of a hospital's coding."""
PEAK = 3e-3
"""Learning rate of both optimizers: our choice."""
SPECIAL = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TAGS = ["<code>", "</code>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_STEM = r"[A-Z][0-9][0-9A-Z](?=\.[0-9A-Z]|[,:;<\s]|$)"
_SUFFIX = r"(?<=[A-Z][0-9][0-9A-Z])\.[0-9A-Z]{1,4}"
_PROCEDURE = (
    r"[0-9][0-9A-HJ-NP-Z]{2}(?=[0-9A-HJ-NP-Z]{4}(?:[,:;<\s]|$))"
    r"|(?<=[0-9][0-9A-Z]{2})[0-9A-HJ-NP-Z]{2}(?=[0-9A-HJ-NP-Z]{2}(?:[,:;<\s]|$))"
    r"|(?<=[0-9][0-9A-Z]{4})[0-9A-HJ-NP-Z]{2}(?=[,:;<\s]|$)"
)
_SPACE = rf" (?={_STEM}|[0-9A-HJ-NP-Z]{{7}}(?:[,:;<\s]|$))"
"""Before a code: without it the word rule would take the space and the code's letter as one piece."""
_SEPARATOR = r", (?=[A-Z0-9][0-9A-Z]{2})"
_WORDS = r" ?\p{L}+| ?\p{N}{1,2}|\n+| ?[^\s\p{L}\p{N}]{1,3}|\s+"
PRETOKEN = "|".join([_PROCEDURE, _STEM, _SUFFIX, _SEPARATOR, _SPACE, _WORDS])


CARD = """---
license: apache-2.0
library_name: transformers
tags: [medical-coding, icd-10]
---
# tiny

A Llama-architecture language model of 6.7 million parameters for trying medical coding on a laptop. It
knows nothing but what is listed here, and is of no clinical use.

- **Text**: synthetic discharge summaries of icdtune's generator (seeds from 90,001 on, training split:
  none of the surface forms held out for test), without their codes; lines of the ICD-10-CM and
  ICD-10-PCS 2024 tables: a code and its title or inclusion term, in either order, or two to eight titles
  and then their codes in a `<code>` block. A quarter of the tokens are notes. Injuries and external
  causes are a tenth of the diagnosis lines. No note was ever seen together with its codes.
- **Training**: {steps:,} updates, {tokens:,} tokens of 640-token rows, Muon and AdamW, by
  `scripts/tiny_base.py` (`make tiny-base`); titles before their codes weigh a fifth in the loss; last
  running loss {loss}.
- **Tokenizer**: byte-level BPE, 6,144 pieces; a code is its category and the rest.
- **Use**: the base of `icdtune train sft`; not instruction-tuned, so prompting it is close to guessing.
- **Weights**: bfloat16 safetensors. Apache-2.0. Code titles: ICD-10-CM and ICD-10-PCS are in the public
  domain in the United States.
"""


def texts(rng: random.Random, seed: int) -> Iterator[str]:
    """Endless notes: one in 25 of the medium profile, the others short."""
    generator = default_generator()
    while True:
        streams = {
            "short": generator.notes("train", 10**9, "short", seed),
            "medium": generator.notes("train", 10**9, "medium", seed + 1),
        }
        for _ in range(200_000):
            profile = "medium" if rng.random() < 0.04 else "short"
            yield next(streams[profile])[0].text
        seed += 2


def lines(rng: random.Random) -> Iterator[tuple[str, int]]:
    """Endless lines of the code tables, and how many characters of each stand before its codes.

    A category first, then one of its codes, so that large categories do not drown the rest."""
    diagnoses, procedures = load_table(ICD10CM.name), load_table(ICD10PCS.name)
    families, groups = _families(diagnoses), _families(procedures)
    outer = [family for family in families if family[0][0] in OUTER]
    inner = [family for family in families if family[0][0] not in OUTER]
    terms = dict(zip(diagnoses.codes, diagnoses.notes_column("inclusion_terms"), strict=True))

    def draw() -> tuple[str, str]:
        if rng.random() < 0.93:
            code = rng.choice(rng.choice(inner if rng.random() < 0.9 else outer))
            names = [diagnoses.title(code), *terms[code]]
            name = names[0] if rng.random() < 0.6 else rng.choice(names)
        else:
            code = rng.choice(rng.choice(groups))
            name = procedures.title(code)
        if rng.random() < 0.5:
            name = name[0].lower() + name[1:] if rng.random() < 0.5 else name.lower()
        return code, name

    while True:
        kind = rng.random()
        if kind < 0.3:
            code, name = draw()
            yield f"{code} {name}", 0
        elif kind < 0.8:
            code, name = draw()
            yield f"{name} {format_answer([code])}", len(name)
        else:
            drawn = [draw() for _ in range(rng.randint(2, 8))]
            names = rng.choice(["; ", ". ", ", ", "\n"]).join(name for _, name in drawn)
            yield f"{names}\n{format_answer(code for code, _ in drawn)}", len(names)


def _families(table: CodeTable) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for code in table.billable_codes():
        found.setdefault(code[:3], []).append(code)
    return list(found.values())


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose pieces never cross the border of a code's stem and suffix."""
    from icdtune.prompts.prompt import FORMAT, INSTRUCTION

    rng = random.Random(SEED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL + TAGS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    notes, table = texts(rng, SEED), lines(rng)
    sample = [next(notes) for _ in range(20_000)]
    for _ in range(30_000):
        sample.append(next(table)[0])
    for name in (ICD10CM.name, ICD10PCS.name):
        codes = load_table(name).billable_codes()
        rng.shuffle(codes)
        sample += [", ".join(codes[i : i + 8]) for i in range(0, len(codes), 8)]
    diagnoses = load_table(ICD10CM.name)
    stems = [family[0][:3] for family in _families(diagnoses)]
    stands = Counter(code[3:] for code in diagnoses.billable_codes() if len(code) < 8)
    ends = [f"A00{end}" for end, count in stands.items() if end and count >= 6]
    sample += [", ".join([*stems, *ends])] * WEIGHT
    sample += [INSTRUCTION, FORMAT] * 2_000
    tokenizer.train_from_iterator(sample, trainer)
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in TAGS  # tags are text, which decoding keeps
    tokenizer = Tokenizer.from_str(json.dumps(content))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[1:4],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = TEMPLATE
    return fast


def rows(
    tokenizer: PreTrainedTokenizerFast, count: int, share: float, seed: int
) -> npt.NDArray[np.uint16]:
    """`count` rows of `ROW` tokens, texts end to end; `share` of the tokens are notes."""
    rng = random.Random(seed)
    notes, table = ((text, 0) for text in texts(rng, seed)), lines(rng)
    wanted, end = count * ROW, tokenizer.eos_token_id
    found: list[npt.NDArray[np.uint16]] = []
    have = {True: 0, False: 0}
    while sum(have.values()) < wanted:
        kind = have[True] <= share * sum(have.values())
        batch = [next(notes) for _ in range(200)] if kind else [next(table) for _ in range(2000)]
        written, light = zip(*batch, strict=True)
        read = tokenizer(list(written), add_special_tokens=False, return_offsets_mapping=True)
        for ids, spans, border in zip(
            read["input_ids"], read["offset_mapping"], light, strict=True
        ):
            marked = [
                token | LIGHT if stop <= border else token
                for token, (_, stop) in zip(ids, spans, strict=True)
            ]
            found.append(np.array([*marked, end], np.uint16))
            have[kind] += len(ids) + 1
    order = np.random.default_rng(seed).permutation(len(found))
    return np.concatenate([found[i] for i in order])[:wanted].reshape(count, ROW)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings and norms."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(inside, lr=PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def scale(step: int, steps: int) -> float:
    """Learning rate factor: warm up, hold, fall linearly over the last 40%."""
    fall = int(steps * 0.6)
    if step < 100:
        return (step + 1) / 100
    return 1.0 if step < fall else max(0.02, (steps - step) / (steps - fall))


def main(
    work: Annotated[Path, typer.Option(help="Folder of tokenizer, rows and checkpoints.")],
    out: Annotated[Path, typer.Option(help="Folder of the finished model.")],
    threads: int = 2,
) -> None:
    """Pre-train and write the model."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer" / "tokenizer.json").exists():
        with atomic_directory(work / "tokenizer") as folder:
            train_tokenizer().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    data = work / "rows.npy"
    if not data.exists():
        with atomic_file(data) as path, path.open("wb") as file:
            np.save(file, rows(tokenizer, STEPS * BATCH, NOTES, SEED))
    loss = train(model, np.load(data, mmap_mode="r"), work / "checkpoint.pt")
    facts = {"steps": STEPS, "tokens": STEPS * BATCH * ROW, "loss": round(loss, 3)}
    write(model, tokenizer, out, facts)


def train(model: LlamaForCausalLM, tokens: npt.NDArray[np.uint16], state: Path) -> float:
    """Train on the rows in their order, from the checkpoint where there is one; the last loss."""
    opts = optimizers(model)
    first, mean = 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        for opt, value in zip(opts, saved["optimizers"], strict=True):
            opt.load_state_dict(value)
        first, mean = saved["step"], saved["loss"]
    started = time.perf_counter()
    for step in range(first, STEPS):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = PEAK * scale(step, STEPS)
        ids = torch.from_numpy(tokens[step * BATCH : (step + 1) * BATCH].astype(np.int64))
        total = sum(_backward(model, part) for part in ids.split(MICRO)) * MICRO / BATCH
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        if not math.isfinite(total):
            raise SystemExit(f"step {step}: loss is {total}")
        mean = total if step == 0 else 0.98 * mean + 0.02 * total
        if step % 20 == 0:
            pace = (time.perf_counter() - started) / (step - first + 1)
            left = pace * (STEPS - step) / 60
            print(
                f"step {step} loss {mean:.3f} {pace:.2f} s/step, {left:.0f} min left",
                flush=True,
            )
        if (step + 1) % 250 == 0 or step + 1 == STEPS:
            saved = {
                "model": model.state_dict(),
                "optimizers": [opt.state_dict() for opt in opts],
                "step": step + 1,
                "loss": mean,
            }
            with atomic_file(state) as path:
                torch.save(saved, path)
    return mean


def _backward(model: LlamaForCausalLM, marked: torch.Tensor) -> float:
    """Add the gradient of some rows' weighted mean loss; returns that loss."""
    ids = marked & (LIGHT - 1)
    weight = torch.where(marked >= LIGHT, LIGHT_WEIGHT, 1.0)[:, 1:].reshape(-1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1), reduction="none"
    )
    loss = (losses * weight).sum() / weight.sum()
    (loss * len(ids) / BATCH).backward()
    return loss.item()


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def write(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict[str, Any]
) -> None:
    """Write the folder: 16-bit weights, tokenizer, card."""
    with atomic_directory(out, overwrite=True, mark="config.json") as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "pretraining.json", facts)
        (folder / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)


if __name__ == "__main__":
    typer.run(main)
