"""The default world: a small templated realignment task, its exact oracle and its two tiny models."""
