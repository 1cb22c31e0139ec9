"""Coders: anything that reads notes and answers with code sets."""

CODERS: dict[str, str] = {
    "dictionary": "icdtune.coders.classifiers.dictionary:Dictionary",
    "bow": "icdtune.coders.classifiers.bow:BagOfWords",
    "prompted": "icdtune.coders.prompted.prompted:Prompted",
}
"""Coder name -> "module:class" (imported when asked for); `icdtune.posttrain` adds its stages."""
