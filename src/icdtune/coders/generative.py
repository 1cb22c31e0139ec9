"""The generative coder: a language model that answers a note with a set of codes.

Its folder is a `save_pretrained` folder (weights or a PEFT adapter, tokenizer) with `generative.json`
beside. Prompted and post-trained coders differ in how they come by their weights, not in this file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from icdtune.coders.models import load_model, load_tokenizer, read_tokenizer
from icdtune.data.predictions import Prediction, Predictions
from icdtune.data.schema import Note, first_problem
from icdtune.errors import IcdtuneError
from icdtune.files import read_json, write_json
from icdtune.progress import bar
from icdtune.prompts.answer import Answer, Scan, parse_answer
from icdtune.prompts.prompt import Example, Prompt, fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icdtune.decoding.generate import Generated

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
CHUNK = 2_000
"""Notes that are in memory at once."""
Budget = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """The content of generative.json.

    Attributes:
        base: the model that weights or adapters belong to.
        layers: how many of its layers are kept; None is all.
        adapters: folders of PEFT adapters, merged in this order; the last may be ".".
        prompt_budget, answer_budget: tokens.
        batch_tokens: tokens that a batch of prompts and answers may hold, which bounds the memory;
            None is 24,576 on a CPU and 131,072 on a GPU.
        scan: how an answer without a complete block is read.
        code_systems: of the corpus that it was made for.
        examples: notes shown with their codes.
    """

    model_config = ConfigDict(extra="forbid")

    base: str
    layers: int | None = None
    adapters: list[str] = []
    weights: Literal["base", "here"] = "here"
    prompt_budget: int
    answer_budget: int
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    scan: Scan = "block"
    code_systems: dict[str, str]
    examples: list[tuple[str, list[str]]] = []


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to one note: its text, what was read in it, and the codes' scores."""

    text: str
    answer: Answer
    scores: dict[str, float]
    ended: bool


class GenerativeCoder:
    """A language model that answers with a set of codes, each scored by its tokens' probability."""

    shows_progress = True
    loader = "icdtune.coders.generative:GenerativeCoder"
    parts: tuple[str, ...] = ("prompts", "decoding", "coders/generative.py")

    def __init__(self) -> None:
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.settings: Settings
        self.carried: list[Path] = []
        self.training: dict[str, Any] = {}

    def predict(self, notes: Iterable[Note]) -> Predictions:
        """Answer every note greedily, without hints; codes by falling score."""
        rows: list[Prediction] = []
        totals = {"prompt": 0, "answer": 0, "truncated": 0, "unread": 0, "dropped": 0}
        with bar("Answer") as progress:
            for chunk in _chunks(notes, CHUNK):
                prompts = self.prompts(note.text for note in chunk)
                totals["prompt"] += sum(map(len, prompts))
                done = len(rows)
                progress(done, done + len(chunk))
                for note, generated in zip(
                    chunk, self.answer(prompts, lambda n, d=done: progress(d + n)), strict=True
                ):
                    reply = self.read(generated)
                    totals["answer"] += len(generated.ids)
                    totals["truncated"] += not reply.ended
                    totals["unread"] += not reply.answer.closed
                    totals["dropped"] += len(reply.answer.dropped)
                    rows.append(_row(note.note_id, reply))
        details = {"prompt_tokens": totals["prompt"], "answer_tokens": totals["answer"]}
        details |= {name: totals[name] for name in ("truncated", "unread", "dropped")}
        return Predictions(rows, tokens=totals["prompt"] + totals["answer"], details=details)

    def prompts(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each note's hint-free prompt, within the budget."""
        return [self.prompt(text) for text in texts]

    def prompt(self, text: str, hint: str = "") -> list[int]:
        """Token ids of a note's prompt within the budget; hints are for training only."""
        examples = tuple(Example(note, tuple(codes)) for note, codes in self.settings.examples)
        prompt = Prompt(text, hint, examples=examples)
        return fit(prompt, self.tokenizer, self.settings.prompt_budget)

    def answer(
        self, prompts: Sequence[Sequence[int]], each: Any = lambda done: None
    ) -> list[Generated]:
        """Greedy answers to prompts."""
        from icdtune.decoding.generate import generate_all
        from icdtune.decoding.hardware import batch_tokens

        self.model.eval()
        return generate_all(
            self.model,
            prompts,
            self.settings.batch_tokens or batch_tokens(self.model.device),
            each,
            max_new_tokens=self.settings.answer_budget,
            end_ids=end_ids(self.model, self.tokenizer),
            pad_id=self.tokenizer.pad_token_id,
        )

    def read(self, generated: Generated) -> Reply:
        """Read an answer; a code's score is the mean probability of the tokens that spell it."""
        tokenizer = self.tokenizer
        text, ends = spell(generated.ids, tokenizer)
        answer = parse_answer(text, self.settings.code_systems, self.settings.scan)
        starts = np.array([0, *ends[:-1]])
        stops = np.array(ends)
        chances = np.array(generated.probabilities)
        scores = {}
        for item in answer.found:
            inside = (starts < item.end) & (stops > item.start)
            scores[item.code] = float(np.float32(chances[inside].mean()))
        return Reply(text, answer, scores, generated.ended)

    def save(self, folder: Path) -> None:
        """Write weights (or the adapter), tokenizer and generative.json."""
        settings = self.settings
        if settings.weights == "here":
            for adapter in getattr(self.model, "peft_config", {}).values():
                adapter.base_model_name_or_path = settings.base  # not the folder it lies in here
            self.model.save_pretrained(folder)
            if not settings.adapters and Path(settings.base).is_dir():
                # Nothing is read from the base model any more, and folders travel.
                settings = settings.model_copy(update={"base": Path(settings.base).name})
        for i, adapter in enumerate(self.carried):
            for file in ADAPTER:
                (folder / "earlier" / str(i)).mkdir(parents=True, exist_ok=True)
                shutil.copy(adapter / file, folder / "earlier" / str(i) / file)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / "generative.json", settings.model_dump())
        if self.training:
            write_json(folder / "training.json", self.training)

    @classmethod
    def load(cls, folder: Path) -> GenerativeCoder:
        """Read a coder back."""
        coder = GenerativeCoder()
        path = folder / "generative.json"
        try:
            settings = Settings.model_validate(read_json(path))
        except ValidationError as error:
            raise IcdtuneError(f"{path}: {first_problem(error)}") from None
        coder.settings = settings
        coder.tokenizer = read_tokenizer(str(folder), str(folder))
        coder.model = load_weights(settings, folder)
        return coder


