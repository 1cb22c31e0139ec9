"""Decoding: from prompts to answers, with the probability of every token."""
