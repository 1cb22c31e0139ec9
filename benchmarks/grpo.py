"""A GRPO update against TRL's, a whole step against TRL's, and what reward and credit cost.

    python benchmarks/grpo.py update --prompt 1024 --answer 64 --out benchmarks/results/grpo_update.json
    python benchmarks/grpo.py step CODER CORPUS --out benchmarks/results/grpo_step.json
    python benchmarks/grpo.py credit --out benchmarks/results/grpo_credit.json

Each side runs in a process of its own, whose peak memory is reported; sides take turns.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from sides import child, peak, report, timed

SIDES = {"ours": 8, "trl": 8, "trl, one row at a time": 1}
app = typer.Typer(pretty_exceptions_enable=False)
Out = Annotated[Path | None, typer.Option()]


@app.command()
def update(
    model: str = "smollm2-135m",
    prompt: int = 1_024,
    answer: int = 64,
    lora_rank: int = 8,
    repeats: int = 3,
    out: Out = None,
) -> None:
    """Log-probabilities, loss and gradient of one group of 8 answers, in 32 bits."""
    found: dict[str, Any] = {"model": model, "prompt": prompt, "answer": answer, "group": 8}
    found |= {"lora_rank": lora_rank, "token_ratio": 8 * (prompt + answer) / (prompt + 8 * answer)}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            arguments = [side, model, prompt, answer, lora_rank, repeats, f"{folder}/{side}.pt"]
            found[side] = child(__file__, "one-update", *arguments)
            print(side, found[side], flush=True)
        import torch

        own, theirs = (torch.load(f"{folder}/{side}.pt") for side in ("ours", "trl"))
        found["gradient_difference"] = float((own - theirs).norm() / theirs.norm())
    found["speedup"] = found["trl"]["seconds"] / found["ours"]["seconds"]
    found["of_token_ratio"] = found["speedup"] / found["token_ratio"]
    found["memory"] = found["ours"]["peak_gb"] / found["trl"]["peak_gb"]
    report(found, out)


@app.command(hidden=True)
def one_update(
    side: str, model: str, prompt: int, answer: int, rank: int, repeats: int, gradient: Path
) -> None:
    """One side's updates; prints seconds and peak memory."""
    import torch

    from icdtune.decoding.hardware import use_cores

    use_cores()
    with tempfile.TemporaryDirectory() as work:
        trainer = make_trainer(side, model, rank, work)
        torch.manual_seed(0)
        ids = torch.randint(100, 4_000, (8, prompt + answer))
        ids[:, :prompt] = ids[0, :prompt]
        inputs = {
            "prompt_ids": ids[:, :prompt],
            "prompt_mask": torch.ones(8, prompt, dtype=torch.long),
            "completion_ids": ids[:, prompt:],
            "completion_mask": torch.ones(8, answer, dtype=torch.long),
            "advantages": torch.linspace(-1, 1, 8),
            "num_items_in_batch": torch.tensor(8.0 * answer),
        }
        trainer.current_gradient_accumulation_steps = 1
        net, size = trainer.model.train(), SIDES[side]
        for name, weights in net.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.02)

        def run() -> None:
            net.zero_grad(set_to_none=True)
            for start in range(0, 8, size):
                part = {
                    name: value if value.dim() == 0 else value[start : start + size]
                    for name, value in inputs.items()
                }
                trainer._compute_loss(net, part).backward()

        seconds = timed(run, repeats)
        trained = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        torch.save(torch.cat(trained), gradient)
    print(json.dumps({"seconds": seconds, "peak_gb": peak()}))


def make_trainer(side: str, model: str, rank: int, work: str) -> Any:
    """A trainer of ours or TRL's own with the same arguments."""
    import torch
    from datasets import Dataset
    from trl import GRPOTrainer

    from icdtune.coders.generative import start_coder
    from icdtune.coders.training import arguments, lora
    from icdtune.posttrain.credit import Objective
    from icdtune.posttrain.grpo import Update
    from icdtune.posttrain.rollouts import CodeSetTrainer, grpo_config

    torch.manual_seed(0)
    coder = start_coder(model, None, (1024, 64), {})
    config = grpo_config(arguments(Path(work), 1, 1, 10, bf16=False), Update(visits=1), 1e-5)
    adapter = lora(rank, rank) if rank else None
    if side == "ours":
        return CodeSetTrainer(
            coder, lambda step: [], str, config, 1, Objective(), peft_config=adapter
        )
    return GRPOTrainer(
        model=coder.model,
        args=config,
        reward_funcs=[lambda completions, **rest: [0.0] * len(completions)],
        train_dataset=Dataset.from_list([{"prompt": ""}]),
        processing_class=coder.tokenizer,
        peft_config=adapter,
    )


