"""Memory is bounded, and what was not used for the longest time leaves first."""

from app.categories import Category
from app.services.cache.entry import CachedResult
from app.services.cache.memory import MemoryCache


def entry(number: int) -> CachedResult:
    return CachedResult(Category.PETS, 0.5, f"photo {number}", "m")


def test_the_least_recently_used_leaves_first() -> None:
    memory = MemoryCache(3)
    for number in range(3):
        memory.put(str(number), entry(number))
    assert memory.get("0") == entry(0)
    memory.put("3", entry(3))
    assert [memory.get(str(number)) for number in range(4)] == [entry(0), None, entry(2), entry(3)]
    # Put again, it is the youngest.
    memory.put("0", entry(10))
    memory.put("4", entry(4))
    assert (memory.get("0"), memory.get("2"), len(memory)) == (entry(10), None, 3)


def test_it_never_holds_more_than_its_bound() -> None:
    memory = MemoryCache(100)
    for number in range(1000):
        memory.put(str(number), entry(number))
        memory.put(str(number // 2), entry(number // 2))
        assert len(memory) <= 100


def test_forgetting() -> None:
    memory = MemoryCache(10)
    memory.put("a", entry(1))
    memory.put("b", entry(2))
    memory.forget("a")
    memory.forget("unknown")
    assert (memory.get("a"), memory.get("b")) == (None, entry(2))
    memory.clear()
    assert len(memory) == 0


def test_switched_off_it_stays_empty() -> None:
    memory = MemoryCache(0)
    memory.put("a", entry(1))
    assert (memory.get("a"), len(memory), memory.is_on) == (None, 0, False)
