"""The study file: what is compared, on which corpus, with which seeds.

A YAML file holds one study a document; documents are separated by `---`. Strings may use
environment variables as ${NAME} or ${NAME:-default}; relative paths start at the file's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from icdtune.data.labels import LabelRule
from icdtune.data.schema import first_problem
from icdtune.errors import IcdtuneError
from icdtune.files import check_name, read_text

PATHS = ("source", "lexicon", "file", "codes_file", "hosp", "note", "raw")
"""Options of corpus sources that are paths."""
CODER_PATHS = ("reviewed",)
"""Options of coders that are files of the user's."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CorpusChoice(_Model):
    """A corpus that exists (`path`), or one that the study prepares (`prepare`, `options`)."""

    path: Path | None = None
    prepare: str | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one(self) -> CorpusChoice:
        if (self.path is None) == (self.prepare is None):
            raise ValueError('give either "path" or "prepare"')
        return self


class LabelChoice(LabelRule):
    """The study's label space: a rule, a name, and what becomes of notes without gold."""

    name: str = "full"
    kind: Literal["full", "top_k", "file"] = "full"
    empty_notes: Literal["keep", "drop"] = "keep"

    @property
    def rule(self) -> LabelRule:
        """The rule alone."""
        return LabelRule(**{name: getattr(self, name) for name in LabelRule.model_fields})


class CoderChoice(_Model):
    """One row of the study: a registered coder and its options.

    Attributes:
        uses: option name -> row whose coder folder (of the same seed) is that option's value; such a
            row runs first, wherever it stands.
        notes: how many notes of the split are predicted, spread evenly; None is all.
        once: run with the first seed only, for a coder in which nothing is drawn.
        optional: leave the row out, and say so, where its base model is not on this machine.
        note: a remark that is printed with the row.
    """

    name: str
    coder: str
    options: dict[str, Any] = {}
    uses: dict[str, str] = {}
    notes: int | None = Field(None, ge=1)
    once: bool = False
    optional: bool = False
    note: str | None = None

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        return _plain(value)


class EvaluationChoice(_Model):
    """How the study is evaluated."""

    resamples: int = Field(1000, ge=0)
    seed: int = 0
    level: float = Field(0.95, gt=0, lt=1)
    examples: int = Field(10, ge=0)


class Study(_Model):
    """A study file's content."""

    name: str
    description: str = ""
    corpus: CorpusChoice
    labels: LabelChoice = LabelChoice()
    split: str = "test"
    seeds: list[int] = Field([1], min_length=1)
    coders: list[CoderChoice] = Field(min_length=1)
    compare: list[tuple[str, str]] = []
    evaluation: EvaluationChoice = EvaluationChoice()

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        return _plain(value)

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("a seed stands twice")
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Study:
        names = [coder.name for coder in self.coders]
        if len(set(names)) != len(names):
            raise ValueError("two coders have the same name")
        self.order()
        for name in (name for pair in self.compare for name in pair):
            if name not in names:
                raise ValueError(f'"compare" names "{name}", which is no row of the study')
        return self

    def seeds_of(self, row: CoderChoice) -> list[int]:
        """The seeds that a row runs with."""
        return self.seeds[:1] if row.once else self.seeds

    def order(self) -> list[CoderChoice]:
        """The rows in an order in which each comes after those that it uses."""
        return self.needed([coder.name for coder in self.coders])

    def needed(self, names: Sequence[str]) -> list[CoderChoice]:
        """These rows and all that they use, each after those that it uses."""
        rows = {coder.name: coder for coder in self.coders}
        done: dict[str, CoderChoice] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ValueError(f"coders use each other in a circle: {' -> '.join([*path, name])}")
            for used in rows[name].uses.values():
                if used not in rows:
                    raise ValueError(f'coder "{name}" uses "{used}", which is no row of the study')
                if rows[used].once and not rows[name].once:
                    raise ValueError(
                        f'coder "{name}" uses "{used}" with every seed, which has "once": drop it there'
                    )
                visit(used, (*path, name))
            done.setdefault(name, rows[name])

        for name in names:
            visit(name, ())
        return list(done.values())


def _plain(value: str) -> str:
    try:
        return check_name(value, "name")
    except IcdtuneError as error:
        raise ValueError(str(error)) from None


def read_study(path: Path) -> list[Study]:
    """Read and check every study of a file; IcdtuneError names the document and field."""
    try:
        documents = list(yaml.safe_load_all(read_text(path)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise IcdtuneError(f"{path}{line} is not valid YAML. Quote special characters") from None
    if not documents:
        raise IcdtuneError(f"{path} is empty. Start from one in examples/")
    studies = []
    for at, document in enumerate(documents, 1):
        where = f"{path}" if len(documents) == 1 else f"{path} document {at}"
        try:
            study = Study.model_validate(_expand(document, where))
        except ValidationError as error:
            raise IcdtuneError(f"{where}: {first_problem(error)}. See docs/study.md") from None
        studies.append(_resolve(study, path.parent))
    if len({study.name for study in studies}) != len(studies):
        raise IcdtuneError(f'{path}: field "name": two studies have the same. Rename one')
    return studies


def _expand(value: Any, where: str) -> Any:
    """Fill in environment variables in every string."""
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise IcdtuneError(f"{where}: environment variable {match[1]} is not set. Set it")
        return found

    return _VARIABLE.sub(replace, value)


def _resolve(study: Study, folder: Path) -> Study:
    """Make relative paths start at the study file's folder."""
    corpus = study.corpus.model_copy()
    if corpus.path is not None:
        corpus.path = folder / corpus.path
    corpus.options = {
        key: str(folder / value) if key in PATHS else value for key, value in corpus.options.items()
    }
    coders = [
        row.model_copy(
            update={
                "options": {
                    key: str(folder / value) if key in CODER_PATHS else value
                    for key, value in row.options.items()
                }
            }
        )
        for row in study.coders
    ]
    labels = study.labels.model_copy()
    if labels.source is not None:
        labels.source = str(folder / labels.source)
    return study.model_copy(update={"corpus": corpus, "labels": labels, "coders": coders})
