"""Models are directories that transformers opens alone, made from a seed and named by a hash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thirdshift.apps.training.models.model import (
    NotAModel,
    context_of,
    create_tiny_model,
    load_model,
    model_hash,
    tokenizer_files,
    tokenizer_hash,
)


def test_transformers_alone_opens_a_tiny_model(nano_model: Path) -> None:
    """A fresh process without Thirdshift loads it, renders a chat and generates."""
    script = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "naïve ☕?"}]
asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
said = model.generate(**asked, max_new_tokens=4, do_sample=False)
assert said.shape[1] > asked["input_ids"].shape[1]
print(tokenizer.decode(asked["input_ids"][0]))
assert not any(name.startswith("thirdshift") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(nano_model)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "<|user|>naïve ☕?<|end|><|assistant|>\n"


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, nano_model: Path) -> None:
    """Weights follow from the seed and nothing else; the caller's random state is left alone."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    create_tiny_model(tmp_path / "again", seed=7, size="nano")
    create_tiny_model(tmp_path / "other", seed=8, size="nano")
    assert torch.equal(torch.get_rng_state(), before)
    assert model_hash(tmp_path / "again") == model_hash(nano_model)
    assert model_hash(tmp_path / "other") != model_hash(nano_model)
    assert tokenizer_hash(tmp_path / "other") == tokenizer_hash(nano_model)


def test_the_sizes_are_what_they_say(tmp_path: Path) -> None:
    """Tiny has 0.36 million parameters, small 0.8 million; the embedding is tied to the head."""
    for size, parameters in (("tiny", 357_504), ("small", 837_376)):
        create_tiny_model(tmp_path / size, size=size)
        model, tokenizer = load_model(tmp_path / size)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert (len(tokenizer), context_of(tmp_path / size)) == (261, 512)


def test_any_text_survives_the_tokenizer(nano_model: Path) -> None:
    """Every byte has its token, so every string comes back; each special token is one id."""
    _, tokenizer = load_model(nano_model)
    text = "Ünïcödé 日本 🦊\n\ttabs  and  spaces\x00"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode("<|user|><|assistant|><|system|><|end|><|pad|>", add_special_tokens=False)) == 5


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path, nano_model: Path) -> None:
    """The error names the directory and what is missing or broken."""
    with pytest.raises(NotAModel, match=r"there is no config\.json"):
        load_model(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(nano_model, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(NotAModel, match=r"broken holds no model that can be loaded"):
        load_model(broken)


def test_weights_have_memory_of_their_own(tmp_path: Path, nano_model: Path) -> None:
    """Overwriting the file under a loaded model does not change the model."""
    copy = tmp_path / "copy"
    shutil.copytree(nano_model, copy)
    model, _ = load_model(copy)
    before = model.get_input_embeddings().weight.clone()
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff" * 4000)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_model_never_replaces_another(tmp_path: Path, nano_model: Path) -> None:
    """Creating a model where one lies is an error and leaves it as it was."""
    before = model_hash(nano_model)
    with pytest.raises(OSError, match="not empty"):
        create_tiny_model(nano_model, size="nano")
    assert model_hash(nano_model) == before
    assert set(tokenizer_files(nano_model)) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
