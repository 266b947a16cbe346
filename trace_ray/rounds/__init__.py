"""Rounds after a run, on the answers of the model that it made."""
