"""A task of 64 notes and an encoder for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from icdtune.data.labels import LabelRule, Task, choose_labels
from icdtune.data.schema import Corpus
from icdtune.data.synthetic import prepare


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """64 short notes; validation and test hold some more."""
    path = tmp_path_factory.mktemp("classified") / "c"
    prepare(path, train=64, val=20, test=20, concepts=40, seed=4)
    corpus = Corpus(path)
    return Task(corpus, choose_labels(corpus, "full", LabelRule(kind="full", min_count=2)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """A tiny BERT with a tokenizer of the corpus's words."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    texts = [note.text.lower() for note in task.notes("train")]
    words = sorted({word for text in texts for word in re.findall("[a-z0-9]+", text)})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *".,-/%()", *words]))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder
