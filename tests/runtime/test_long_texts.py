"""Long texts: only their beginning is read, and their tokens are those of the whole text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from amalgam_edge.runtime import text_prefixes
from tests.support import tiny
from tests.support.token_ids import library_tokens, open_batch_tokenizer, our_tokens

MAX_LENGTH = 6  # so that 96 characters are a long text
PIECES = [
    "a", "the", "tool", "maps", "of", "x-y", "well-known-", "it's", "12", "3", " ", "  ", "   ", "\t", "\n", "\xa0",
    "\u3000", "\u200b", "\0", "-", "...", "'", "[", "]", "é", "E\u0301", "\u0301", "İ", "ß", "ﬁ", "中文", "猫", "가나",
    "📬", "👩\u200d🚀", "[SEP]", "[sep]", "[MASK]", "<new>", "<NEW>", "new york", "a" * 30, "-" * 25,
    "maps of the " * 4, "中" * 40, "\ud800",
]  # fmt: skip
LONG_TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), min_size=1, max_size=3)
ANY_TEXTS = st.lists(st.text(min_size=0, max_size=400), min_size=1, max_size=3)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def trained(model, trainer, normalizer, pre_tokenizer, *, dropped=()):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator([*tiny.TEXTS, "中文猫가나", *PIECES[:8]], trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    tokenizer.add_tokens([AddedToken("<new>", normalized=True), "new york"][: 1 if dropped else 2])
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return tokenizer


def word_piece(normalizer=None, **options):
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    model = models.WordPiece(unk_token="[UNK]")
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(model, trainer, normalizer or normalizers.BertNormalizer(), pre_tokenizer, **options)


def byte_level_bpe(normalizer=None):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return trained(models.BPE(), trainer, normalizer or normalizers.NFC(), pre_tokenizers.ByteLevel())


def unigram(pre_tokenizer=None):
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False, right=True)])
    return trained(models.Unigram(), trainer, normalizer, pre_tokenizer or pre_tokenizers.Metaspace())


KINDS = {
    "WordPiece by words": lambda: word_piece(dropped=["new york"]),
    "WordPiece cased": lambda: word_piece(normalizers.BertNormalizer(lowercase=False), dropped=["new york"]),
    "WordPiece by texts": word_piece,
    "byte-level BPE": byte_level_bpe,
    "Unigram": unigram,
    "Unigram of words": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
}


@pytest.mark.parametrize("texts", [LONG_TEXTS, ANY_TEXTS], ids=["pieces", "any"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_long_texts_are_those_of_the_library(kind, texts):
    tokenizer = KINDS[kind]()
    opened = open_batch_tokenizer(tokenizer, MAX_LENGTH)

    @settings(max_examples=120, deadline=None)
    @given(texts)
    def check(texts):
        assert our_tokens(opened, texts) == library_tokens(tokenizer, texts, MAX_LENGTH)

    check()


def hyphenated(n_characters):
    return "-".join(f"{number:x}q" for number in range(n_characters // 6))


HUGE = {
    "hyphenated words": hyphenated(99_000),
    "hyphenated words and spaces": hyphenated(99_000).replace("q-7", "q -7"),
    "ideographs": "".join(chr(0x4E00 + k * 7 % 20_000) for k in range(60_000)),
    "syllables": "".join(chr(0xAC00 + k * 7 % 11_000) for k in range(60_000)),
    "one letter": "a" * 99_000,
    "spaces, then a word": " " * 60_000 + "maps of the night",
    "newlines": "\n" * 60_000,
    "dashes": "-" * 60_000,
    "control characters, then words": "\0" * 60_000 + "maps of the night sky",
    "a word too long, then words": "a" * 60_000 + " maps of the night sky and more" * 40,
    "marks": "a" + "\u0301" * 60_000,
    "words": "maps of the night sky " * 4000,
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("Unigram")])
def test_tokens_of_huge_texts_are_those_of_the_library(kind, name):
    tokenizer = KINDS[kind]()
    opened = open_batch_tokenizer(tokenizer, 64)
    texts = [HUGE[name], "maps", HUGE[name][1:]]
    assert our_tokens(opened, texts) == library_tokens(tokenizer, texts, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_of_a_text_is_read_than_its_first_tokens_take(kind, monkeypatch):
    read = []
    encode = text_prefixes.without_lone_surrogates
    for module in ("text_prefixes", "word_cache", "tokens"):
        monkeypatch.setattr(
            f"amalgam_edge.runtime.{module}.without_lone_surrogates",
            lambda texts: read.append(sum(map(len, texts))) or encode(texts),
        )
    opened = open_batch_tokenizer(KINDS[kind](), 64)
    for name in ("hyphenated words", "hyphenated words and spaces", "dashes", "words"):
        read.clear()
        assert opened.encode([HUGE[name]]).truncated.tolist() == [True]
        assert sum(read) < 50_000


ATTACK = """
import resource, sys
from pathlib import Path
from amalgam_edge.runtime.tokens import BatchTokenizer
from amalgam_edge.storage.own_files import FileContent

tokenizer = BatchTokenizer(FileContent.read(Path(sys.argv[1])), 128)
tokenizer.encode(["warm up"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for batch in range(2):
    words = (f"{number:x}q{batch}" for number in range(10**9))
    tokenizer.encode(["-".join(next(words) for _ in range(14_000)) for _ in range(10)])
    tokenizer.encode([" ".join(next(words) for _ in range(14_000)) for _ in range(10)])
    tokenizer.encode(["".join(chr(0x4E00 + (batch + k * k) % 20_000) for k in range(9000 + n)) for n in range(100)])
    tokenizer.encode([" ".join(chr(0x4E00 + n + batch) * 9 + str(k) for k in range(900)) for n in range(100)])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_take_little_memory(tmp_path, kind):
    path = tmp_path / "tokenizer.json"
    path.write_text(KINDS[kind]().to_str(), "utf-8")
    finished = subprocess.run([sys.executable, "-c", ATTACK, path], capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 120
