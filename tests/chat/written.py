"""Chat templates of the kinds that models come with, and a tokenizer that has one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import trl

import trace_ray.synth

POLICY = str(Path(trace_ray.synth.__file__).with_name("models") / "policy")
TRL = Path(trl.__file__).parent / "chat_templates"
_MARKS = re.compile("<[|]?[^|<>\\s]+[|]?>|\\[/?[A-Z_]+\\]")

ALTERNATING = (
    "{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate') }}{%- endif -%}"
)
TEMPLATES = {
    "instruct v1": "{{ bos_token }}"
    + ALTERNATING
    + "{%- if m.role == 'user' -%}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + m.content + eos_token }}{%- endif -%}{%- endfor -%}",
    "instruct, trimmed": ALTERNATING
    + "{%- if m.role == 'user' -%}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + m.content | trim + ' ' + eos_token }}{%- endif -%}{%- endfor -%}",
    "names and colons": "{%- for m in messages -%}{{ m.role.upper() + ': ' + m.content.strip() }}"
    "{{ eos_token if m.role == 'assistant' else ' ' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}",
    "a blank too many": "{%- for m in messages -%}{{ '<|im_start|>' + m.role + ':' + m.content + eos_token }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant: ' }}{%- endif -%}",
    "no end": "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}",
    "first lines trimmed": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.lstrip('\n') + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "quoted": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('\"', '”') + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "dated": "{{ '<|im_start|>Today is ' + strftime_now('%d %b %Y') + '\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}


def tokenizer(template: Any = None) -> Any:
    """Returns the shipped policy's tokenizer with a template whose marks are special tokens of it."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(POLICY)
    if template is not None:
        found.chat_template = template
        marks = {mark for mark in _MARKS.findall(str(template)) if "think" not in mark}
        found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *sorted(marks)]})
    return found
