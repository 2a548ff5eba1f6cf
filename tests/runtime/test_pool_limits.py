"""How many processes there are, and what each may take of MySQL's connections."""

import math
from pathlib import Path

import pytest

from app.config.database import DatabaseSettings
from app.config.model import ModelSettings
from app.config.settings import CacheSettings, Settings
from app.database.engine import create_engine
from app.errors import DatabaseUnavailable
from app.runtime import capacity, cgroups
from app.runtime.capacity import gunicorn_workers, pool_limits
from app.runtime.cgroups import available_memory_bytes, cgroup_memory_limit, cgroup_quota, control_groups


def settings(workers: int | None = None, url: str = "mysql://u@h/d", **database: int) -> Settings:
    return Settings(workers=workers, database=DatabaseSettings.model_validate({"url": url, **database}))


def test_gunicorn_starts_as_many_as_it_is_told_or_the_specifications_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.setattr(capacity, "available_cores", lambda: 4)
    monkeypatch.setattr(capacity, "available_memory_bytes", lambda: 1e15)
    assert gunicorn_workers(settings()) == 9
    assert gunicorn_workers(settings(3)) == 3
    monkeypatch.setattr(capacity, "available_cores", lambda: 64)
    assert gunicorn_workers(settings()) == 70
    assert gunicorn_workers(settings(url="sqlite:///x.db")) == 129
    assert gunicorn_workers(settings(80)) == 80


@pytest.mark.parametrize(
    ("gigabytes", "provider", "entries", "workers"),
    [
        (64, "claude", 100_000, 17),
        (4, "claude", 100_000, 10),
        (4, "claude", 0, 12),
        (4, "local", 100_000, 4),
        (1, "local", 100_000, 1),
        (0.25, "claude", 100_000, 1),
    ],
)
def test_no_more_than_the_memory_suffices_for(
    gigabytes: float, provider: str, entries: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.setattr(capacity, "available_cores", lambda: 8)
    monkeypatch.setattr(capacity, "available_memory_bytes", lambda: gigabytes * 1024**3)
    chosen = Settings(
        model=ModelSettings.model_validate({"provider": provider}),
        cache=CacheSettings.model_validate({"memory_entries": entries}),
    )
    assert gunicorn_workers(chosen) == workers
    assert gunicorn_workers(chosen.model_copy(update={"workers": 40})) == 40


@pytest.mark.parametrize(
    ("workers", "size", "overflow"), [(None, 10, 5), (8, 10, 5), (9, 10, 5), (12, 10, 1), (17, 8, 0), (70, 2, 0)]
)
def test_the_total_is_shared_out(
    workers: int | None, size: int, overflow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    assert pool_limits(settings(workers)) == (size, overflow)
    assert (size + overflow) * (workers or 1) <= 140


def test_fewer_than_two_connections_a_worker_are_refused() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"MYSQL_MAX_CONNECTIONS_TOTAL=140 .* WEB_CONCURRENCY to 70 or less"):
        create_engine(settings(71))
    assert pool_limits(settings(71, url="sqlite:///x.db")) == (10, 5)
    assert pool_limits(settings(71, max_connections_total=142)) == (2, 0)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_containers_share_of_the_cores_is_known(files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, math.inf),
        ({"memory.max": "max\n"}, math.inf),
        ({"memory.max": "536870912\n"}, 512 * 1024**2),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, 1024**3),
    ],
)
def test_a_containers_share_of_the_memory_is_known(files: dict[str, str], limit: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup_memory_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("membership", "groups"),
    [
        ("0::/", [""]),
        ("0::/system.slice/image-classifier.service", ["", "system.slice", "system.slice/image-classifier.service"]),
        ("12:memory:/docker/0123\n0::/a", ["", "a"]),
        # Version 1; another container's group; nothing at all.
        ("4:memory:/docker/0123", [""]),
        ("0::/../0123", [""]),
        (None, [""]),
    ],
)
def test_the_groups_of_a_unit_are_known(membership: str | None, groups: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cgroup"
    if membership is not None:
        file.write_text(f"{membership}\n")
    assert control_groups(tmp_path, file) == [tmp_path / group for group in groups]


def test_the_narrowest_group_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd's MemoryMax= and CPUQuota= are in the unit's own group, or in that of its slice."""
    unit = tmp_path / "system.slice/image-classifier.service"
    unit.mkdir(parents=True)
    (unit.parent / "memory.max").write_text("300000000\n")
    (unit / "memory.max").write_text("max\n")
    (unit / "cpu.max").write_text("50000 100000\n")
    groups = [tmp_path, unit.parent, unit]
    monkeypatch.setattr(cgroups, "control_groups", lambda: groups)
    monkeypatch.setattr(cgroups, "control_groups", lambda: groups)
    assert available_memory_bytes() == 300_000_000
    assert cgroups.available_cores() == 1


def test_the_machine_has_some_memory() -> None:
    [total] = [
        line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    ]
    assert 0 < available_memory_bytes() <= 1024 * int(total)
