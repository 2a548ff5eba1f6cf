"""The tests of the database layer are about its time limits, too."""

import pytest


@pytest.fixture(autouse=True)
def patient_process() -> None:
    """Leave the times of transactions as they are."""
