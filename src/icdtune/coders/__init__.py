"""Coders: anything that reads notes and answers with code sets."""

CODERS: dict[str, str] = {
    "dictionary": "icdtune.coders.classifiers.dictionary:Dictionary",
    "bow": "icdtune.coders.classifiers.bow:BagOfWords",
    "cnn": "icdtune.coders.classifiers.word_level:CNN",
    "bigru": "icdtune.coders.classifiers.word_level:BiGRU",
    "caml": "icdtune.coders.classifiers.word_level:CAML",
    "multirescnn": "icdtune.coders.classifiers.word_level:MultiResCNN",
    "laat": "icdtune.coders.classifiers.word_level:LAAT",
    "plm-icd": "icdtune.coders.classifiers.encoder_level:PLMICD",
    "plm-ca": "icdtune.coders.classifiers.encoder_level:PLMCA",
    "prompted": "icdtune.coders.prompted.prompted:Prompted",
}
"""Coder name -> "module:class" (imported when asked for); `icdtune.posttrain` adds its stages."""
