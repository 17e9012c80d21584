"""K14: hostile files of a checkpoint. Each is refused in one line that names file and place; nothing outside is opened."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.files import FileError, shown
from ossia.hub import MINI, find
from ossia.loading import load, outline
from ossia.model.checkpoint import open_checkpoint
from ossia.settings_files import read_settings
from tests.support.checkpoints import TINY, tiny_checkpoint

INDEX = "model.safetensors.index.json"


def refused(folder: Path) -> str:
    """The one line with which opening the folder, or else reading its settings, is refused."""
    with pytest.raises((ValueError, OSError)) as error:  # noqa: PT012
        open_checkpoint(find(folder))
        read_settings(folder, TINY.vocab)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


ABSURD = [
    10**7,
    10**30,
    10**400,
    0,
    -1,
    2.5,
    1e308,
    True,
    None,
    "24",
    [24],
    {},
    float("nan"),
    float("inf"),
    "9" * 10**6,
]
COUNTS = [
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "num_local_experts", "num_experts_per_tok", "vocab_size", "sliding_window", "max_position_embeddings",
]  # fmt: skip
FLOATS = ["rms_norm_eps", "swiglu_limit", "rope_theta"]


@pytest.mark.parametrize("value", ABSURD, ids=[str(value)[:12] for value in ABSURD])
@pytest.mark.parametrize("key", COUNTS)
def test_K14_an_absurd_count_is_refused(tmp_path: Path, key: str, value: object):
    if value == 10**7 and key in ("sliding_window", "max_position_embeddings"):
        pytest.skip("a number that can be")
    edit(tiny_checkpoint(tmp_path) / "config.json", **{key: value})
    assert "config" in refused(tmp_path)


@pytest.mark.parametrize("value", [10**400, -1.0, 0, True, "7", [7], float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("key", FLOATS)
def test_K14_an_absurd_number_is_refused(tmp_path: Path, key: str, value: object):
    edit(tiny_checkpoint(tmp_path) / "config.json", **{key: value})
    assert "config" in refused(tmp_path)


@pytest.mark.parametrize("value", [10**7, 10**400, -1, 1.5, True, "4096", None, float("nan")])
@pytest.mark.parametrize("key", ["num_hidden_layers", "initial_context_length", "rope_scaling_factor", "rope_theta"])
def test_K14_the_original_config_likewise(tmp_path: Path, key: str, value: object):
    if key.startswith("rope") and value in (1.5, 10**7) and (key, value) != ("rope_scaling_factor", 10**7):
        pytest.skip("a number that can be")
    edit(tiny_checkpoint(tmp_path, layout="original") / "original" / "config.json", **{key: value})
    assert "config" in refused(tmp_path)


@pytest.mark.parametrize(
    "value", [10**7, [], "sliding_attention", [["full_attention"]], [None] * 4, ["full_attention"] * 10**5, {"a": 1}]
)
def test_K14_layer_types_of_another_kind(tmp_path: Path, value: object):
    edit(tiny_checkpoint(tmp_path) / "config.json", layer_types=value)
    assert refused(tmp_path)


CONTENTS: dict[str, tuple[bytes, str]] = {
    "open brackets": (b"[" * 3_000_000, "nested too deeply"),
    "open objects": (b'{"a":' * 500_000, "nested too deeply"),
    "a list": (b"[]", "not a JSON object"),
    "a number": (b"7", "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "nothing": (b"", "not JSON"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "not JSON"),
    "two of a key": (b'{"a": 1, "a": 2}', "'a' occurs twice"),
    "many digits": (b'{"a": ' + b"9" * 100_000 + b"}", "not JSON"),
    "null bytes": (b"\0" * 1000, "not JSON"),
    "large": (b" " * (5 << 20), "at most"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["config.json", INDEX, "generation_config.json", "tokenizer_config.json"])
def test_K14_a_file_of_other_json(tmp_path: Path, name: str, content: str):
    data, said = CONTENTS[content]
    tiny_checkpoint(tmp_path)
    shutil.copy(find(MINI) / "tokenizer.json", tmp_path)
    edit(tmp_path / "config.json", vocab_size=1024)
    if name == INDEX:
        (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
        said = "at most|not JSON" if content == "large" else said
    (tmp_path / name).write_bytes(data)
    with pytest.raises((ValueError, OSError), match=said) as error:  # noqa: PT012
        if name in (INDEX, "config.json"):
            open_checkpoint(find(tmp_path))
        read_settings(tmp_path, 1024)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_K14_a_huge_file_is_not_read(tmp_path: Path):
    tiny_checkpoint(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        with (tmp_path / name).open("r+b" if name == "config.json" else "wb") as file:
            file.truncate(10 << 30)  # a hole: it takes no room on the disk
        assert f"{name}: has 10,737,418,240 bytes; at most" in refused(tmp_path)
        (tmp_path / "config.json").write_bytes(
            (tiny_checkpoint(tmp_path / name.removesuffix(".json")) / "config.json").read_bytes()
        )


def test_K14_a_byte_order_mark_is_read_over(tmp_path: Path):
    path = tiny_checkpoint(tmp_path) / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_checkpoint(tmp_path).config == TINY


def header(text: bytes | object, tail: bytes = b"", length: int | None = None) -> bytes:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + tail


def tensor(begin: object, end: object, dtype: object = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [4] if shape is None else shape, "data_offsets": [begin, end]}


HEADERS: dict[str, tuple[bytes, str]] = {
    "brackets": (header(b"[" * 1_000_000), "nested too deeply"),
    "huge length": (header({}, length=1 << 62), "cut off in its header"),
    "long header": (header(b" " * (17 << 20)), "at most"),
    "overlap": (header({"a": tensor(0, 4), "b": tensor(2, 6)}, b"\0" * 6), "tensor 'b' starts at byte"),
    "hole": (header({"a": tensor(0, 4), "b": tensor(8, 12)}, b"\0" * 12), "tensor 'b' starts at byte"),
    "same place": (header({"a": tensor(0, 4), "b": tensor(0, 4)}, b"\0" * 4), "tensor 'b' starts at byte"),
    "beyond": (header({"a": tensor(0, 4)}, b"\0"), "is cut off"),
    "backwards": (header({"a": tensor(4, 0)}, b"\0" * 4), "takes 4 bytes"),
    "negative": (header({"a": tensor(-4, 0)}), "bad header entry"),
    "booleans": (header({"a": tensor(False, True, shape=[1])}, b"\0"), "bad header entry"),
    "floats": (header({"a": tensor(0.0, 4.0)}, b"\0" * 4), "bad header entry"),
    "large numbers": (header({"a": tensor(0, 10**30, shape=[10**30])}), "bad header entry"),
    "many dimensions": (header({"a": tensor(0, 4, shape=[1 << 40] * 10**5)}), "bad header entry"),
    "wrong type": (header({"a": tensor(0, 4, dtype="F8_E4M3")}, b"\0" * 4), "has dtype F8_E4M3; Ossia reads"),
    "long type": (header({"a": tensor(0, 4, dtype="F" * 10**6)}, b"\0" * 4), "has dtype"),
    "type is a list": (header({"a": tensor(0, 4, dtype=["U8"])}, b"\0" * 4), "bad header entry"),
    "two of a name": (header(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    "entry is a list": (header({"a": [1]}), "bad header entry"),
    "not UTF-8": (header(b'{"\xff": 1}'), "bad safetensors header"),
    "long name": (header({"n" * 10**6: tensor(0, 4)}), "is cut off"),
    "name of lines": (header({"a\nb": tensor(0, 4)}), r"'a\\nb' is cut off"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_K14_a_hostile_header_is_named(tmp_path: Path, name: str):
    data, said = HEADERS[name]
    (tiny_checkpoint(tmp_path) / "model.safetensors").write_bytes(data)
    message = refused(tmp_path)
    assert str(tmp_path / "model.safetensors") in message
    with pytest.raises(AssertionError) if not said else pytest.raises(ValueError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "place",
    [1, None, [], {}, "", "\0", "../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "x" * 10**6],
)
def test_K14_an_index_that_names_no_file_of_the_folder(tmp_path: Path, place: object):
    folder = tiny_checkpoint(tmp_path / "model")
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": place}}))
    assert str(folder) in refused(folder)


def linked(path: Path, target: Path) -> None:
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
def test_K14_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str):
    folder = tiny_checkpoint(tmp_path / "model")
    for each in ("tokenizer.json", "generation_config.json"):
        shutil.copy(find(MINI) / each, folder)
    edit(folder / "config.json", eos_token_id=None)
    linked(folder / name, tmp_path / "secret")
    assert f"{folder / name}: leads to {tmp_path / 'secret'}, outside" in refused_any(folder)


def refused_any(folder: Path) -> str:
    with pytest.raises(FileError) as error:  # noqa: PT012
        open_checkpoint(find(folder))
        read_settings(folder, 10**6)
    return str(error.value)


def test_K14_links_within_the_folder_and_into_the_caches_blobs_are_followed(tmp_path: Path):
    folder = tiny_checkpoint(tmp_path / "models--a--b" / "snapshots" / "abc")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    linked(folder / "config.json", blobs / "1")
    shared = tmp_path / "blobs" / "xy"
    shared.mkdir(parents=True)
    linked(folder / "model.safetensors", shared / "2")
    assert open_checkpoint(find(tmp_path / "models--a--b")).config == TINY
    linked(folder / "config.json", tmp_path / "elsewhere")
    assert "outside" in refused_any(folder)
    plain = tiny_checkpoint(tmp_path / "plain")
    linked(plain / "model.safetensors", plain / "weights.data")
    assert open_checkpoint(plain).config == TINY
    (tmp_path / "link").symlink_to(plain)
    assert open_checkpoint(find(tmp_path / "link")).config == TINY


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling link", "link to itself"])
def test_K14_what_is_no_file_is_not_opened(tmp_path: Path, name: str, kind: str):
    path = tiny_checkpoint(tmp_path) / name
    if name == INDEX:
        (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case _:
            path.symlink_to(path)
    assert str(path) in refused(tmp_path) or name == "model.safetensors"


def tokenizer_with(folder: Path, change: Callable[[dict], object]) -> None:
    raw = json.loads((find(MINI) / "tokenizer.json").read_text("utf-8"))
    change(raw)
    (folder / "tokenizer.json").write_text(json.dumps(raw))


TOKENIZERS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a huge id": (lambda raw: raw["model"]["vocab"].update(a=10**30), "the id of 'a' cannot be"),
    "a negative id": (lambda raw: raw["model"]["vocab"].update(a=-1), "the id of 'a' cannot be -1"),
    "a huge added id": (lambda raw: raw["added_tokens"][0].update(id=10**30), "cannot be 1000"),
    "a negative added id": (lambda raw: raw["added_tokens"][0].update(id=-1), "cannot be -1"),
    "an id that is text": (lambda raw: raw["added_tokens"][0].update(id="5"), "cannot be '5'"),
    "an id that is a boolean": (lambda raw: raw["added_tokens"][0].update(id=True), "cannot be True"),
    "a flag that is text": (lambda raw: raw["added_tokens"][0].update(special="yes"), "special of .* cannot be 'yes'"),
    "a long token": (lambda raw: raw["added_tokens"][0].update(content="x" * 10**6), "1,000,000 characters"),
    "no content": (lambda raw: raw["added_tokens"][0].pop("content"), "is no token with a content"),
    "pre-tokenizer of numbers": (lambda raw: raw.update(pre_tokenizer={"pretokenizers": [1, None]}), "no Split"),
    "pre-tokenizer of a number": (lambda raw: raw.update(pre_tokenizer={"pretokenizers": 7}), "no Split"),
    "added tokens of numbers": (lambda raw: raw.update(added_tokens=[1, 2]), "Expected `object`"),
    "no vocabulary": (lambda raw: raw["model"].update(vocab={}), "no token for the byte 0x00"),
    "a large vocabulary": (
        lambda raw: raw["model"]["vocab"].update({f"t{i}": i for i in range((1 << 21) + 1)}), "at most 2,097,152 are read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_K14_a_hostile_tokenizer_is_named(tmp_path: Path, name: str):
    change, said = TOKENIZERS[name]
    tokenizer_with(tmp_path, change)
    with pytest.raises(ValueError, match=said) as error:
        read_settings(tmp_path, 1 << 20)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_K14_merges_are_not_read_however_they_look(tmp_path: Path):
    tokenizer_with(tmp_path, lambda raw: raw["model"].update(merges=[["a", "a"], ["aa", "a"], ["a", "aa"], 7, None]))
    assert read_settings(tmp_path, 1 << 20).tokenizer is not None
    (tmp_path / "tokenizer.json").write_text('{"model": ' + "[" * 3_000_000)
    with pytest.raises(ValueError, match=r"nested too deeply|is no byte-level BPE"):
        read_settings(tmp_path, 1 << 20)


def test_shown_is_short():
    for value in ("x" * 10**6, [[0] * 10**5], 10**5000, {"a": "b" * 10**5}, "a\nb"):
        assert len(shown(value)) < 200
        assert "\n" not in shown(value)


# -- fuzzing


FILES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors", INDEX, "tokenizer_config.json")
WORDS = [
    b"0",
    b"-1",
    b"1e999",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"[[[[",
    b"NaN",
    b"10000000000000000000000000",
    b"\xff",
    b"\0",
    b",",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, or replaced by what parsers stumble over."""
    most = min(len(data), 4000)  # where the structure is
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randrange(most + 1), rng.randrange(most + 1)))
        end = min(end, at + 40)
        match rng.randrange(5):
            case 0:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[:at] + rng.choice(WORDS) + data[end:]
            case _:
                data = data[:at] if rng.random() < 0.3 else data[: len(data) - rng.randrange(1, 100)]
    return data


