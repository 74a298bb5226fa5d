"""The tokenizer: text to ids and back, and errors that say what to do."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import pickle

import numpy as np
import pytest
import sentencepiece

from experiments.data import corpus, vocabulary
from experiments.data.tokenizer import load_tokenizer

VOCAB_SIZE = 512


def test_documents_are_bos_text_eos(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer.model"
    vocabulary.train_tokenizer((address.text for address in corpus.addresses()[:12]), VOCAB_SIZE, path)
    tokenizer = load_tokenizer(path)
    tokens = tokenizer.encode("Fellow-Citizens of the Senate\n\nand 12 others")
    assert tokens.dtype == np.int32 and tokens[0] == 1 and tokens[-1] == 2
    assert np.array_equal(tokens, tokenizer.encode(b"Fellow-Citizens of the Senate\n\nand 12 others"))
    assert tokenizer.decode(tokens) == "Fellow-Citizens of the Senate\n\nand 12 others"
    assert pickle.loads(pickle.dumps(tokenizer)).vocab_size == tokenizer.vocab_size == VOCAB_SIZE


def test_vocabulary_without_bos(tmp_path: pathlib.Path) -> None:
    prefix = str(tmp_path / "like_t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["no beginning is marked here"] * 9),
        model_prefix=prefix,
        vocab_size=99,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    tokens = load_tokenizer(pathlib.Path(f"{prefix}.model")).encode("no beginning")
    assert tokens[-1] == 1 and tokens.min() >= 0 and (tokens == 1).sum() == 1


def test_missing_or_foreign_tokenizer(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/no.model.*experiments.corpus.*--data.tokenizer"):
        load_tokenizer(tmp_path / "no.model")
    for content in (b"", b"not a model"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.model is not a sentencepiece model.*experiments\.corpus"):
            load_tokenizer(tmp_path / "bad.model")
