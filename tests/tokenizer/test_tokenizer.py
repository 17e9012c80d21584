"""Text to ids and back: against published vectors and other libraries, for any Unicode, a token at a time."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace

from ossia.tokenizer.tokenizer import Tokenizer, TokenizerError
from ossia.tokenizer.tokenizer_json import Vocabulary, o200k_harmony, write_tokenizer_json
from tests.support.data_sets import shared
from tests.support.vocabularies import SPECIAL, o200k, small

PUBLISHED = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
TEXT = st.text(max_size=60) | st.text("aβ🦊日 \n\r\t0129'-<|>", max_size=60)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("o200k") / "tokenizer.json"
    write_tokenizer_json(path, o200k_harmony())
    return path


def test_the_published_file_is_written_byte_for_byte(published: Path):
    assert hashlib.sha256(published.read_bytes()).hexdigest() == PUBLISHED


def test_ranks_in_the_package_are_the_official_ones():
    file = shared("tokenizer/o200k_base.tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    assert o200k_harmony().ranks == load_tiktoken_bpe(str(file))


def check_vectors(tokenizer: Tokenizer, file: Path) -> None:
    for line in file.read_text("utf-8").splitlines():
        vector = json.loads(line)
        encode = tokenizer.encode_with_special if vector["allow_special"] else tokenizer.encode
        assert encode(vector["text"]) == vector["tokens"], vector["text"]


def test_vectors(published: Path):
    check_vectors(Tokenizer.from_file(published), Path(__file__).parents[1] / "data" / "encode_vectors.jsonl")


def test_all_vectors():
    check_vectors(o200k(), shared("tokenizer/encode_vectors.jsonl"))


def test_a_written_file_is_read_alike_by_hugging_face(tmp_path: Path):
    vocabulary = small()
    ranks = {vocabulary.token_bytes(i): i for i in range(vocabulary.size) if not vocabulary.is_special(i)}
    write_tokenizer_json(
        tmp_path / "tokenizer.json", Vocabulary(ranks, r"\p{N}| ?\p{L}+|[^\p{L}\p{N}]+", vocabulary.special)
    )
    theirs, ours = (
        HuggingFace.from_file(str(tmp_path / "tokenizer.json")),
        Tokenizer.from_file(tmp_path / "tokenizer.json"),
    )
    for text in ("the assistant to functions", "final 123 ing…", "日本語 🦊", "commentaryanalysis"):
        assert ours.encode(text) == theirs.encode(text).ids == small().encode(text)


@settings(max_examples=300, deadline=None)
@given(text=TEXT, tokenizer=st.sampled_from([o200k(), small()]))
def test_any_text_comes_back(text: str, tokenizer: Tokenizer):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not any(tokenizer.is_special(token) for token in tokens)


@settings(max_examples=200, deadline=None)
@given(text=TEXT, name=st.sampled_from(SPECIAL))
def test_no_text_becomes_a_control_token(text: str, name: str):
    tokens = o200k().encode(text + name + text)
    assert max(tokens) < 199998
    assert o200k().decode(tokens) == text + name + text
    assert o200k().encode_with_special(name) == [o200k().special[name]]


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, small().size - 1), max_size=40))
def test_a_stream_gives_the_same_text_as_all_at_once(tokens: list[int]):
    stream = small().stream()
    pieces = [stream.feed(token) for token in tokens] + [stream.flush()]
    assert "".join(pieces) == small().decode(tokens)


def test_a_stream_never_gives_half_a_character():
    stream = small().stream()
    pieces = [stream.feed(token) for token in small().encode("日🦊")]
    assert [piece for piece in pieces if piece] == ["日", "🦊"]


@pytest.mark.parametrize("text", [" " * 1_200_000, "\u3000" * 1_100_000 + "x"], ids=["spaces", "wide spaces"])
def test_endless_white_space_comes_back(text: str):
    assert o200k().decode(o200k().encode(text)) == text
    assert o200k().decode(o200k().encode_with_special(text + "<|end|>")) == text + "<|end|>"


def test_lone_surrogates_become_replacement_characters():
    assert o200k().decode(o200k().encode("a\ud800b")) == "a\ufffdb"


def test_ids_outside_the_vocabulary_are_text_not_errors():
    assert o200k().decode([5_000_000, 201_088]) == "\ufffd\ufffd"
    assert o200k().is_special(201_088)


def test_special_tokens_can_be_left_out():
    ids = o200k().encode_with_special("<|start|>user<|message|>hi<|end|>")
    assert o200k().decode(ids, skip_special=True) == "userhi"


def test_all_of_the_familys_special_tokens_have_names(published: Path):
    tokenizer = Tokenizer.from_file(published)
    assert tokenizer.size == 201_088
    assert tokenizer.special["<|reserved_201087|>"] == 201_087
    assert tokenizer.special["<|call|>"] == 200_012


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"type": "Unigram", "vocab": {}}, "pre_tokenizer": {}}'])
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is no byte-level BPE"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw["model"]["vocab"].pop("a"), "no token for the byte 0x61"),
        (lambda raw: raw["model"]["vocab"].update(a=98), "two of its tokens have the same id"),
        (lambda raw: raw["added_tokens"][0].update(id=5), "two of its tokens have the same id"),
        (lambda raw: raw["model"]["vocab"].update({"日": 9999}), "can't encode character|maps to <undefined>"),
        (lambda raw: raw.update(pre_tokenizer={"type": "Whitespace"}), "no Split by a regular expression"),
        (lambda raw: raw["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="("), "Parsing error"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Any], object], reason: str):
    path = tmp_path / "tokenizer.json"
    ranks = {bytes([byte]): byte for byte in range(256)}
    write_tokenizer_json(path, Vocabulary(ranks, r"\s+|\S+", {"<|end|>": 256}))
    raw = json.loads(path.read_text("utf-8"))
    damage(raw)
    path.write_text(json.dumps(raw), "utf-8")
    with pytest.raises(TokenizerError, match=reason):
        Tokenizer.from_file(path)
