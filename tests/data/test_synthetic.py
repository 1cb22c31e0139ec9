"""The synthetic corpus: deterministic, honest about held-out forms, coded by its rules."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from icdtune.codes.matching import TermMatcher, tokens
from icdtune.codes.tables import load_table
from icdtune.data.schema import Corpus
from icdtune.data.synthetic import Generator, default_generator, prepare
from icdtune.data.synthetic.lexicon import Entry, default_directory, load_lexicon
from icdtune.data.synthetic.oracle import Oracle
from icdtune.data.synthetic.patients import Admission
from icdtune.data.synthetic.render import PROFILES
from icdtune.data.synthetic.templates import Person, Template
from icdtune.errors import IcdtuneError


@pytest.fixture(scope="module")
def generator() -> Generator:
    return default_generator()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("synthetic") / "corpus"
    prepare(path, train=2000, val=200, test=400, seed=1)
    return Corpus(path)


def named(generator: Generator, *ids: str) -> list[Entry]:
    by_id = {entry.id: entry for entry in generator.lexicon.entries}
    return [by_id[name] for name in ids]


def test_the_shipped_lexicon_has_no_ambiguous_surface_and_no_leaking_held_out_form(
    generator: Generator,
) -> None:
    assert generator.lexicon.check() == []


def test_at_least_a_fifth_of_the_surface_forms_are_held_out_and_none_is_official(
    generator: Generator,
) -> None:
    entries = generator.lexicon.entries
    held_out = {tokens(form) for entry in entries for form in entry.held_out}
    visible = {tokens(form) for entry in entries for form in entry.surfaces(held_out=False)}
    official = set()
    for entry in entries:
        table = load_table("icd10cm" if "." in entry.code or len(entry.code) == 3 else "icd10pcs")
        official |= {tokens(entry.title)}
        official |= {tokens(term) for term in table.note("inclusion_terms", entry.code)}
    assert len(held_out) / len(held_out | visible) >= 0.2
    assert not held_out & official
    assert not held_out & visible


def test_no_held_out_form_stands_in_train_or_val_and_test_has_them(
    corpus: Corpus, generator: Generator
) -> None:
    matcher = TermMatcher((f, e.id) for e in generator.lexicon.entries for f in e.held_out)
    for split in ("train", "val"):
        assert not [n.note_id for n in corpus.notes(split) if next(matcher.find(n.text), None)]
    found = sum(next(matcher.find(note.text), None) is not None for note in corpus.notes("test"))
    assert found > 0.8 * corpus.info.splits["test"].notes


def test_full_has_400_codes_and_a_third_are_rare(corpus: Corpus) -> None:
    counts = Counter(code for note in corpus.notes("train") for code in note.codes or ())
    assert len(counts) >= 400
    assert sum(count < 10 for count in counts.values()) >= len(counts) / 3
    assert sum(count >= 100 for count in counts.values()) >= 10


def test_the_same_seed_gives_the_same_rows_and_another_seed_other_patients(
    corpus: Corpus, tmp_path: Path
) -> None:
    prepare(tmp_path / "again", train=2000, val=200, test=400, seed=1)
    prepare(tmp_path / "other", train=2000, val=200, test=400, seed=2)
    for name in ("train", "val", "test", "evidence"):
        one = pq.read_table(corpus.path / f"{name}.parquet")
        assert one.equals(pq.read_table(tmp_path / "again" / f"{name}.parquet"))
        assert not one.equals(pq.read_table(tmp_path / "other" / f"{name}.parquet"))
    assert Corpus(tmp_path / "again").info.hash == corpus.info.hash


def test_a_longer_split_begins_with_the_shorter_one(generator: Generator) -> None:
    short = [note for note, _, _ in generator.notes("val", 20, "short", 3)]
    longer = [note for note, _, _ in generator.notes("val", 50, "short", 3)]
    assert longer[:20] == short


def test_every_stated_code_has_evidence_that_its_entry_wrote(generator: Generator) -> None:
    for note, spans, admission in generator.notes("test", 150, "medium", 5):
        marked = {span.code for span in spans}
        assert marked == set(admission.truth) & set(note.codes or ())
        by_code = admission.truth
        for span in spans:
            text = note.text[span.start : span.end]
            assert text.strip() == text
            causes = by_code[span.code]
            surfaces = {tokens(s) for e in causes for s in e.surfaces(held_out=True)}
            surfaces.add(tokens(generator.titles[span.code]))
            patterns = [i.template.pattern() for e in causes for i in e.implied]
            assert tokens(text) in surfaces or any(p.match(text) for p in patterns)


def test_gold_is_the_truth_with_some_codes_missing_and_some_added(generator: Generator) -> None:
    truth = missing = added = 0
    for note, _, admission in generator.notes("train", 1500, "short", 7):
        truth += len(admission.truth)
        missing += len(set(admission.truth) - set(note.codes or ()))
        added += len(set(note.codes or ()) - set(admission.truth))
    assert 0.04 <= missing / truth <= 0.06
    assert 0.012 <= added / truth <= 0.028


def test_the_principal_code_comes_first(generator: Generator) -> None:
    first = 0
    notes = list(generator.notes("train", 300, "short", 9))
    for note, _, admission in notes:
        assert note.codes
        first += note.codes[0] == next(iter(admission.truth))
    assert first > 0.9 * len(notes)


def test_at_most_half_of_the_codes_are_printed_by_title_in_the_diagnosis_list(
    generator: Generator,
) -> None:
    templates = generator.templates.mentions["diagnosis_list"][""]
    titled = 0
    for note, _, admission in generator.notes("test", 400, "short", 11):
        section = re.search(r"Discharge Diagnosis:\n(.*?)(\n\n|\Z)", note.text, re.DOTALL)
        lines = [line.removeprefix("- ") for line in section[1].splitlines()] if section else []
        printed = 0
        for code in admission.truth:
            patterns = [template.pattern(generator.titles[code]) for template in templates]
            printed += any(pattern.fullmatch(line) for pattern in patterns for line in lines)
        titled += printed
        assert printed <= len(admission.truth) / 2
    assert titled > 100


def test_distractors_are_not_coded(generator: Generator) -> None:
    oracle = Oracle(generator.lexicon, generator.templates, generator.titles)
    missed = extra = total = 0
    for note, _, admission in generator.notes("test", 300, "medium", 13):
        found = set(oracle.codes(note.text))
        total += len(admission.truth)
        missed += len(set(admission.truth) - found)
        extra += len(found - set(admission.truth))
    assert missed / total < 0.02
    assert extra / total < 0.03


@pytest.mark.parametrize(
    ("present", "expected", "dropped"),
    [
        (["essential_hypertension", "ckd_3a"], "I12.9", "I10"),
        (["essential_hypertension", "heart_failure_systolic_acute"], "I11.0", "I10"),
        (["essential_hypertension", "heart_failure_systolic_acute", "ckd_3a"], "I13.0", "I11.0"),
        (["type_2_diabetes", "ckd_3a"], "E11.22", "E11.9"),
    ],
)
def test_combination_codes_follow_the_coding_rules(
    generator: Generator, present: list[str], expected: str, dropped: str
) -> None:
    codes = generator.lexicon.code(named(generator, *present))
    assert expected in codes
    assert dropped not in codes
    assert {entry.id for entry in codes[expected]} == set(present)


def test_exclusive_entries_never_meet_and_patients_fit_their_conditions(
    generator: Generator,
) -> None:
    seen: list[Admission] = [a for _, _, a in generator.notes("train", 800, "short", 15)]
    for admission in seen:
        groups = [entry.group for entry in admission.present]
        assert len(set(groups)) == len(groups)
        for entry in admission.present:
            assert entry.age[0] <= admission.person.age <= entry.age[1]
            assert entry.sex is None or (entry.sex == "female") == admission.person.female
        assert not {e.group for e in admission.absent} & set(groups)


def test_subjects_have_one_to_three_stays_and_keep_their_chronic_conditions(
    generator: Generator,
) -> None:
    stays: dict[str, list[Admission]] = {}
    for note, _, admission in generator.notes("train", 600, "short", 17):
        stays.setdefault(note.subject_id, []).append(admission)
    sizes = Counter(len(s) for s in stays.values())
    assert set(sizes) == {1, 2, 3}
    kept = total = 0
    for several in stays.values():
        for first, second in zip(several, several[1:], strict=False):
            chronic = {e.id for e in first.present if e.kind == "chronic"}
            total += len(chronic)
            kept += len(chronic & {e.id for e in second.present})
    assert kept / total > 0.6


@pytest.mark.parametrize("profile", list(PROFILES))
def test_notes_have_their_profiles_length(generator: Generator, profile: str) -> None:
    words = [len(n.text.split()) for n, _, _ in generator.notes("val", 60, profile, 19)]
    average = sum(words) / len(words)
    assert 0.9 <= average / PROFILES[profile].words <= 1.4
    if profile == "long":
        assert average >= 1500


def test_a_template_renders_its_ranges_and_marks_its_mention() -> None:
    template = Template("{He} had {x} with Na {118..131}, K {2.5..3.1}.")
    for seed in range(50):
        rng = random.Random(seed)
        text, start, end = template.render(Person(60, True), rng, "AKI")
        match = re.fullmatch(r"She had AKI with Na (\d+), K (\d\.\d)\.", text)
        assert match
        assert 118 <= int(match[1]) <= 131
        assert 2.5 <= float(match[2]) <= 3.1
        assert text[start:end] == "AKI"
        assert template.pattern("AKI").fullmatch(text)
        assert template.in_range((match[1], match[2]))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("- {id: a, code: E11, kind: chronic, tier: 3, forms: [x1]}", "not billable"),
        ("- {id: a, code: I10, kind: lasting, tier: 3, forms: [x1]}", "kind"),
        ("- {id: a, code: I10, kind: chronic, tier: 3}", "forms"),
        ("- {id: a, code: I10, kind: chronic, tier: 3, forms: [x1], colour: red}", "colour"),
        ("- {id: a, code: I10, kind: chronic, tier: 3, forms: [x1], with: [nobody]}", "nobody"),
        ("- {id: a, code: I10, kind: chronic, tier: 3, forms: [x1", "YAML"),
    ],
)
def test_a_bad_lexicon_is_refused_with_file_and_field(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"entries:\n{line}\n", encoding="utf-8")
    with pytest.raises(IcdtuneError, match=re.escape(str(path))) as caught:
        load_lexicon(tmp_path)
    assert problem in str(caught.value)


def test_a_lexicon_of_ones_own_that_leaks_a_held_out_form_is_refused(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon"
    lexicon.mkdir()
    (lexicon / "mine.yaml").write_text(
        "entries:\n- {id: a, code: I10, kind: chronic, tier: 3, forms: [raised BP at home],"
        " held_out: [raised BP]}\n",
        encoding="utf-8",
    )
    templates = default_directory().parent / "templates.yaml"
    (tmp_path / "templates.yaml").write_bytes(templates.read_bytes())
    with pytest.raises(IcdtuneError, match='held-out "raised BP"'):
        prepare(tmp_path / "out", 5, 5, 5, lexicon=lexicon)
    assert not (tmp_path / "out").exists()
