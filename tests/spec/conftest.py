"""What several of these tests need of the worker."""

import pytest

from thirdshift.runtime.pools import pool as pool_module


@pytest.fixture
def claims_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker claim ahead as soon as one attempt has ended: it does when they are short, as far as it has seen.

    On a busy machine none of them is.
    """
    monkeypatch.setattr(pool_module, "_AHEAD_S", 3_600.0)
