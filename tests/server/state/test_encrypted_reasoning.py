"""Sealed reasoning opens for the server and model that made it, and for nobody else."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.server.state.encrypted_reasoning import KEY_BYTES, DecryptionError, ReasoningCipher, key_in

SEAL = ReasoningCipher(bytes(KEY_BYTES))


@given(st.text(), st.text(max_size=20))
def test_what_was_sealed_opens_again(text: str, model: str):
    encrypted = SEAL.encrypt(text, model)
    assert encrypted.isascii()
    assert SEAL.decrypt(encrypted, model) == text
    assert SEAL.encrypt(text, model) != encrypted


@given(st.integers(min_value=0), st.sampled_from("ABCxyz019-_=~é"))
def test_a_changed_character_is_noticed(place: int, character: str):
    encrypted = SEAL.encrypt("what I thought", "m")
    place %= len(encrypted) - 2  # the very last one may hold spare bits
    changed = encrypted[:place] + character + encrypted[place + 1 :]
    if changed != encrypted:
        with pytest.raises(DecryptionError, match="leave the item out"):
            SEAL.decrypt(changed, "m")


@pytest.mark.parametrize("foreign", ["", "gAAAAABo", "ossia1.", "ossia1.AAAA", "ossia1.é", "ossia1." + "A" * 999])
def test_what_others_made_is_refused(foreign: str):
    with pytest.raises(DecryptionError):
        SEAL.decrypt(foreign, "m")


def test_another_key_or_model_does_not_open_it():
    with pytest.raises(DecryptionError):
        SEAL.decrypt(SEAL.encrypt("x", "20b"), "120b")
    with pytest.raises(DecryptionError):
        SEAL.decrypt(ReasoningCipher(bytes([1]) * KEY_BYTES).encrypt("x", "m"), "m")


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path):
    folder = tmp_path / "state"
    key = key_in(folder)
    assert key_in(folder) == key
    assert len(key) == KEY_BYTES
    assert [path.name for path in folder.iterdir()] == ["sealing.key"]
    if os.name == "posix":
        assert stat.S_IMODE((folder / "sealing.key").stat().st_mode) == 0o600


def test_a_file_that_is_no_key_is_not_overwritten(tmp_path: Path):
    (tmp_path / "sealing.key").write_text("short")
    with pytest.raises(OSError, match="delete it"):
        key_in(tmp_path)
