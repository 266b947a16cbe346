"""What a chat template's own source says: the variables that it reads, and the marks that it looks for in a turn's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag that transformers adds to jinja; it writes nothing."""
_SEEKING = {"split", "rsplit", "partition", "rpartition", "replace", "startswith", "endswith", "find", "index", "count"}
_SEEKING |= {"strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}


class TemplateSourceError(ValueError):
    """The text is no jinja template."""


@dataclass(frozen=True)
class TemplateSource:
    """What the source of a template tells.

    Args:
        variables: names that it reads and does not set itself: messages, bos_token, enable_thinking, ...
        marks: texts that it seeks in others, such as ``</think>``: a turn that holds one may be rewritten.
    """

    variables: frozenset[str]
    marks: frozenset[str]


@lru_cache(maxsize=64)
def template_source(text: str) -> TemplateSource:
    """Returns what a template's source tells. Raises TemplateSourceError where it is no jinja.

    >>> source = template_source("{% if '</think>' in m.content and think %}{{ m.content.split('</think>')[0] }}{% endif %}")
    >>> sorted(source.variables), sorted(source.marks)
    (['m', 'think'], ['</think>'])
    """
    from jinja2 import TemplateSyntaxError, meta, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", text))
    except TemplateSyntaxError as error:
        raise TemplateSourceError(f"line {error.lineno}: {error.message}") from None
    sought: list[nodes.Node] = []
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _SEEKING:
            sought += call.args
    for kept in tree.find_all(nodes.Filter):
        sought += kept.args if kept.name in ("replace", "trim") else []
    for test in tree.find_all(nodes.Compare):
        sought += [test.expr] if any(operator.op in ("in", "notin") for operator in test.ops) else []
    words = [node.value for node in sought if isinstance(node, nodes.Const) and isinstance(node.value, str)]
    # A bare word in a test is a key of a message; white space at a text's ends is tried out, not read here.
    marks = frozenset(word for word in words if word.strip() and not word.isidentifier())
    return TemplateSource(frozenset(meta.find_undeclared_variables(tree)), marks)
