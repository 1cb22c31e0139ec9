"""icdtune: post-train language models into medical coders, and prove it."""

__version__ = "0.1.0"
