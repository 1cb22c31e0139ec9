"""Label spaces: the ordered list of codes a task is about, and the rule that chose it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from icdtune.data.schema import (
    Corpus,
    Note,
    canonical_code,
    first_problem,
    is_canonical,
    malformed,
)
from icdtune.errors import IcdtuneError
from icdtune.files import check_name, read_json, read_text, write_json


class LabelRule(BaseModel):
    """How a label space was chosen.

    Attributes:
        kind: "full" (all codes seen), "top_k" (the most frequent), "file" (a list given).
        k: size, for "top_k".
        min_count: least number of notes that carry the code.
        counted_on: splits whose gold was counted.
        source: file name, for "file".
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["full", "top_k", "file"]
    k: int | None = None
    min_count: int = 1
    counted_on: list[str] = ["train"]
    source: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> LabelRule:
        if self.kind == "top_k" and (self.k is None or self.k < 1):
            raise ValueError('a "top_k" label space needs k >= 1')
        if self.kind == "file" and not self.source:
            raise ValueError('a "file" label space needs its source')
        if self.kind != "top_k" and self.k is not None:
            raise ValueError(f'k is for a "top_k" label space, not for "{self.kind}"')
        if self.kind != "file" and self.source is not None:
            raise ValueError(f'source is for a "file" label space, not for "{self.kind}"')
        if self.kind == "file" and self.min_count != 1:
            raise ValueError('a "file" label space takes its codes as they are, without min_count')
        return self


