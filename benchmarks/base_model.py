"""What a base model knows of the code tables: titles in, codes out, greedy, nothing trained.

python benchmarks/base_model.py --model tiny --out benchmarks/results/base_model.json
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Any

import typer

from icdtune.coders.generative import spell
from icdtune.coders.models import load_model, load_tokenizer
from icdtune.codes.systems import ICD10CM
from icdtune.codes.tables import load_table
from icdtune.data.synthetic import default_generator
from icdtune.decoding.generate import generate_all
from icdtune.files import write_json
from icdtune.prompts.answer import CLOSE, OPEN


def main(
    model: str = "tiny",
    count: int = 500,
    seed: int = 1,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Share of codes given exactly and by category, for codes of the synthetic notes and any others."""
    table = load_table(ICD10CM.name)
    used = sorted(code for code in default_generator().titles if code in table)
    found: dict[str, Any] = {"model": model, "count": count, "seed": seed}
    for name, codes in (("synthetic", used), ("table", table.billable_codes())):
        drawn = random.Random(seed).sample(codes, count)
        answers = ask(model, [table.title(code) for code in drawn])
        pairs = list(zip(answers, drawn, strict=True))
        found[name] = {
            "exact": sum(answer == code for answer, code in pairs) / count,
            "category": sum(answer[:3] == code[:3] for answer, code in pairs) / count,
        }
        print(name, found[name])
    if out:
        write_json(out, found)


def ask(name: str, titles: list[str]) -> list[str]:
    """The text that a model writes into the code block after each title."""
    model, tokenizer = load_model(name), load_tokenizer(name)
    prompts = [
        tokenizer(f"{title} {OPEN}", add_special_tokens=False)["input_ids"] for title in titles
    ]
    close = tokenizer(CLOSE, add_special_tokens=False)["input_ids"]
    answers = generate_all(
        model,
        prompts,
        8192,
        max_new_tokens=8,
        end_ids=[tokenizer.eos_token_id, close[-1]],
        pad_id=tokenizer.pad_token_id,
    )
    return [spell(answer.ids, tokenizer)[0].split("<")[0].strip() for answer in answers]


if __name__ == "__main__":
    typer.run(main)