def fuzz(folder: Path, count: int, seed: int) -> int:
    """Mutate one file at a time; how many were refused. Anything but a one-line ValueError or OSError is a failure."""
    whole = {name: (folder / name).read_bytes() for name in FILES}
    rng = random.Random(seed)
    refusals: list[tuple[int, str, str]] = []
    for number in range(count):
        name = rng.choice(FILES)
        (folder / name).write_bytes(mutated(whole[name], rng))
        try:
            checkpoint = open_checkpoint(find(folder))
            read_settings(folder, checkpoint.config.vocab)
            outline(folder)
        except (ValueError, OSError) as error:
            refusals.append((number, name, str(error)))
        (folder / name).write_bytes(whole[name])
    for number, name, message in refusals:
        assert "\n" not in message, (number, name, message)
        assert len(message) < 2000, (number, name)
    return len(refusals)


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    folder = tiny_checkpoint(tmp_path / "fuzzed")
    shutil.copy(find(MINI) / "generation_config.json", folder)
    tokenizer_with(folder, lambda raw: raw["model"].update(merges=[]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"5000": {"content": "<x>", "special": False}}, "pad_token": "<pad>"})
    )
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    names = list(open_checkpoint(folder).files)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-1.safetensors")}))
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    return folder


def test_K14_files_mutated_at_random_are_refused_in_one_line(complete: Path):
    assert fuzz(complete, 300, seed=0) > 100


@pytest.mark.slow
def test_K14_files_mutated_at_random_a_few_thousand_times(complete: Path):
    assert fuzz(complete, 5000, seed=1) > 1500


def test_K14_a_small_cut_of_a_model_that_loads_is_refused_by_load_too(tmp_path: Path):
    edit(tiny_checkpoint(tmp_path) / "config.json", num_hidden_layers=10**7)
    with pytest.raises(ValueError, match="num_hidden_layers is 10000000; at most 1,000 is read"):
        load(tmp_path)
