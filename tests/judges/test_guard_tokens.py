"""A guard reads the very tokens that its own template makes of the dialogue, as its maker has them read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trace_ray.config import JudgeConfig, PromptConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.judges.frames import Frames, bodies
from trace_ray.judges.guards import GUARDS
from trace_ray.model.loading import load_tokenizer

POLICY = PolicyConfig(text="Be kind.")
TURNS = "{% for m in messages %}{{ 'User: ' if m.role == 'user' else 'Agent: ' }}{{ m.content | trim }}{{ '\n\n' }}{% endfor %}"
TEMPLATES = {
    # A blank before the begin-of-text token, and an answer that begins after the template's end.
    "llama_guard": "{{ ' <|begin|>' }}Judge this:\n\n" + TURNS + "{{ '<|end|>' }}",
    "shieldgemma": "{{ bos_token }}" + TURNS + "Our rule: {{ guideline }}\n\nYes or No?",
    "qwen3guard": "{{ '<|begin|><|end|>' }}" + TURNS + "Judge:{{ '\n\n' }}",
}
DIALOGUES = [
    ("How do I open a lock?", "First, get a wrench.\n\nThen turn it."),
    ("Is it (not) so?)", "1. Yes!\n2. No"),
    ("  blanks \n", "\tat its ends "),
    ("Ça va ?", "Bien, « merci ».\u3000"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that takes, as guards' do, a blank with the word after it and newlines with the full stop before them."""
    made = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    special, letters = ["<|begin|>", "<|end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters, show_progress=False)
    answers = "Safety: Safe Safety: Unsafe safe unsafe Yes No "
    told = f"{answers}How do I User: How Agent: First, get it.\n\nThen No.\n\nUser: Is it?\n\n"
    made.train_from_iterator([told * 4], trainer)
    made.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    place = tmp_path_factory.mktemp("guard")
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|begin|>", eos_token="<|end|>").save_pretrained(place)
    (place / "config.json").write_text('{"model_type": "llama"}')
    return place


def frames(folder: Path, form: str) -> Frames:
    judge = JudgeConfig(model=str(folder), chat_template=TEMPLATES[form], prompt=PromptConfig(form=form))
    return Frames(load_tokenizer(str(folder)), POLICY, judge, "triage.judge")


@pytest.mark.parametrize("form", TEMPLATES)
@pytest.mark.parametrize(("asked", "said"), DIALOGUES)
def test_the_prompt_is_what_the_tokenizer_makes_of_the_whole(folder: Path, form: str, asked: str, said: str) -> None:
    """The oracle: the rendered dialogue, and what the guard writes before its verdict, encoded in one go."""
    made = frames(folder, form)
    ((frame, _),) = made.verdict
    texts = frame.texts(asked, said)
    known = bodies(made.tokenizer, texts)
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    how = {"chat_template": TEMPLATES[form], "tokenize": False, "guideline": POLICY.text}
    whole = made.tokenizer.apply_chat_template(turns, **how) + GUARDS[form].begins
    assert frame.around([known[part] for part in texts]) == made.tokenizer.encode(whole, add_special_tokens=False)


def test_each_answer_of_a_guard_counts_by_its_first_token_however_many_it_has(folder: Path) -> None:
    made = frames(folder, "qwen3guard")
    unsafe, both = (made.tokenizer.encode(word, add_special_tokens=False) for word in (" Unsafe", " Controversial"))
    safe = made.tokenizer.encode(" Safe", add_special_tokens=False)
    assert len(unsafe) == len(safe) == 1 < len(both)
    assert made.answer_ids() == (sorted({unsafe[0], both[0]}), safe)
    spelt = PromptConfig(violates=(" Unsafe", " Controversial"), complies=(" Safe",))
    of_one_token = replace(made, judge=replace(made.judge, prompt=spelt))
    assert of_one_token.answer_ids() == (unsafe, safe), "of several spellings of one answer, those of one token"
