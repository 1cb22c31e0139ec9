"""The classifiers' networks: `PreTrainedModel`s, one published architecture a file."""
