"""One cluster for all tests here."""

from collections.abc import Iterator

import pytest

from tests.servers.galera import GaleraCluster, running_galera


@pytest.fixture(scope="package")
def cluster() -> Iterator[GaleraCluster]:
    """Three nodes, all of them up."""
    with running_galera() as cluster:
        yield cluster