class LabelSpace(BaseModel):
    """An ordered list of codes; most frequent first unless a file ordered them."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rule: LabelRule
    empty_notes: Literal["keep", "drop"] = "keep"
    codes: list[str]

    @cached_property
    def index(self) -> dict[str, int]:
        """Code -> position."""
        return {code: i for i, code in enumerate(self.codes)}

    @cached_property
    def digest(self) -> str:
        """Hash of the codes in their order."""
        return hashlib.sha256("\n".join(self.codes).encode()).hexdigest()

    def restrict(self, codes: Sequence[str]) -> tuple[str, ...]:
        """The codes that belong to the space, in their order."""
        return tuple(code for code in codes if code in self.index)


@dataclass(frozen=True)
class Task:
    """A corpus seen through a label space: what is trained on and evaluated."""

    corpus: Corpus
    labels: LabelSpace
    only: frozenset[str] | None = None
    """Ids of the notes that are looked at; None is all."""

    def notes(self, split: str, gold: bool = True) -> Iterator[Note]:
        """Stream a split with its codes restricted to the label space.

        Notes left without gold are dropped where the space says so. With `gold`, an unlabelled note
        is an IcdtuneError; without, its codes stay None.
        """
        for note in self.corpus.notes(split):
            if self.only is not None and note.note_id not in self.only:
                continue
            if note.codes is None:
                if gold:
                    raise self._unlabelled(split, note.note_id)
                yield note
                continue
            codes = self.labels.restrict(note.codes)
            if codes or self.labels.empty_notes == "keep":
                yield Note(note.note_id, note.subject_id, note.text, codes)

    def gold(self, split: str) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
        """Note ids, subject ids and gold of a split, as `notes` gives them, without its texts."""
        table = self.corpus.columns(split, "note_id", "subject_id", "codes")
        ids: list[str] = []
        subjects: list[str] = []
        gold: list[tuple[str, ...]] = []
        rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        for note_id, subject_id, codes in rows:
            if self.only is not None and note_id not in self.only:
                continue
            if codes is None:
                raise self._unlabelled(split, note_id)
            kept = self.labels.restrict(codes)
            if kept or self.labels.empty_notes == "keep":
                ids.append(note_id)
                subjects.append(subject_id)
                gold.append(kept)
        return ids, subjects, gold

    def sample(self, split: str, count: int) -> Task:
        """The task on a fixed subset of a split: `count` notes spread evenly over its order."""
        ids = self.gold(split)[0]
        step = max(1.0, len(ids) / count)
        chosen = frozenset(ids[int(i * step)] for i in range(min(count, len(ids))))
        return replace(self, only=chosen)

    def _unlabelled(self, split: str, note_id: str) -> IcdtuneError:
        return IcdtuneError(
            f'{self.corpus.path} split "{split}": note {note_id} is unlabelled '
            f"(codes are null), and gold is needed here. Use a labelled split"
        )

    def frequencies(self, split: str = "train") -> Counter[str]:
        """Number of notes of a split that carry each code."""
        return count_codes(self.corpus, [split])


def count_codes(corpus: Corpus, splits: Sequence[str]) -> Counter[str]:
    """Number of notes that carry each code, over splits that must be labelled throughout."""
    counts: Counter[str] = Counter()
    for split in splits:
        column = corpus.columns(split, "codes")["codes"]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise IcdtuneError(
                f'{corpus.path}/{split}.parquet row {row}: field "codes" is null (unlabelled), '
                f"and codes are counted here. Count on labelled splits only"
            )
        for codes in column.to_pylist():
            counts.update(set(codes))
    return counts


def choose_labels(
    corpus: Corpus, name: str, rule: LabelRule, empty_notes: Literal["keep", "drop"] = "keep"
) -> LabelSpace:
    """Choose a label space by rule; equal counts are ordered by code.

    Raises IcdtuneError where no code is left.
    """
    if rule.kind == "file":
        codes = _read_codes(Path(rule.source or ""), corpus)
        rule = rule.model_copy(update={"source": Path(rule.source or "").name})
    else:
        counts = count_codes(corpus, rule.counted_on)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        codes = [code for code, count in ranked if count >= rule.min_count]
        codes = codes[: rule.k] if rule.kind == "top_k" else codes
    if not codes:
        raise IcdtuneError(
            f'label space "{name}" is empty: no code of {corpus.path} fits its rule. '
            f"Lower min_count or count on other splits"
        )
    return LabelSpace(name=name, rule=rule, empty_notes=empty_notes, codes=codes)


def save_labels(corpus: Corpus, space: LabelSpace, overwrite: bool = False) -> Path:
    """Write labels/NAME.json into the corpus."""
    check_name(space.name, "label space")
    if space.name == "full" and space.rule.kind != "full":
        raise IcdtuneError('label space "full" is every code counted. Give this one another --name')
    path = corpus.path / "labels" / f"{space.name}.json"
    if path.exists() and not overwrite and read_json(path) != space.model_dump():
        raise IcdtuneError(f"{path} holds another label space. Choose another name or --overwrite")
    write_json(path, space.model_dump())
    return path


def load_labels(corpus: Corpus, name: str) -> LabelSpace:
    """A label space of the corpus; "full" (counted on train) needs no file."""
    check_name(name, "label space")
    path = corpus.path / "labels" / f"{name}.json"
    if not path.exists():
        if name == "full":
            return choose_labels(corpus, "full", LabelRule(kind="full"))
        raise IcdtuneError(
            f"{path} does not exist. Make it with: icdtune labels {corpus.path} --help"
        )
    return read_labels(path, corpus.info.code_systems)


def read_labels(path: Path, code_systems: dict[str, str]) -> LabelSpace:
    """Read a label space file; IcdtuneError names file and row."""
    try:
        space = LabelSpace.model_validate(read_json(path))
    except ValidationError as error:
        raise IcdtuneError(f"{path}: {first_problem(error)}. See docs/corpus.md") from None
    if len(space.index) != len(space.codes):
        raise IcdtuneError(f'{path}: field "codes": a code stands twice. Remove one')
    for row, code in enumerate(space.codes):
        if not is_canonical(code, code_systems):
            raise malformed(f"{path} row {row}", code, code_systems)
    return space


def _read_codes(path: Path, corpus: Corpus) -> list[str]:
    lines = read_text(path).splitlines()
    codes: dict[str, None] = {}
    for row, line in enumerate(lines, 1):
        if line.strip():
            code = canonical_code(line, corpus.info.code_systems)
            if code is None:
                raise malformed(f"{path} line {row}", line.strip(), corpus.info.code_systems)
            codes[code] = None
    return list(codes)
