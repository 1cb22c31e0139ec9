"""Prompts: built from parts, shortened in the note only, and answers read back without failing."""