def load_weights(settings: Settings, folder: Path) -> PreTrainedModel:
    """The model of a coder folder in fp32, adapters merged."""
    own = settings.weights == "here" and not settings.adapters
    model = load_model(str(folder)) if own else load_model(settings.base, settings.layers)
    for adapter in settings.adapters:
        from peft import PeftModel

        for file in ADAPTER:
            if not (folder / adapter / file).exists():
                raise IcdtuneError(f"{folder} lacks {Path(adapter) / file}")
        merged = PeftModel.from_pretrained(model, str(folder / adapter)).merge_and_unload()
        model = merged.eval().requires_grad_(True)  # PEFT had frozen it
    return model


def start_coder(
    model: str, layers: int | None, budgets: tuple[int, int], code_systems: dict[str, str]
) -> GenerativeCoder:
    """A coder of a base model as it comes."""
    coder = GenerativeCoder()
    coder.tokenizer = load_tokenizer(model)
    coder.model = load_model(model, layers)
    coder.settings = Settings(
        base=model,
        layers=layers,
        weights="base",
        prompt_budget=budgets[0],
        answer_budget=budgets[1],
        code_systems=code_systems,
    )
    return coder


def spell(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """The text of some tokens without special ones, and where in it each token ends."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    pieces = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)
    if "".join(pieces) == text:
        return text, list(accumulate(map(len, pieces)))
    prefixes = [ids[: i + 1] for i in range(len(ids))]  # a character of several tokens
    texts = tokenizer.batch_decode(prefixes, skip_special_tokens=True)
    return text, [len(text) for text in texts]


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the tokenizer's and those of the generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    several = configured if isinstance(configured, list) else [configured]
    found = {tokenizer.eos_token_id, *several} - {None}
    return sorted(int(i) for i in found)


def _row(note_id: str, reply: Reply) -> Prediction:
    codes = sorted(reply.scores, key=lambda code: (-reply.scores[code], code))
    scores = tuple(reply.scores[code] for code in codes)
    return Prediction(note_id, tuple(codes), scores, answer=reply.text)


def _chunks(notes: Iterable[Note], size: int) -> Iterator[list[Note]]:
    chunk: list[Note] = []
    for note in notes:
        chunk.append(note)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
