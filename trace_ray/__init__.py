"""trace-ray: realign a language model to a new policy from the preference pairs it was aligned on."""

__version__ = "0.1.0"
