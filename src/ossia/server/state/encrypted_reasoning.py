"""Encrypts reasoning that a client keeps, with AES-GCM and the server's own key.

In: a text and its model. Out: a string for the client, and the text again when the client sends the string back.
"""

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX = "ossia1."  # the version of the format
KEY_BYTES, NONCE_BYTES = 32, 12


class DecryptionError(ValueError):
    """The text was not encrypted by this server for this model, or was changed. The message says what to do."""


class ReasoningCipher:
    """Encrypts with one key. Reasoning of one model cannot be decrypted for another."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, text: str, model: str) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        # UTF-8 has no lone surrogates, but a client can send them
        encrypted = self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), model.encode())
        return PREFIX + base64.urlsafe_b64encode(nonce + encrypted).decode()

    def decrypt(self, encrypted: str, model: str) -> str:
        """The original text. Raises DecryptionError unless `encrypt` made it for this model with this key."""
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
    """The key in this folder, created at the first call. Only its owner can read it.

    It is first written under another name, so a crash leaves no partial key. Raises OSError if it cannot be stored.
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
            with suppress(FileExistsError):  # another process created it
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is not a key of {KEY_BYTES} bytes: delete it; text encrypted with it is lost")
    return key
