import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icdtune.data.predictions import (
    SCHEMA,
    Prediction,
    PredictionInfo,
    Predictions,
    read_predictions,
)
from icdtune.errors import IcdtuneError

ROWS = [
    Prediction("a", ("E11.9", "I10"), (0.75, 0.5), ("E11.9", "I10", "A00.1"), (0.75, 0.5, 0.25)),
    Prediction("b", (), (), (), ()),
    Prediction("c", ("I10",), answer="I10: hypertension ñ\nthat is all"),
    Prediction("d", ("I10",), None, ("I10", "E11.9"), None),
]


def info(**changes):
    return PredictionInfo(
        coder="test",
        corpus="small",
        corpus_hash="0" * 64,
        split="val",
        label_space="full",
        seed=1,
        versions={"icdtune": "0"},
        **({"seconds": 1.5} | changes),
    )


def write_table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def refusal(path):
    with pytest.raises(IcdtuneError) as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Round trip


def test_predictions_come_back_as_they_were_written(tmp_path):
    path = Predictions(ROWS).write(tmp_path / "run", info(tokens=7, details={"k": [1]}))
    assert path == tmp_path / "run" / "predictions.parquet"
    for where in (path, tmp_path / "run"):
        found, about = read_predictions(where)
        assert list(found) == ROWS
        assert len(found) == 4
        assert found.table.schema == SCHEMA
        assert about == info(tokens=7, details={"k": [1]})


scores = st.floats(0, 1, width=32)


@st.composite
def predictions(draw):
    code = st.sampled_from(["E11.9", "I10", "0BJ08ZZ"])
    codes = draw(st.lists(code, max_size=3).map(tuple))
    ranked = draw(st.none() | st.lists(code, max_size=4).map(tuple))

    def scored(of):
        return st.none() | st.tuples(*(scores for _ in of or ()))

    return Prediction(
        draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)),
        codes,
        draw(scored(codes)),
        ranked,
        None if ranked is None else draw(scored(ranked)),
        draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=9)),
    )


@settings(deadline=None)
@given(rows=st.lists(predictions(), max_size=6))
def test_any_predictions_come_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("run")
    Predictions(rows).write(folder, info())
    assert list(read_predictions(folder)[0]) == rows


def test_the_same_predictions_are_the_same_bytes_whatever_the_json_says(tmp_path):
    one = Predictions(ROWS, tokens=1).write(tmp_path / "one", info(seconds=1.0))
    two = Predictions(ROWS, details={"x": 2}).write(tmp_path / "two", info(seconds=9.0, tokens=3))
    assert one.read_bytes() == two.read_bytes()
    found, about = read_predictions(tmp_path / "one")
    again, other = read_predictions(tmp_path / "two")
    assert found.table.equals(again.table)
    assert about != other


