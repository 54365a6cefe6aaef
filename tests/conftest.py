"""What all tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Values measured from the published implementation; see its README.md."""
    return Path(__file__).parent / "golden"
