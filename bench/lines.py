"""Which lines the table has: who is asked what, over how many connections, and which line is compared with which."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.databases import insert_entries
from bench.load import Outcome, Request
from bench.measure import Measurement, Target
from bench.requests import check_known, check_many, check_unknown, hash_of_number, known_hash, upload_known, upload_new
from bench.services import make_known
from bench.yardstick import MODELLED_PATH

HIT_CONNECTIONS = (1, 32, 128, 256)
UPLOAD_CONNECTIONS = 8
MANY_PHOTOS = 5_000
MANY_USERS = 1_000
# More than a round sends, so that every photo and every user comes up, each time with another.
MANY_REQUESTS = 50_000

HIT = "check-cache, hit"
MANY_HITS = "check-cache, hits of 5 000 photos by 1 000 users"
MISS = "check-cache, miss"
KNOWN = "upload, known photo"
NEW = "upload, new photo"


@dataclass(frozen=True, slots=True)
class Targets:
    """The services of a run. `ours` commits before it answers, `later` after; both on MySQL, as `naive` is.

    `without_binary_log` is on a MySQL of its own. `before` is the service of another checkout, if one is compared.
    """

    bare: Target
    yardstick: Target
    naive: Target
    ours: Target
    later: Target
    without_binary_log: Target
    sqlite: Target
    local: Target
    before: Target | None = None

    def all(self) -> list[Target]:
        """In the order of the tables."""
        others = [self.later, self.without_binary_log, self.sqlite, self.local]
        return [self.bare, self.yardstick, self.naive, *self.ours_and_before(), *others]

    def ours_and_before(self) -> list[Target]:
        """The service that is measured, and that of the other checkout, if there is one."""
        return [self.ours] if self.before is None else [self.before, self.ours]


def fill_caches(targets: Targets, photo: bytes) -> None:
    """Make the photos known that the lines call known.

    Raises:
        LoadError: a service did not classify the photo.
    """
    for target in (*targets.ours_and_before(), targets.later, targets.without_binary_log, targets.sqlite):
        make_known(target.service, upload_known(photo))
    for target, hashes in ((targets.naive, [known_hash(photo)]), (targets.ours, _many_hashes())):
        assert target.engine is not None  # noqa: S101 - both keep books
        insert_entries(target.engine, hashes)


def plan_measurements(targets: Targets, photo: bytes) -> list[Measurement]:
    """Return the lines; those that are compared stand together, so that little time passes between them."""
    check, known, new = check_known(photo), upload_known(photo), upload_new(photo)
    services = [targets.bare, targets.yardstick, targets.naive, *targets.ours_and_before()]
    lines: list[Measurement] = []
    for connections in HIT_CONNECTIONS:
        group = _compared(HIT, [*services, targets.later, targets.without_binary_log], check, connections)
        lines += group
        yardstick, naive = group[1], group[2]
        if connections == 32:
            chance = random.Random(0)
            hashes = chance.choices(_many_hashes(), k=MANY_REQUESTS)
            many = check_many(hashes, users=MANY_USERS, chance=chance)
            lines += [
                Measurement(MANY_HITS, targets.ours, many, 32, yardstick=yardstick, naive=naive),
                Measurement(MISS, targets.ours, check_unknown(), 32, Outcome.MISSED, yardstick),
            ]
        if connections in {1, 32}:
            lines.append(Measurement(HIT, targets.sqlite, check, connections, yardstick=yardstick))
    uploads = _compared(KNOWN, services, known, UPLOAD_CONNECTIONS)
    modelled = replace(new, path=MODELLED_PATH)
    reference = Measurement(NEW, targets.yardstick, modelled, UPLOAD_CONNECTIONS, Outcome.FRESH)
    return [
        *lines,
        *uploads,
        Measurement(KNOWN, targets.sqlite, known, UPLOAD_CONNECTIONS, yardstick=uploads[1]),
        reference,
        *(
            Measurement(NEW, target, new, UPLOAD_CONNECTIONS, Outcome.FRESH, reference)
            for target in targets.ours_and_before()
        ),
        *(Measurement(NEW, targets.local, new, connections, Outcome.FRESH) for connections in (1, 2)),
    ]


def _compared(title: str, targets: Sequence[Target], request: Request, connections: int) -> list[Measurement]:
    """Lines for the bare service, the yardstick, the naive service and others, compared with these two."""
    bare, yardstick, naive, *others = (Measurement(title, target, request, connections) for target in targets)
    for line in (bare, naive, *others):
        line.yardstick = yardstick
    for line in others:
        line.naive = naive
    return [bare, yardstick, naive, *others]


def _many_hashes() -> list[str]:
    return [hash_of_number(number) for number in range(MANY_PHOTOS)]
