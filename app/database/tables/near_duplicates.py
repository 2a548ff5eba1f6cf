"""Near-duplicates: perceptual hashes of entries, entries that repeat another photo's, and what they saved."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import (
    TABLE_OPTIONS,
    Base,
    TinyUnsignedInteger,
    UnsignedBigInteger,
    UnsignedInteger,
    UtcDateTime,
)


class PerceptualHash(Base):
    """The perceptual hash of an entry that a model has answered, and its bands (app/services/near_duplicates/bands.py).

    Each index holds all that a look-up by its band reads. `hash` is signed, which every database has: that of 2^63 and
    more is stored less 2^64.
    """

    __tablename__ = "perceptual_hash"

    entry_id: Mapped[int] = mapped_column(
        UnsignedBigInteger,
        ForeignKey("image_classification_cache.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="缓存条目",
    )
    hash: Mapped[int] = mapped_column(BigInteger, comment="64位感知哈希")
    band_1: Mapped[int] = mapped_column(UnsignedInteger, comment="第1段")
    band_2: Mapped[int] = mapped_column(UnsignedInteger, comment="第2段")
    band_3: Mapped[int] = mapped_column(UnsignedInteger, comment="第3段")

    __table_args__ = (
        Index("idx_band_1", "band_1", "hash"),
        Index("idx_band_2", "band_2", "hash"),
        Index("idx_band_3", "band_3", "hash"),
        {"comment": "缓存图片的感知哈希", **TABLE_OPTIONS},
    )


class CacheAlias(Base):
    """An entry whose answer is that of another photo's entry, which it follows when that is changed."""

    __tablename__ = "cache_alias"

    entry_id: Mapped[int] = mapped_column(
        UnsignedBigInteger,
        ForeignKey("image_classification_cache.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="相似照片的缓存条目",
    )
    original_id: Mapped[int] = mapped_column(
        UnsignedBigInteger, ForeignKey("image_classification_cache.id", ondelete="CASCADE"), comment="原照片的缓存条目"
    )
    distance: Mapped[int] = mapped_column(TinyUnsignedInteger, comment="感知哈希的汉明距离")

    __table_args__ = (
        Index("idx_original_id", "original_id"),
        {"comment": "相似照片的别名", **TABLE_OPTIONS},
    )


class SimilarPeriod(Base):
    """How many answers were those of a similar photo, and what they saved; sharded as `PeriodTotals`."""

    __tablename__ = "stats_similar"

    period_start: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, comment="时段开始(UTC, 15分钟)")
    shard: Mapped[int] = mapped_column(TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片")
    hits: Mapped[int] = mapped_column(UnsignedBigInteger, comment="相似命中数")
    saved_micros: Mapped[int] = mapped_column(UnsignedBigInteger, comment="节省的费用(CURRENCY的百万分之一)")

    __table_args__ = ({"comment": "分时段相似命中", **TABLE_OPTIONS},)
