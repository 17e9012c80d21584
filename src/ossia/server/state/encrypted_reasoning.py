"""Reasoning that a client keeps for us without reading it: sealed and opened with AES-GCM under the server's own key.

In: a text and the model that thought it. Out: a string to hand out, and the text again when it comes back.
It does not know HTTP or what the text means.
"""

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX = "ossia1."  # the version of the form
KEY_BYTES, NONCE_BYTES = 32, 12


class DecryptionError(ValueError):
    """Not sealed by this server for this model, or changed since; the message says what can be done."""


class ReasoningCipher:
    """Seals under one key. What one model thought does not open for another."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, text: str, model: str) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        # a lone surrogate is no UTF-8 but can be said by a client
        encrypted = self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), model.encode())
        return PREFIX + base64.urlsafe_b64encode(nonce + encrypted).decode()

    def decrypt(self, encrypted: str, model: str) -> str:
        """The text again. Raises DecryptionError for anything that `encrypt` did not make for this model with this key."""
        try:
            if not encrypted.startswith(PREFIX):
                raise ValueError
            data = base64.b64decode(encrypted.removeprefix(PREFIX).encode("ascii"), altchars=b"-_", validate=True)
            text = self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], model.encode())
        except (ValueError, binascii.Error, InvalidTag) as error:
            raise DecryptionError(
                f"this encrypted_content was not made by this server for {model!r}, or was changed: leave the item out"
            ) from error
        return text.decode("utf-8", "surrogatepass")


def key_in(folder: Path) -> bytes:
    """The key kept in a folder, made at the first call; its owner alone can read it.

    It is written whole under another name first: no crash leaves half a key. Raises OSError where it cannot be kept.
    """
    path = folder / "sealing.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"sealing.key.{secrets.token_hex(8)}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is no key of {KEY_BYTES} bytes: delete it, and what was sealed with it is lost")
    return key