def test_predictions_can_be_written_again_in_the_same_place(tmp_path):
    Predictions(ROWS).write(tmp_path, info())
    Predictions(ROWS[:1]).write(tmp_path, info(seconds=2.0))
    found, about = read_predictions(tmp_path)
    assert list(found) == ROWS[:1]
    assert about == info(seconds=2.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.json", "predictions.parquet"]


# Files of other tools


def test_only_note_ids_and_codes_are_needed(tmp_path):
    path = write_table(tmp_path / "mine.parquet", note_id=["a", "b"], codes=[["I10"], []])
    found, about = read_predictions(path)
    assert list(found) == [Prediction("a", ("I10",)), Prediction("b", ())]
    assert about is None


def test_large_strings_and_doubles_are_taken(tmp_path):
    strings = pa.large_list(pa.large_string())
    path = write_table(
        tmp_path / "mine.parquet",
        note_id=pa.array(["a", "b"], pa.large_string()),
        codes=pa.array([["I10"], []], strings),
        scores=pa.array([[0.1], []], pa.list_(pa.float64())),
        ranked_codes=pa.array([["I10", "E11.9"], None], strings),
        ranked_scores=pa.array([[0.5, 0.25], None], pa.large_list(pa.float64())),
        answer=pa.array(["ñ", None], pa.large_string()),
    )
    found, _ = read_predictions(path)
    assert found.table.schema == SCHEMA
    first, second = found
    assert first == Prediction(
        "a", ("I10",), (float(np.float32(0.1)),), ("I10", "E11.9"), (0.5, 0.25), "ñ"
    )
    assert second == Prediction("b", (), ())


def test_a_file_of_pandas_is_taken(tmp_path):
    frame = pd.DataFrame(
        {
            "note_id": pd.Categorical(["a", "b"]),
            "codes": [["I10", "E11.9"], ["I10"]],
            "scores": [np.array([0.5, 0.25]), np.array([1.0])],
            "extra": [1, 2],
        }
    )
    frame.to_parquet(tmp_path / "mine.parquet")
    found, _ = read_predictions(tmp_path / "mine.parquet")
    assert list(found) == [
        Prediction("a", ("I10", "E11.9"), (0.5, 0.25)),
        Prediction("b", ("I10",), (1.0,)),
    ]


def test_columns_may_stand_in_any_order(tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(Predictions(ROWS).table.select(SCHEMA.names[::-1]), path)
    assert list(read_predictions(path)[0]) == ROWS


# Bad files: each is refused by file, row and field


@pytest.mark.parametrize("column", ["note_id", "codes"])
def test_a_missing_column_is_named(tmp_path, column):
    columns = {"note_id": ["a"], "codes": [["I10"]]}
    del columns[column]
    message = refusal(write_table(tmp_path / "mine.parquet", **columns))
    assert "mine.parquet" in message
    assert f'"{column}"' in message


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"note_id": ["a", None], "codes": [["I10"], []]}, "note_id"),
        ({"note_id": ["a", "b"], "codes": [["I10"], None]}, "codes"),
        ({"note_id": ["a", "b"], "codes": [["I10"], ["I10", None]]}, "codes"),
        ({"note_id": ["a", "b"], "codes": [[], ["I10"]], "scores": [[], [None]]}, "scores"),
    ],
)
def test_a_null_is_named_with_its_row(tmp_path, columns, field):
    message = refusal(write_table(tmp_path / "mine.parquet", **columns))
    assert "mine.parquet row 1" in message
    assert f'"{field}"' in message


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        ({"scores": [[0.5], [0.5]]}, ("codes", "scores")),
        ({"scores": [[0.5], []]}, ("codes", "scores")),
        (
            {"ranked_codes": [["I10"], ["I10"]], "ranked_scores": [[0.5], [0.5, 0.25]]},
            ("ranked_codes", "ranked_scores"),
        ),
        ({"ranked_scores": [[], [0.5]]}, ("ranked_codes", "ranked_scores")),
    ],
)
def test_lists_that_differ_in_length_are_named_with_their_row(tmp_path, columns, fields):
    columns = {"note_id": ["a", "b"], "codes": [["I10"], ["I10", "E11.9"]]} | columns
    message = refusal(write_table(tmp_path / "mine.parquet", **columns))
    assert "mine.parquet row 1" in message
    assert all(f'"{field}"' in message for field in fields)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("codes", ["I10, E11.9"]),
        ("codes", [{"I10": 1}]),
        ("scores", [["high"]]),
        ("scores", [0.5]),
        ("ranked_codes", ["I10"]),
        ("answer", [["I10"]]),
    ],
)
def test_a_column_of_the_wrong_type_is_named(tmp_path, column, values):
    columns = {"note_id": ["a"], "codes": [["I10"]]} | {column: values}
    message = refusal(write_table(tmp_path / "mine.parquet", **columns))
    assert "mine.parquet" in message
    assert f'"{column}"' in message


def test_an_absent_or_damaged_file_is_named(tmp_path):
    assert "predictions.parquet does not exist" in refusal(tmp_path)
    assert "no.parquet does not exist" in refusal(tmp_path / "no.parquet")
    path = Predictions(ROWS).write(tmp_path, info())
    path.write_bytes(path.read_bytes()[:-9])
    assert "predictions.parquet is damaged" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"), [({"surprise": 1}, "surprise"), ({"seed": "one"}, "seed")]
)
def test_a_wrong_field_of_the_json_is_named(tmp_path, changes, field):
    Predictions(ROWS).write(tmp_path, info())
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    message = refusal(tmp_path)
    assert "predictions.json" in message
    assert f'"{field}"' in message
