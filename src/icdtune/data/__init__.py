"""Corpora: the directory format, label spaces, predictions, and one file per source."""

SOURCES: dict[str, str] = {
    "synthetic": "icdtune.data.synthetic:prepare",
    "codiesp": "icdtune.data.codiesp:prepare",
    "mimic3": "icdtune.data.mimic3:prepare",
    "mimic4": "icdtune.data.mimic4:prepare",
    "table": "icdtune.data.table:prepare",
    "hub": "icdtune.data.hub:prepare",
}
"""Source name -> "module:function" that prepares a corpus of it (imported when asked for).

The module's VERSION is raised when the same options give other rows: studies then prepare anew.
"""
