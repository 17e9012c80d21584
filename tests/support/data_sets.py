"""Where the large conformance data lies, beside the checkout; tests that need it skip with a reason where it does not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the data set {name} in a folder shared/data beside the checkout")
    return path
