"""MDACE's spans join a MIMIC-III corpus; those of an addendum move with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mimic_files import EXPECTED3, three

from icdtune.data.mdace import prepare
from icdtune.data.schema import Corpus
from icdtune.errors import IcdtuneError

TEXT = EXPECTED3["101"][1]


def span(begin: int, end: int, code: str) -> dict[str, Any]:
    system = {"code_system": "ICD-9-CM", "description": "", "type": "Human"}
    return {"begin": begin, "end": end, "code": code, **system}


def chart(folder: Path, *notes: tuple[int, list[dict[str, Any]]]) -> Path:
    (folder / "ICD-9").mkdir(parents=True, exist_ok=True)
    listed = [
        {
            "note_id": key,
            "category": "Discharge summary",
            "description": "Report",
            "annotations": spans,
        }
        for key, spans in notes
    ]
    content = {"hadm_id": 101, "comment": "", "notes": listed}
    (folder / "ICD-9" / "101-ICD-9.json").write_text(json.dumps(content))
    return folder


def test_spans_of_the_addendum_move_and_others_are_counted(
    tmp_path: Path,
    raw3: Path,
) -> None:
    corpus = three(tmp_path, raw3)
    folder = chart(
        tmp_path / "mdace",
        (1, [span(0, 5, "401.9"), span(6, 10, "250.00")]),
        (4, [span(4, 12, "V30.01")]),
        (2, [span(0, 3, "401.9")]),
    )
    counts = prepare(corpus.path, folder)
    assert counts == {
        "mdace_spans": 4,
        "mdace_spans_in_other_documents": 1,
        "mdace_spans_of_codes_the_note_lacks": 1,
        "mdace_spans_written": 2,
    }
    opened = Corpus(corpus.path)
    opened.check_evidence()
    found = [(s.note_id, s.code, TEXT[s.start : s.end]) for s in opened.evidence()]
    assert found == [("101", "401.9", "First"), ("101", "V30.01", "addendum")]
    assert opened.info.filters["mdace_spans_written"] == 2
    with pytest.raises(IcdtuneError, match="already exists"):
        prepare(corpus.path, folder)
    assert prepare(corpus.path, folder, overwrite=True) == counts


def test_what_does_not_fit_is_refused(tmp_path: Path, raw3: Path) -> None:
    corpus = three(tmp_path, raw3).path
    cases = {
        "none of 1 spans": chart(tmp_path / "a", (1, [span(0, 5, "250.00")])),
        "note 1 has 33 characters, a span is at 0-99": chart(
            tmp_path / "b", (1, [span(0, 99, "486")])
        ),
        "holds no .json files": tmp_path / "m3",
    }
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1" / "x.json").write_text('{"notes": []}')
    (tmp_path / "c2").mkdir()
    (tmp_path / "c2" / "x.json").write_text("{")
    cases |= {'field "hadm_id": is missing': tmp_path / "c1", "is not JSON": tmp_path / "c2"}
    for problem, folder in cases.items():
        with pytest.raises(IcdtuneError) as caught:
            prepare(corpus, folder)
        assert problem in str(caught.value)
    assert not (corpus / "evidence.parquet").exists()


def test_a_normalised_corpus_has_no_places_for_offsets(tmp_path: Path, raw3: Path) -> None:
    corpus = three(tmp_path, raw3, normalise=True)
    with pytest.raises(IcdtuneError, match="without --normalise"):
        prepare(corpus.path, chart(tmp_path / "mdace", (1, [span(0, 5, "401.9")])))
