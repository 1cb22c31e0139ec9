"""A GRPO update's log-probabilities and gradient on a GPU: each prompt forwarded once, or G times.

python benchmarks/gpu/shared_prefix.py --out benchmarks/results/gpu_shared_prefix.json

Qwen2.5-1.5B's shape with random weights, in bfloat16, with and without gradient checkpointing: one group
of G answers to one prompt. Reports medians, the ratio to the ratio of the tokens, peak memory, and how
far both gradients are from the one in 32 bits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from icdtune.files import write_json
from icdtune.posttrain.shared_prefix import log_probabilities
from icdtune.posttrain.tree_attention import attend_over_trees

QWEN = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
"""Qwen/Qwen2.5-1.5B-Instruct, config.json."""


def main(
    prompt: int = 5_120,
    answer: int = 196,
    group: int = 8,
    batches: str = "1,2,4",
    repeats: int = 5,
    layers: int = 28,
    exact: bool = True,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Time both ways; the plain one at several batch sizes, of which the fastest counts."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    torch.manual_seed(0)
    config = Qwen2Config(**QWEN | {"num_hidden_layers": layers})
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    ids = torch.randint(10, 150_000, (group, prompt + answer), device=device)
    ids[:, :prompt] = ids[0, :prompt]
    mask = torch.ones_like(ids)
    weights = torch.randn(group, 1, device=device)

    def shared() -> None:
        found, _ = log_probabilities(model, ids, mask, answer, group)
        (found * weights).mean().backward()

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "prompt": prompt,
        "answer": answer,
        "group": group,
        "layers": layers,
        "token_ratio": round(group * (prompt + answer) / (prompt + group * answer), 3),
    }
    found["plain"] = {}
    for size in map(int, batches.split(",")):
        try:
            found["plain"][size] = measure(
                model, lambda size=size: plain(model, ids, mask, answer, weights, size), repeats
            )
        except torch.OutOfMemoryError:
            found["plain"][size] = "out of memory"
    model.zero_grad(set_to_none=True)
    plain(model, ids, mask, answer, weights, 1)
    gradients = {"plain": gradient(model)}
    attend_over_trees(model)
    found["shared"] = measure(model, shared, repeats)
    gradients["shared"] = gradient(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    found["shared_checkpointing"] = measure(model, shared, repeats)
    if exact:  # activations in 32 bits would not fit: checkpointing stays on
        model.set_attn_implementation("sdpa")
        model.zero_grad(set_to_none=True)
        model.float()
        plain(model, ids, mask, answer, weights, 1)
        truth = gradient(model)
        found["gradient_difference_from_32_bits"] = {
            name: float((own - truth).norm() / truth.norm()) for name, own in gradients.items()
        }
    best = min(r["seconds"] for r in found["plain"].values() if isinstance(r, dict))
    found["speedup"] = round(best / found["shared"]["seconds"], 3)
    found["of_token_ratio"] = round(found["speedup"] / found["token_ratio"], 3)
    print(found)
    if out:
        write_json(out, found)


def gradient(model: PreTrainedModel) -> torch.Tensor:
    """The gradient of the first layer's weights, through which all others' go; then none is left."""
    parts = [p.grad.float().flatten() for p in model.model.layers[0].parameters()]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def plain(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    answer: int,
    weights: torch.Tensor,
    size: int,
) -> None:
    """The same gradient with the prompt of every row forwarded, `size` rows at a time."""
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        logits = model(
            input_ids=ids[rows],
            attention_mask=mask[rows],
            logits_to_keep=answer + 1,
            use_cache=False,
        ).logits[:, :-1]
        chosen = torch.log_softmax(logits.float(), -1).gather(-1, ids[rows, -answer:, None])[..., 0]
        (chosen * weights[rows]).sum().div(len(ids) * answer).backward()


def measure(model: PreTrainedModel, run: Callable[[], None], repeats: int) -> dict[str, float]:
    """Median seconds of an update and its peak memory; the first run is not counted."""
    cuda = torch.cuda.is_available()
    seconds = []
    for repeat in range(repeats + 1):
        model.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.empty_cache() if repeat == 0 else None
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        if repeat:
            seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return {"seconds": round(statistics.median(seconds), 4), "peak_gib": round(peak, 2)}


if __name__ == "__main__":
    typer.run(main)