@app.command()
def step(coder: Path, corpus: Path, visits: int = 16, steps: int = 4, out: Out = None) -> None:
    """A whole step, rollouts included, of a fine-tuned coder; median without the first."""
    found: dict[str, Any] = {"coder": coder.name, "visits": visits, "group": 8}
    for side in ("ours", "trl"):
        found[side] = child(__file__, "one-step", side, coder, corpus, visits, steps)
        print(side, found[side], flush=True)
    found["speedup"] = found["trl"]["seconds"] / found["ours"]["seconds"]
    report(found, out)


@app.command(hidden=True)
def one_step(side: str, folder: Path, corpus: Path, visits: int, steps: int) -> None:
    """One side's steps; prints the median of their seconds and what they generated."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from icdtune.coders.base import load_coder
    from icdtune.coders.generative import GenerativeCoder
    from icdtune.coders.training import arguments
    from icdtune.data.labels import Task, read_labels
    from icdtune.data.schema import Corpus
    from icdtune.decoding.hardware import half_precision, kept_memory, use_cores
    from icdtune.posttrain.credit import Objective, repeats
    from icdtune.posttrain.curriculum import Visit
    from icdtune.posttrain.grpo import Update, titles
    from icdtune.posttrain.reward import Reward
    from icdtune.posttrain.rollouts import CodeSetTrainer, grpo_config
    from icdtune.prompts.answer import parse_answer

    use_cores()
    coder, opened = load_coder(folder), Corpus(corpus)
    assert isinstance(coder, GenerativeCoder)
    task = Task(opened, read_labels(folder / "labels.json", opened.info.code_systems))
    notes = list(task.notes("train"))[: visits * steps]
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moments[-1] = time.perf_counter() - moments[-1]

    def reward(completions: list[str], gold: list[list[str]], **rest: Any) -> list[float]:
        answers = [parse_answer(text, coder.settings.code_systems) for text in completions]
        return [
            Reward().score(set(a.codes), set(codes), repeats(a))
            for a, codes in zip(answers, gold, strict=True)
        ]

    with tempfile.TemporaryDirectory() as work, kept_memory():
        common = arguments(Path(work), 1, steps, 100, half_precision(coder.model.device))
        config = grpo_config(common, Update(visits=visits), 3e-5)
        trainer: Any
        if side == "ours":
            groups = [notes[i : i + visits] for i in range(0, len(notes), visits)]
            trainer = CodeSetTrainer(
                coder,
                lambda step: [Visit(note) for note in groups[step]],
                titles(task),
                config,
                visits,
                Objective(credit_weight=0.5),
                callbacks=[Clock()],
            )
        else:
            config.max_completion_length = coder.settings.answer_budget
            rows = [
                {
                    "prompt": coder.tokenizer.decode(coder.prompt(n.text)),
                    "gold": list(n.codes or ()),
                }
                for n in notes
            ]
            trainer = GRPOTrainer(
                model=coder.model,
                args=config,
                reward_funcs=[reward],
                train_dataset=Dataset.from_list(rows),
                processing_class=coder.tokenizer,
                callbacks=[Clock()],
            )
        trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    seconds = [round(moment, 2) for moment in moments]
    found = {"seconds": statistics.median(seconds[1:]), "all": seconds, "peak_gb": peak()}
    print(json.dumps(found | {"reward": round(statistics.mean(rewards), 3)}))


@app.command()
def credit(rollouts: int = 8_192, codes: int = 12, out: Out = None) -> None:
    """Reward and credit, on their tokens, of rollouts of a dozen codes: one process, no model."""
    from icdtune.posttrain.credit import code_credits, repeats, token_credits
    from icdtune.posttrain.reward import Reward
    from icdtune.prompts.answer import format_answer, parse_answer

    draw, reward = random.Random(0), Reward()
    names = [f"{chr(65 + i % 26)}{10 + i // 26 % 90}.{i % 10}" for i in range(400)]
    groups = []
    for _ in range(rollouts // 8):
        near = draw.sample(names, 2 * codes)
        answers = []
        for _ in range(8):
            text = format_answer(draw.sample(near, codes))
            ends = [*range(6, len(text), 3), len(text)]
            offsets = list(zip([0, *ends[:-1]], ends, strict=True))
            answers.append((text, offsets, parse_answer(text, {"diagnosis": "icd10cm"})))
        groups.append((frozenset(near[:codes]), answers))

    def run() -> None:
        for gold, answers in groups:
            for _, _, answer in answers:
                reward.score(set(answer.codes), gold, repeats(answer))
            found = code_credits([answer for *_, answer in answers], gold, reward)
            for one, (text, offsets, answer) in zip(found, answers, strict=True):
                token_credits(one, answer, text, offsets)

    report({"rollouts": rollouts, "codes": codes, "seconds": timed(run, 5)}, out)


if __name__ == "__main__":
    app()
