"""Coders: anything that reads notes and answers with code sets."""

CODERS: dict[str, str] = {
    "dictionary": "icdtune.coders.classifiers.dictionary:Dictionary",
    "bow": "icdtune.coders.classifiers.bow:BagOfWords",
}
"""Coder name -> "module:class" (imported when asked for)."""
