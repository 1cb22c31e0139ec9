"""Prompted coders: a language model as it comes, asked with or without worked examples."""
