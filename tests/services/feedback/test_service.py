"""Votes: who counts as whom, when enough agree, and what is never changed by users."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.categories import Category
from app.clock import utc_now
from app.database.retention import delete_in_batches
from app.database.tables.audit import AuditEntry
from app.database.tables.classification import CachedImage
from app.database.tables.feedback import FeedbackVote
from app.errors import CacheEntryNotFound, InvalidRequest, RequestNotFound
from app.services.cache.entry import FEEDBACK_MODEL, CachedResult
from app.services.cache.service import CacheService
from app.services.feedback.service import Feedback
from app.services.feedback.voter import voter_of
from app.services.feedback.votes import delete_votes_before
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import Caller
from tests.support import records
from tests.support.cache_processes import IMAGE, result, save, service, started
from tests.support.corrections import OPERATOR, correct, review_of
from tests.support.databases import recorder_on
from tests.support.feedback import feedback_on, say

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
PETS, FOODS, OTHER = Category.PETS, Category.FOODS, Category.OTHER
CORRECTED = CachedResult(PETS, 1.0, None, FEEDBACK_MODEL)


@pytest.fixture
async def cache(engine: AsyncEngine) -> CacheService:
    """A cache in which one photo is wrongly called food."""
    cache = service(engine)
    await save(cache, IMAGE, result(FOODS), model="m")
    return cache


async def votes(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(FeedbackVote)) or 0


async def test_an_entry_is_corrected_when_the_last_of_a_quorum_agrees(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache)
    for number in (1, 2):
        receipt = await say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}")
        assert (receipt.replaced, receipt.agrees, receipt.corrected) == (False, False, False)
    before = await cache.get(IMAGE)
    assert before is not None
    assert before.category is FOODS
    assert (await say(feedback, PETS, "user-3", address="192.0.2.3")).corrected
    assert await cache.get(IMAGE) == CORRECTED
    async with engine.connect() as connection:
        row = (await connection.execute(select(CachedImage.__table__))).one()
        event = (await connection.execute(select(AuditEntry.__table__))).one()
    assert row.model_response == {"confidence_source": "corrected"}
    assert (event.action, event.actor, event.subject) == ("cache_entry.corrected", "feedback", IMAGE)
    assert (event.details, event.ip_address) == ({"category": "pets", "users": 3}, None)
    # No later answer of a model replaces it.
    assert await save(cache, IMAGE, result(OTHER), model="m") == CORRECTED


async def test_one_caller_alone_cannot(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache)
    for number in range(10):
        # Invented users from one network, one user from everywhere, a whole /48, one key with many users.
        one = await say(feedback, PETS, f"invented-{number}")
        two = await say(feedback, OTHER, "one", address=f"198.51.100.{number}")
        three = await say(feedback, Category.SCREENSHOT, f"six-{number}", address=f"2001:db8:0:{number}::{number + 1}")
        four = await say(feedback, Category.IDCARD, f"of-key-{number}", key_id=7)
        five = await say(feedback, Category.SINGLE_PERSON, None, address=None)
        assert not any(each.corrected for each in (one, two, three, four, five))
    found = await cache.get(IMAGE)
    assert found is not None
    assert found.category is FOODS


@pytest.mark.parametrize(
    "named", [{"key_id": None}, {"account_id": None}, {"is_device": True}], ids=["keys", "accounts", "devices"]
)
async def test_callers_with_a_credential_count_from_one_address(
    engine: AsyncEngine, cache: CacheService, named: dict[str, Any]
) -> None:
    feedback = feedback_on(engine, cache)
    for number in (1, 2, 3):
        who: dict[str, Any] = {name: value or number for name, value in named.items()}
        receipt = await say(feedback, PETS, f"user-{number}", **who)
    assert receipt.corrected


@ON_SQLITE
async def test_accounts_that_any_client_may_make_count_with_their_networks(
    engine: AsyncEngine, cache: CacheService
) -> None:
    feedback = feedback_on(engine, cache)
    for number in range(4):
        receipt = await say(feedback, PETS, f"account:{number + 1}", account_id=number + 1, is_sign_up_open=True)
        assert not receipt.corrected
    # Two networks; with an invented user of the first one they are no more.
    receipt = await say(feedback, PETS, "account:5", account_id=5, is_sign_up_open=True, address="192.0.2.2")
    assert not receipt.corrected
    assert not (await say(feedback, PETS, "ann")).corrected
    # Where the operator alone makes accounts, each counts.
    assert (await say(feedback, PETS, "account:6", account_id=6)).corrected


async def test_the_same_user_s_next_word_replaces_the_last(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache, quorum=2)
    assert not (await say(feedback, PETS, "ann")).replaced
    assert (await say(feedback, PETS, "ann")).replaced
    assert (await say(feedback, FOODS, "ann")).agrees
    assert await votes(engine) == 1
    # Ann no longer says so.
    assert not (await say(feedback, PETS, "bob", address="192.0.2.2")).corrected
    assert (await say(feedback, PETS, "eve", address="192.0.2.3")).corrected
    found = await cache.get(IMAGE)
    assert found is not None
    # Two of three: their share is the confidence.
    assert (found.category, found.confidence) == (PETS, 0.6667)


async def test_more_have_to_say_so_than_say_anything_else(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache, quorum=2)
    for number in (1, 2):
        await say(feedback, FOODS, f"user-{number}", address=f"192.0.2.{number}")
    for number in (3, 4):
        assert not (await say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}")).corrected
    assert (await say(feedback, PETS, "user-5", address="192.0.2.5")).corrected


async def test_users_change_no_entry_of_an_operator_and_none_without_a_quorum(
    engine: AsyncEngine, cache: CacheService
) -> None:
    for quorum, is_corrected in ((0, False), (1, True)):
        feedback = feedback_on(engine, cache, quorum=quorum)
        assert (await say(feedback, PETS, f"user-{quorum}")).corrected is is_corrected
    entry = await correct(cache, IMAGE, OTHER, "a chart")
    for number in range(5):
        assert not (await say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}")).corrected
    assert await cache.get(IMAGE) == entry


async def test_an_undone_correction_is_not_made_again_by_the_next_vote(
    engine: AsyncEngine, cache: CacheService
) -> None:
    original = await cache.get(IMAGE)
    feedback = feedback_on(engine, cache, quorum=2)
    for number in (1, 2):
        await say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}")
    await review_of(cache).undo(IMAGE, OPERATOR)
    assert await cache.get(IMAGE) == original
    # Nor by the same users, who say it again.
    for number in (1, 2, 3):
        assert not (await say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}")).corrected
    assert (await say(feedback, PETS, "user-4", address="192.0.2.4")).corrected


@ON_SQLITE
@pytest.mark.parametrize("how", ["undo", "correct"])
async def test_users_who_were_overruled_have_no_more_say_nor_have_new_ones_of_their_networks(
    engine: AsyncEngine, cache: CacheService, how: str
) -> None:
    feedback, review = feedback_on(engine, cache, quorum=2), review_of(cache)
    addresses = {"ann": "192.0.2.1", "bob": "192.0.2.2"}
    receipts = [await say(feedback, PETS, user, address=address) for user, address in addresses.items()]
    assert receipts[-1].corrected
    if how == "undo":
        await review.undo(IMAGE, OPERATOR)
    else:
        await review.correct(IMAGE, FOODS, None, OPERATOR)
        await review.ask_again(IMAGE, OPERATOR)
        await save(cache, IMAGE, result(FOODS), model="m")
    for user, address in addresses.items():
        for category in (OTHER, PETS):
            # The same users over a detour, from elsewhere, and new ones from the same networks.
            assert not (await say(feedback, category, user, address=address)).corrected
            assert not (await say(feedback, category, user, address=f"198.51.100.{len(user + category)}")).corrected
            assert not (await say(feedback, category, f"new-{user}", address=address)).corrected
    # Who names an account counts from wherever it is, and others count from elsewhere.
    assert not (await say(feedback, PETS, "account:1", account_id=1)).corrected
    assert (await say(feedback, PETS, "eve", address="192.0.2.3")).corrected


@ON_SQLITE
async def test_of_a_network_a_photo_has_so_many_votes(
    engine: AsyncEngine, cache: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.feedback.votes.MAX_VOTES_OF_NETWORK", 3)
    feedback = feedback_on(engine, cache, quorum=2)
    await say(feedback, PETS, "ann", address="192.0.2.2")
    await say(feedback, PETS, "of a key", key_id=1)
    await review_of(cache).dismiss(IMAGE, OPERATOR)
    for number in range(6):
        assert not (await say(feedback, PETS, f"user-{number}", address="192.0.2.2")).corrected
    assert await votes(engine) == 4
    # The oldest are gone, and with them what was overruled; the network is so still.
    assert not (await say(feedback, PETS, "ann", address="192.0.2.2")).replaced
    await say(feedback, PETS, "eve", address="192.0.2.3")
    assert not (await say(feedback, PETS, "user-9", address="192.0.2.2")).corrected


async def test_votes_at_the_same_moment_correct_once(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache)
    receipts = await asyncio.gather(
        *(say(feedback, PETS, f"user-{number}", address=f"192.0.2.{number}") for number in range(6)),
        *(say(feedback, PETS, "user-0", address="192.0.2.0") for _ in range(3)),
    )
    assert sum(receipt.corrected for receipt in receipts) == 1
    assert sum(receipt.replaced for receipt in receipts) == 3
    assert await votes(engine) == 6


async def test_other_processes_answer_with_it(engine: AsyncEngine) -> None:
    one, other = await started(engine), await started(engine)
    await save(one.cache, IMAGE, result(FOODS), model="m")
    await other.cache.get(IMAGE)
    assert (await say(feedback_on(engine, one.cache, quorum=1), PETS, "ann")).corrected
    await other.watch.look()
    assert await other.cache.get(IMAGE) == CORRECTED


async def test_a_request_id_names_the_photo(engine: AsyncEngine, cache: CacheService) -> None:
    logged = records.record(1, image_hash=IMAGE, category="foods")
    await recorder_on(engine).record([logged])
    feedback = feedback_on(engine, cache, quorum=1)
    voter = voter_of(Caller(user_id="ann", ip_address="192.0.2.1"), key_id=None, is_device=False, is_sign_up_open=False)
    for wrong, error in (
        (Feedback(PETS), InvalidRequest),
        (Feedback(PETS, request_id=logged.request_id, image_hash="b" * 64), InvalidRequest),
        (Feedback(PETS, request_id="req_0_0"), RequestNotFound),
        (Feedback(PETS, image_hash="b" * 64), CacheEntryNotFound),
    ):
        with pytest.raises(error):
            await feedback.give(wrong, voter)
    assert await votes(engine) == 0
    assert (await feedback.give(Feedback(PETS, request_id=logged.request_id), voter)).corrected


async def test_a_user_who_is_forgotten_leaves_no_vote(engine: AsyncEngine, cache: CacheService) -> None:
    feedback = feedback_on(engine, cache)
    await say(feedback, PETS, "ann", comment="my cat")
    await say(feedback, PETS, "ann", key_id=3)
    await say(feedback, PETS, "account:5", account_id=5)
    await say(feedback, PETS, "bob")
    privacy = PrivacyService(engine)
    exported = json.loads(b"".join([piece async for piece in await privacy.export("ann")]))["data"]["feedback"]
    assert [(row["category"], row["comment"]) for row in exported] == [("pets", "my cat"), ("pets", None)]
    assert {"voter", "counted_as", "network", "user_hash"}.isdisjoint(exported[0])
    await privacy.forget("ann")
    assert await votes(engine) == 2
    await privacy.forget("account:5")
    assert await votes(engine) == 1


async def test_no_id_and_no_address_is_kept(engine: AsyncEngine, cache: CacheService) -> None:
    await say(feedback_on(engine, cache), PETS, "ann-and-her-phone", address="192.0.2.77")
    async with engine.connect() as connection:
        [row] = (await connection.execute(select(FeedbackVote.__table__))).all()
    assert "ann" not in str(row)
    assert "192.0.2.77" not in str(row)


async def test_votes_age_out(engine: AsyncEngine, cache: CacheService) -> None:
    await say(feedback_on(engine, cache), PETS, "ann")
    for cutoff, deleted in ((utc_now() - timedelta(days=1), 0), (utc_now() + timedelta(days=1), 1)):

        async def delete(connection: Any, rows: int, cutoff: Any = cutoff) -> int:
            return await delete_votes_before(connection, cutoff, rows)

        assert await delete_in_batches(engine, delete) == deleted
