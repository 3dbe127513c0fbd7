"""The tiny models are worth testing with: their answers depend on the text."""

import pytest
import torch

from amalgam_edge.models.teacher import load_teacher
from tests.support import tiny


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_tiny_models_answer_differently_to_different_texts(architecture, tmp_path, make_classifier, tokenizer):
    make_classifier(tmp_path, ["a", "b", "c"], architecture=architecture)
    teacher = load_teacher("t", str(tmp_path))
    with torch.inference_mode():
        logits = teacher.model(**tiny.padded(tokenizer, tiny.TEXTS)).logits
    assert logits.std(dim=0).min() > 0.5
    assert logits.argmax(dim=1).unique().numel() > 1
    assert teacher.tokenizer("chess 📬")["input_ids"] == tokenizer("chess 📬")["input_ids"]
    assert teacher.tokenizer.pad_token_id == teacher.model.config.pad_token_id == 1
