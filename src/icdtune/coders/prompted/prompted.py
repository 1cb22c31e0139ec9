"""Zero- and few-shot prompting: a base model's own knowledge, nothing trained."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

from pydantic import Field

from icdtune.coders.generative import Budget, GenerativeCoder, start_coder
from icdtune.data.labels import Task
from icdtune.prompts.answer import Scan
from icdtune.prompts.prompt import check_tokenizer


class Prompted(GenerativeCoder):
    """A language model that is asked for the codes of a note, nothing trained.

    Args:
        model: "tiny", "smollm2-135m", a model folder or a hub id.
        shots: coded training notes shown first, drawn with the seed; 0 is zero-shot.
        prompt_budget, answer_budget: tokens of prompt and answer.
        scan: how an answer without a complete block is read; "anywhere" is its best chance.
    """

    def __init__(
        self,
        model: str = "tiny",
        shots: Annotated[int, Field(ge=0)] = 0,
        prompt_budget: Budget = 2048,
        answer_budget: Budget = 96,
        scan: Scan = "anywhere",
    ) -> None:
        super().__init__()
        self._model = model
        self._shots = shots
        self._budgets = (prompt_budget, answer_budget)
        self._scan: Scan = scan

    def fit(self, task: Task, seed: int, work: Path) -> None:
        """Load the model; draw the examples from the split "train"."""
        coder = start_coder(self._model, None, self._budgets, task.corpus.info.code_systems)
        check_tokenizer(coder.tokenizer, task.labels.codes, f'model "{self._model}"')
        self.model, self.tokenizer = coder.model, coder.tokenizer
        examples = []
        if self._shots:
            train = [note for note in task.notes("train") if note.codes]
            chosen = random.Random(f"shots:{seed}").sample(train, min(self._shots, len(train)))
            examples = [(note.text, sorted(note.codes or ())) for note in chosen]
        self.settings = coder.settings.model_copy(update={"scan": self._scan, "examples": examples})
