"""General equivalence maps (GEM) between ICD-9-CM and ICD-10-CM diagnoses."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather

from icdtune.codes.systems import ICD9CM, ICD10CM, get_system
from icdtune.codes.tables import ensure_tables
from icdtune.errors import IcdtuneError


@dataclass(frozen=True)
class Mapping:
    """One target of a map. Targets of one `scenario` (0: none) are used together, one a `choice`."""

    target: str
    approximate: bool
    scenario: int
    choice: int


@functools.cache
def _map(name: str) -> pa.Table:
    return pyarrow.feather.read_table(ensure_tables() / f"{name}.arrow", memory_map=True)


def map_code(code: str, source: str) -> tuple[Mapping, ...]:
    """ICD-10-CM targets of an ICD-9-CM diagnosis, or the other way round; empty where none is.

    Args:
        code: canonical code of the system `source`.
        source: "icd9cm" or "icd10cm".
    """
    names = {ICD9CM.name: "icd9_to_icd10", ICD10CM.name: "icd10_to_icd9"}
    if source not in names:
        raise IcdtuneError(
            f"no map from {get_system(source).title}: the maps at hand join "
            f"{ICD9CM.title} and {ICD10CM.title}. Give a diagnosis code"
        )
    table = _map(names[source])
    rows = table.filter(pc.equal(table["source"], code)).drop_columns("source").to_pylist()
    return tuple(Mapping(**row) for row in rows)
