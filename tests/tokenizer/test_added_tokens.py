"""M6: tokens that a fine-tune adds are encoded, named and matched as transformers does; user text forges none of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from transformers import AutoTokenizer

from ossia.harmony.grammar import GrammarCache
from ossia.harmony.messages import user
from ossia.harmony.render import render
from ossia.settings_files import read_settings
from ossia.tokenizer.tokenizer import Tokenizer, TokenizerError
from ossia.tokenizer.tokenizer_json import o200k_harmony, write_tokenizer_json
from tests.support.vocabularies import SPECIAL, small_vocabulary

FIRST = max(small_vocabulary().special.values()) + 1  # the next free id


def entry(number: int, content: str, **flags: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": number, "content": content, **plain, **flags}


ADDED = [
    entry(FIRST, "<tool>"),
    entry(FIRST + 1, "<secret>", special=True, normalized=False),
    entry(FIRST + 2, "word", single_word=True),
    entry(FIRST + 3, "[L]", lstrip=True),
    entry(FIRST + 4, "[R]", rstrip=True, normalized=False),
    entry(FIRST + 5, "[B]", lstrip=True, rstrip=True, special=True, normalized=False),
    entry(FIRST + 6, "<tool>s"),
    entry(FIRST + 7, "start", normalized=False),
    entry(FIRST + 8, "é日"),
]


def folder_with(folder: Path, added: list[dict[str, Any]], **beside: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    write_tokenizer_json(path, small_vocabulary())
    document = json.loads(path.read_text("utf-8"))
    document["added_tokens"] += added
    path.write_text(json.dumps(document), "utf-8")
    beside["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast"} | beside.get("tokenizer_config", {})
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, HuggingFace]:
    folder = folder_with(tmp_path_factory.mktemp("added"), ADDED)
    return Tokenizer.from_file(folder / "tokenizer.json"), HuggingFace.from_file(str(folder / "tokenizer.json"))


PIECES = [each["content"] for each in ADDED] + [
    *SPECIAL[:4],
    " ",
    "  ",
    "\n",
    "a",
    "s",
    "the",
    "final",
    "_",
    "1",
    "<",
    "日",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=500, deadline=None)
@given(text=TEXT)
def test_M6_text_is_encoded_as_tokenizers_does(both: tuple[Tokenizer, HuggingFace], text: str):
    ours, theirs = both
    theirs.encode_special_tokens = True  # special tokens in the text stay text, as a user's do
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    theirs.encode_special_tokens = False
    assert ours.encode_with_special(text) == theirs.encode(text, add_special_tokens=False).ids


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_M6_a_users_text_holds_no_control_token(both: tuple[Tokenizer, HuggingFace], text: str):
    tokens = render(both[0], [user(text)])
    assert sum(both[0].is_special(token) for token in tokens) == 3  # <|start|>, <|message|>, <|end|>


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one more in the decoder": ([], {"tokenizer_config": {"added_tokens_decoder": {str(FIRST): entry(0, "<extra>")}}}),
    "the decoder's flags": (
        [entry(FIRST, "<c>")],
        {"tokenizer_config": {"added_tokens_decoder": {str(FIRST): entry(0, "<c>", special=True, lstrip=True)}}},
    ),
    "a gap in the decoder": (
        [], {"tokenizer_config": {"added_tokens_decoder": {str(FIRST + 9): entry(0, "<g>", special=True)}}},
    ),
    "special_tokens_map": ([], {"special_tokens_map": {"additional_special_tokens": ["<new>"], "pad_token": "<pad>"}}),
    "added_tokens.json": ([], {"added_tokens": {"<legacy>": FIRST}}),
    "a byte pair": ([entry(small_vocabulary().ranks[b"final"], "final")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_M6_the_files_beside_say_more_as_in_transformers(tmp_path: Path, name: str):
    added, beside = CASES[name]
    folder = folder_with(tmp_path, added, **beside)
    ours, theirs = Tokenizer.from_file(folder / "tokenizer.json"), AutoTokenizer.from_pretrained(folder)
    for token, added_token in theirs.added_tokens_decoder.items():
        assert ours.token_bytes(token).decode() == added_token.content
        assert ours.is_special(token) == added_token.special or added_token.content in SPECIAL
        text = f"a {added_token.content} b"
        assert ours.encode_with_special(text) == theirs.encode(text, add_special_tokens=False)


def test_M6_a_token_of_text_may_be_sampled_and_a_special_one_not(both: tuple[Tokenizer, HuggingFace]):
    tokenizer = both[0]
    mask = GrammarCache(tokenizer).text_masks[tokenizer.special["<|return|>"]]
    for each in ADDED:
        assert bool(mask[each["id"] >> 3] >> (each["id"] & 7) & 1) == (not each["special"]), each
    assert tokenizer.decode([FIRST, FIRST + 8]) == "<tool>é日"
    assert tokenizer.decode([FIRST, FIRST + 1], skip_special=True) == "<tool>"


@pytest.fixture(scope="module")
def o200k_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("o200k")
    write_tokenizer_json(folder / "tokenizer.json", o200k_harmony())
    return folder


def test_M6_ids_from_200019_are_the_added_tokens(o200k_folder: Path, tmp_path: Path):
    document = json.loads((o200k_folder / "tokenizer.json").read_text("utf-8"))
    document["added_tokens"] += [entry(200019, "<think>"), entry(200020, "<|mine|>", special=True)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    tokenizer = Tokenizer.from_file(path, 201_088)
    assert tokenizer.encode("a<think><|mine|>b")[1] == 200019
    assert 200020 not in tokenizer.encode("<|mine|>")
    assert (tokenizer.special["<|mine|>"], tokenizer.is_special(200019)) == (200020, False)
    assert tokenizer.token_bytes(200019) == b"<think>"
    assert "<|reserved_200019|>" not in tokenizer.special
    assert tokenizer.special["<|reserved_200021|>"] == 200021
    shrunk = Tokenizer.from_file(path, 200_021)  # as resize_token_embeddings(len(tokenizer)) leaves it
    assert shrunk.size == 200_021
    with pytest.raises(
        TokenizerError, match=r"'<\|mine\|>' has the id 200,020 and the model has embeddings for 200,020"
    ):
        Tokenizer.from_file(path, 200_020)
    document["added_tokens"][8]["id"], document["added_tokens"][9]["id"] = 200007, 200006
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(
        TokenizerError, match=r"<\|start\|> has the id 200007; harmony's is 200006|<\|end\|> has the id"
    ):
        Tokenizer.from_file(path)


def test_M6_harmonys_control_tokens_stay_control_tokens(tmp_path: Path):
    folder = folder_with(tmp_path, [])
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    for each in document["added_tokens"]:
        each["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    assert not any(tokenizer.is_special(token) for token in tokenizer.encode("<|start|>system<|message|>x<|end|>"))


def test_M6_a_tokenizer_that_does_not_fit_is_named(tmp_path: Path):
    folder = folder_with(tmp_path, [])
    with pytest.raises(TokenizerError, match=r"the model has embeddings for 300 tokens \(vocab_size\)"):
        read_settings(folder, 300)
    assert "may be another model's tokenizer" in read_settings(folder, 201_088).warnings[0]
    assert read_settings(folder, FIRST + 100).warnings == ()
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    document["added_tokens"] = [each for each in document["added_tokens"] if each["content"] != "<|call|>"]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"has no token <\|call\|>: it is not a tokenizer of the gpt-oss family"):
        read_settings(folder, FIRST)


NAMES = dict(small_vocabulary().special)


@pytest.mark.parametrize(
    ("eos", "added", "left_out"),
    [
        (NAMES["<|return|>"], set(), ()),
        ([NAMES["<|return|>"], NAMES["<|endoftext|>"]], {NAMES["<|endoftext|>"]}, ()),
        ([NAMES["<|end|>"], NAMES["<|call|>"]], set(), ("<|end|>",)),
        (NAMES["<|end|>"], set(), ("<|end|>",)),
        ([NAMES["<|start|>"], NAMES["<|channel|>"], NAMES["<|message|>"]], set(), ("<|start|>", "<|channel|>", "<|message|>")),
        ([65, 10**9, -1], set(), ("65", "1000000000", "-1")),
        ([FIRST + 1], {FIRST + 1}, ()),
        ([FIRST], set(), (str(FIRST),)),
        (None, set(), ()),
        ([], set(), ()),
    ],
)  # fmt: skip
def test_M11_what_ends_a_turn(tmp_path: Path, eos: object, added: set[int], left_out: tuple[str, ...]):
    folder = folder_with(tmp_path, ADDED, generation_config={"eos_token_id": eos})
    read = read_settings(folder, 1000)
    assert read.stop_tokens == {NAMES["<|return|>"], NAMES["<|call|>"], *added}
    assert len(read.warnings) == bool(left_out)
    assert all(name in read.warnings[0] for name in left_out)


def test_M7_the_original_layout_alone_uses_the_shipped_tokenizer(tmp_path: Path):
    read = read_settings(tmp_path / "original", 201_088, is_original=True)
    assert read.tokenizer is not None
    assert read.tokenizer.encode("Hello") == [13225]
    assert read.stop_tokens == {200002, 200012}
    assert read_settings(tmp_path / "original", 100, is_original=True).tokenizer is None
    assert read_settings(tmp_path, 201_088).tokenizer is None
