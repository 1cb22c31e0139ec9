"""Coders: anything that reads notes and answers with code sets."""

CODERS: dict[str, str] = {
    "dictionary": "icdtune.coders.classifiers.dictionary:Dictionary",
    "bow": "icdtune.coders.classifiers.bow:BagOfWords",
    "cnn": "icdtune.coders.classifiers.neural:CNN",
    "bigru": "icdtune.coders.classifiers.neural:BiGRU",
    "caml": "icdtune.coders.classifiers.neural:CAML",
    "multirescnn": "icdtune.coders.classifiers.neural:MultiResCNN",
    "laat": "icdtune.coders.classifiers.neural:LAAT",
    "plm-icd": "icdtune.coders.classifiers.neural:PLMICD",
    "plm-ca": "icdtune.coders.classifiers.neural:PLMCA",
    "prompted": "icdtune.coders.prompted.prompted:Prompted",
}
"""Coder name -> "module:class" (imported when asked for); `icdtune.posttrain` adds its stages."""
