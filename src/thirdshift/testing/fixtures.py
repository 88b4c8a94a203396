"""Fixtures for pytest. Import them where yours stand, in ``conftest.py``.

``from thirdshift.testing.fixtures import inline_tasks``
"""

from collections.abc import Iterator

import pytest

from thirdshift.manager import BackgroundTaskManager
from thirdshift.testing.running import inline


@pytest.fixture
def inline_tasks() -> Iterator[BackgroundTaskManager]:
    """Give a manager whose submits run at once, which is the application's shared one too."""
    with inline() as manager:
        yield manager
