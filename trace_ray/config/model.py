"""Settings of the model that is realigned and of its adapter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from trace_ray.config.fields import choice, later, resource_choice


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model to realign: a hub id or a folder in Hugging Face format, safetensors only.

    Args:
        trust_remote_code: ``path`` once more = run the Python code that this model brings; ``""`` = refuse such models.
        tf32: float32 matrix products on a GPU's tensor cores, with 10 bits of each factor's mantissa; false = with all 23,
            whatever the environment asks of torch. Of stages 2 and 3 and of drift, not of vLLM; a CPU has none.
        packing: how sequences are run together: ``rows`` padded to like lengths, ``flat`` = one after the other without
            padding, ``auto`` = flat on a GPU in bfloat16 where the family allows it.
        kernels: ``fused`` norms, activations and adapters, ``torch`` = none, ``auto`` = fused on a GPU.
        max_length: tokens of prompt and response together; beyond them a response loses its end, then the prompt its
            oldest text.
        chat_template: instead of the tokenizer's own: jinja text, a file of it, or the name of one of several that the
            tokenizer has. Base models have none. It goes into the exported model.
        chat_template_kwargs: variables that the template reads, such as {enable_thinking: true}; thinking is off
            unless it is asked for.
        chat_template_date: the day, YYYY-MM-DD, for a template that writes it; empty = the day the run was begun.
    """

    path: str = ""
    revision: str = "main"
    trust_remote_code: str = ""
    dtype: str = choice("float32", "bfloat16")
    attention: str = choice("sdpa", "eager", "flash_attention_2")
    tf32: bool = later(False)
    packing: str = resource_choice("auto", "rows", "flat")
    kernels: str = resource_choice("auto", "torch", "fused")
    max_length: int = 256
    chat_template: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    chat_template_date: str = ""

    @property
    def trusted(self) -> bool:
        """Whether code that the model brings may run: asked for by this model's name."""
        return bool(self.path) and self.trust_remote_code == self.path

    def exported_to(self, folder: str) -> ModelConfig:
        """Returns the same settings for the realigned model in ``folder``, which brings what its base brings."""
        return replace(self, path=folder, revision="main", trust_remote_code=folder if self.trusted else "")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter that is trained. Paper: r 32, alpha 16, dropout 0.1 on q_proj and v_proj.

    Args:
        target_modules: names of linears of the model's decoder; ``all-linear`` = all of them, the output head left out.
    """

    r: int = 32
    alpha: int = 16
    dropout: float = 0.1
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
