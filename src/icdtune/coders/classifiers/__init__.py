"""Discriminative coders: one score for every code of the label space."""
