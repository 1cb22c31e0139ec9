"""A small real tokenizer, with and without what a coder needs of it."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from icdtune.prompts.answer import format_answer
from icdtune.prompts.prompt import FORMAT, INSTRUCTION

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(template, normalizer=None):
    bpe = Tokenizer(models.BPE())
    if normalizer is not None:
        bpe.normalizer = normalizer
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([INSTRUCTION, FORMAT, format_answer(["I10", "E11.9"])], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with a chat template: spells everything."""
    return make_tokenizer(TEMPLATE)


@pytest.fixture(scope="session")
def templateless_tokenizer():
    """The tokenizer of a base model."""
    return make_tokenizer(None)


@pytest.fixture(scope="session")
def lowercasing_tokenizer():
    """A tokenizer that forgets case, as that of an uncased model does."""
    return make_tokenizer(TEMPLATE, normalizers.Lowercase())


@pytest.fixture(scope="session")
def talkative_tokenizer():
    """A chat template that opens every conversation with a long text of its own."""
    return make_tokenizer("Be careful and precise in all you do. " * 5 + TEMPLATE)
