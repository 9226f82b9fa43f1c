"""What the torture tests share: processes that start at once."""

import pytest
from processes import Processes, failing_disk


@pytest.fixture(scope="session")
def processes():
    """Starts ``nff`` commands, see ``processes.Processes``."""
    with Processes() as running:
        yield running


@pytest.fixture(scope="session")
def disk():
    """Skips where the failing disk cannot be compiled."""
    if failing_disk() is None:
        pytest.skip("needs a C compiler")
