"""Synthetic discharge summaries of invented patients, with codes and character-level evidence.

Deterministic: version, seed and split decide every character. A held-out share of the surface forms
appears in `test` only. docs/synthetic.md tells what is fair about it and what is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from icdtune.codes.matching import TermMatcher
from icdtune.codes.systems import ICD10CM, ICD10PCS
from icdtune.codes.tables import load_table
from icdtune.data.evidence import Span
from icdtune.data.schema import Note
from icdtune.data.synthetic.lexicon import Lexicon, default_directory, load_lexicon
from icdtune.data.synthetic.patients import Admission, Hospital
from icdtune.data.synthetic.render import PROFILES, render
from icdtune.data.synthetic.templates import Templates, load_templates
from icdtune.data.writer import CorpusWriter
from icdtune.errors import IcdtuneError
from icdtune.progress import track

VERSION = 2
CONCEPTS = 700
HELD_OUT_SPLITS = frozenset({"test"})


@dataclass(frozen=True)
class Generator:
    """Generates notes from a lexicon and templates.

    Attributes:
        lexicon_directory: folder with lexicon files; `templates.yaml` stands beside the folder.
        concepts: how many entries, the most frequent first, are in use.
    """

    lexicon_directory: Path
    concepts: int = CONCEPTS

    @cached_property
    def templates(self) -> Templates:
        """The sentences."""
        return load_templates(self.lexicon_directory.parent / "templates.yaml")

    @cached_property
    def lexicon(self) -> Lexicon:
        """The entries and coding rules."""
        return load_lexicon(self.lexicon_directory, self.templates.ignored_terms)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Title of every code that the lexicon can give."""
        codes = {entry.code for entry in self.lexicon.entries}
        codes |= {code for rule in self.lexicon.combinations for code in rule.add}
        diagnoses, procedures = load_table(ICD10CM.name), load_table(ICD10PCS.name)
        return {c: (diagnoses if c in diagnoses else procedures).title(c) for c in sorted(codes)}

    @cached_property
    def _hospital(self) -> Hospital:
        return Hospital(self.lexicon, self.concepts)

    @cached_property
    def _held_out(self) -> TermMatcher[None]:
        forms = (form for entry in self.lexicon.entries for form in entry.held_out)
        return TermMatcher((form, None) for form in forms)

    def notes(
        self, split: str, count: int, profile: str, seed: int
    ) -> Iterator[tuple[Note, list[Span], Admission]]:
        """Generate the notes of a split, patient by patient.

        Yields:
            The note with the coder's gold, its evidence spans, and the admission behind it.
        """
        made = patient = 0
        while made < count:
            rng = random.Random(f"icdtune:{VERSION}:{seed}:{split}:{patient}")
            subject_id = f"{split}-{patient:06d}"
            for stay, admission in enumerate(self._hospital.admissions(rng), 1):
                if made == count:
                    break
                note_id = f"{subject_id}-{stay}"
                yield self._write(note_id, subject_id, admission, split, profile, rng)
                made += 1
            patient += 1

    def _write(
        self,
        note_id: str,
        subject_id: str,
        admission: Admission,
        split: str,
        profile: str,
        rng: random.Random,
    ) -> tuple[Note, list[Span], Admission]:
        allowed = split in HELD_OUT_SPLITS
        rendered = render(admission, self.templates, profile, allowed, self.titles, rng)
        while not allowed and next(self._held_out.find(rendered.text), None):
            rendered = render(admission, self.templates, profile, allowed, self.titles, rng)
        spans = [
            Span(note_id, code, start, end, group)
            for group, (code, start, end) in enumerate(rendered.evidence)
            if code in admission.gold
        ]
        return Note(note_id, subject_id, rendered.text, admission.gold), spans, admission


def default_generator(concepts: int = CONCEPTS) -> Generator:
    """The generator with the lexicon that ships with the package."""
    return Generator(default_directory(), concepts)


def prepare(
    out: Path,
    train: Annotated[int, Field(ge=0)] = 2000,
    val: Annotated[int, Field(ge=0)] = 500,
    test: Annotated[int, Field(ge=0)] = 1000,
    profile: str = "short",
    seed: int = 1,
    concepts: Annotated[int, Field(ge=1)] = CONCEPTS,
    lexicon: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a synthetic corpus.

    Args:
        out: folder of the corpus.
        train, val, test: notes a split.
        profile: "short" (about 150 words), "medium" (600) or "long" (1,600).
        seed: another seed gives other patients.
        concepts: how many lexicon entries are in use, the most frequent first.
        lexicon: folder with lexicon files of one's own; it is checked before use.
        overwrite: replace a corpus that is there.

    Raises:
        IcdtuneError: a bad option or lexicon, or `out` exists.
    """
    sizes = {"train": train, "val": val, "test": test}
    for name, size in sizes.items():
        if size < 0:
            raise IcdtuneError(f"--{name} {size}: give a number of notes, 0 or more")
    if profile not in PROFILES:
        raise IcdtuneError(f'--profile "{profile}": choose one of {", ".join(PROFILES)}')
    if lexicon is not None and not lexicon.is_dir():
        raise IcdtuneError(f"--lexicon {lexicon} is no folder. Give one with lexicon files")
    generator = Generator(lexicon or default_directory(), concepts)
    if lexicon is not None and (problems := generator.lexicon.check()):
        raise IcdtuneError(f"{lexicon}: {len(problems)} problems, first: {problems[0]}")
    options = {**sizes, "profile": profile, "seed": seed, "concepts": concepts}
    with CorpusWriter(
        out,
        name=f"synthetic-{profile}",
        code_systems={"diagnosis": ICD10CM.name, "procedure": ICD10PCS.name},
        source=f"icdtune synthetic generator, version {VERSION}",
        options={**options, "generator_version": VERSION},
        protected=False,
        license="apache-2.0",
        description="Invented patients: no line of this corpus describes a person.",
        overwrite=overwrite,
    ) as writer:
        for split, size in sizes.items():
            made = generator.notes(split, size, profile, seed)
            for note, spans, _ in track(made, f"Synthetic {split}", size):
                writer.add(split, note, evidence=spans)
