"""Shared fixtures: where the repository and the real data lie; a small corpus and models for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from support import SHARED, mounted

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from icdtune.data.labels import Task

hypothesis.settings.register_profile("here", deadline=None)  # no timed tests
hypothesis.settings.load_profile("here")
if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    # Workers share the cores; read by numpy and torch when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips where there is none."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium")
    if executable is None:
        reason = "no Chromium here: apt-get install chromium"
        if os.environ.get("CI_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def codiesp_source() -> Path:
    """The published CodiEsp layout; skips where it is absent."""
    path = SHARED / "data" / "codiesp"
    if not path.is_dir():
        pytest.skip(f"CodiEsp is not at {path}: set ICDTUNE_SHARED to the folder that holds data/")
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with mounted(tmp_path / "disk", "64k") as folder:
        yield folder


@pytest.fixture(scope="session")
def small_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A synthetic corpus of 32 training notes, seen through its ten most frequent codes."""
    from icdtune.data.labels import LabelRule, Task, choose_labels
    from icdtune.data.schema import Corpus
    from icdtune.data.synthetic import prepare

    path = tmp_path_factory.mktemp("small") / "corpus"
    prepare(path, train=32, val=8, test=8, seed=5)
    corpus = Corpus(path)
    return Task(corpus, choose_labels(corpus, "top10", LabelRule(kind="top_k", k=10)))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, small_task: Task) -> Path:
    """A folder with a Llama of random weights and a byte-level BPE tokenizer, as a user may have."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from icdtune.posttrain.grpo import titles
    from icdtune.prompts.answer import format_answer
    from icdtune.prompts.hints import render_hint
    from icdtune.prompts.prompt import FORMAT, INSTRUCTION

    codes = small_task.labels.codes
    spoken = [note.text for note in small_task.notes("train")]
    spoken += [INSTRUCTION, FORMAT, render_hint(codes, titles(small_task))] * 50
    spoken += [format_answer([code]) for code in codes] * 50
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(spoken, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("model") / "small"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, small_task: Task, small_model: Path) -> Path:
    """The folder of a coder that was fine-tuned far enough to answer in the format."""
    from icdtune.coders.base import train_coder

    folder = tmp_path_factory.mktemp("tuned") / "sft"
    options = {
        "model": str(small_model),
        "steps": 60,
        "batch": 8,
        "learning_rate": 2e-2,
        "prompt_budget": 192,
        "answer_budget": 24,
    }
    train_coder("sft", small_task, folder, 1, options)
    return folder
