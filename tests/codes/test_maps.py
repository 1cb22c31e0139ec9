import pytest

from icdtune.codes.maps import map_code
from icdtune.codes.systems import SYSTEMS
from icdtune.codes.tables import load_table
from icdtune.errors import IcdtuneError


def test_diabetes_maps_to_its_icd10_code():
    (mapping,) = map_code("250.00", "icd9cm")
    assert mapping.target == "E11.9"
    assert mapping.approximate
    assert mapping.scenario == 0


def test_a_code_with_scenarios_gives_every_choice_of_each():
    """754.35 (hip dislocated and subluxated) is two codes in ICD-10-CM, in one of two ways."""
    found = {(m.scenario, m.choice): m.target for m in map_code("754.35", "icd9cm")}
    assert found == {(1, 1): "Q65.01", (1, 2): "Q65.32", (2, 1): "Q65.02", (2, 2): "Q65.31"}


def test_maps_go_both_ways():
    assert [m.target for m in map_code("E11.9", "icd10cm")] == ["250.00"]


@pytest.mark.parametrize(
    ("source", "target", "codes"),
    [
        ("icd9cm", "icd10cm", ["401.9", "E800.1", "V10.11", "428.0"]),
        ("icd10cm", "icd9cm", ["I10", "I50.21", "S52.501A"]),
    ],
)
def test_targets_are_canonical_codes_of_the_other_system(source, target, codes):
    for code in codes:
        targets = [m.target for m in map_code(code, source)]
        assert targets
        assert [SYSTEMS[target].canonical(t) for t in targets] == targets
        assert all(t in load_table(target) for t in targets)


def test_a_code_without_a_map_has_no_targets():
    assert map_code("999.99", "icd9cm") == ()
    assert map_code("250", "icd9cm") == ()


def test_a_system_without_a_map_is_refused_by_name():
    with pytest.raises(IcdtuneError, match="no map from ICD-10-PCS"):
        map_code("0BJ08ZZ", "icd10pcs")
    with pytest.raises(IcdtuneError, match='"icd11"'):
        map_code("1A00", "icd11")
