"""What must be in the database after the load: each request once, in every row and sum, on every node."""

from sqlalchemy import Table

from app.database.tables.schema import metadata
from tests.servers.waiting import wait_until
from tests.support.load import Load
from tests.support.site import Site


def check_books(site: Site, load: Load, *, others: int) -> None:
    """Each 200 has its one row, whatever else has a row was asked too, and every sum agrees with the rows.

    `others` is how many requests were answered 200 that are not of `load`.
    """
    node = next(each for each in site.cluster.nodes if each.is_synced())
    asked = [row[0] for row in node.query(f"SELECT request_id FROM {site.database}.request_log")]
    assert len(asked) == len(set(asked))
    answered = [answer.request_id for answer in load.answers if answer.status == 200]
    assert len(answered) == len(set(answered))
    failed = [answer.request_id for answer in load.answers if answer.status != 200]
    assert set(answered) <= set(asked)
    extra = set(asked) - set(answered) - set(failed)
    # Where the service died before it could answer, the id of what it has committed is not known.
    assert others <= len(extra) <= others + failed.count("")
    [(requests, hits, images, all_hits, entries, hit_count)] = node.query(
        f"SELECT (SELECT SUM(requests) FROM {site.database}.stats_period),"
        f" (SELECT SUM(hits) FROM {site.database}.stats_period),"
        f" (SELECT SUM(images) FROM {site.database}.stats_cache),"
        f" (SELECT SUM(hits) FROM {site.database}.stats_cache),"
        f" COUNT(*), SUM(hit_count) FROM {site.database}.image_classification_cache"
    )
    [(rows, cached)] = node.query(f"SELECT COUNT(*), SUM(from_cache) FROM {site.database}.request_log")
    assert (requests, hits, images, all_hits) == (rows, cached, entries, hit_count)
    assert hit_count == entries + cached
    [(user_requests, logged_users, visitors, visitor_rows)] = node.query(
        f"SELECT (SELECT SUM(requests) FROM {site.database}.stats_user),"
        f" (SELECT COUNT(user_id) FROM {site.database}.request_log),"
        f" (SELECT SUM(visitors) FROM {site.database}.stats_visitor_count),"
        f" (SELECT COUNT(*) FROM {site.database}.stats_visitor)"
    )
    assert (user_requests, visitors) == (logged_users, visitor_rows)
    assert node.query(f"SELECT COUNT(*) FROM {site.database}.model_call_lease") == [(0,)]


def check_nodes_agree(site: Site) -> None:
    """All nodes hold the same rows."""

    # MariaDB's CHECKSUM TABLE has been seen to differ between nodes with the same rows in every column.
    def columns(table: Table) -> str:
        return ", ".join(f"IFNULL({column.name}, 'NULL')" for column in table.columns)

    sums = [
        f"SELECT COUNT(*), SUM(CRC32(CONCAT_WS('/', {columns(table)}))) FROM {site.database}.{table.name}"
        for table in metadata.sorted_tables
    ]

    def agree() -> bool:
        first, *others = ([node.query(each) for each in sums] for node in site.cluster.nodes)
        return all(other == first for other in others)

    wait_until(agree, "the nodes hold the same rows", 20)
