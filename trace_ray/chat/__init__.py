"""Dialogues as a model reads them: its chat template, its special tokens, and what is left out of a long prompt."""
