"""Evaluation: counts, metrics, intervals, slices and paired tests under one protocol."""
