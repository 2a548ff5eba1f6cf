"""Near-duplicates: perceptual hashes, entries that repeat another photo's answer, and what such answers saved."""

import sqlalchemy as sa
from alembic import op

from app.database.migration_steps import create_index, create_table
from app.database.tables.columns import TinyUnsignedInteger, UnsignedBigInteger, UnsignedInteger

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BANDS = (1, 2, 3)


def upgrade() -> None:
    entry = "image_classification_cache.id"
    create_table(
        "perceptual_hash",
        sa.Column(
            "entry_id",
            UnsignedBigInteger,
            sa.ForeignKey(entry, ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            comment="缓存条目",
        ),
        sa.Column("hash", sa.BigInteger, nullable=False, comment="64位感知哈希"),
        *(sa.Column(f"band_{band}", UnsignedInteger, nullable=False, comment=f"第{band}段") for band in BANDS),
        comment="缓存图片的感知哈希",
    )
    for band in BANDS:
        create_index("perceptual_hash", f"idx_band_{band}", f"band_{band}", "hash")
    create_table(
        "cache_alias",
        sa.Column(
            "entry_id",
            UnsignedBigInteger,
            sa.ForeignKey(entry, ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            comment="相似照片的缓存条目",
        ),
        sa.Column(
            "original_id",
            UnsignedBigInteger,
            sa.ForeignKey(entry, ondelete="CASCADE"),
            nullable=False,
            comment="原照片的缓存条目",
        ),
        sa.Column("distance", TinyUnsignedInteger, nullable=False, comment="感知哈希的汉明距离"),
        comment="相似照片的别名",
    )
    create_index("cache_alias", "idx_original_id", "original_id")
    create_table(
        "stats_similar",
        sa.Column("period_start", sa.DateTime, primary_key=True, comment="时段开始(UTC, 15分钟)"),
        sa.Column("shard", TinyUnsignedInteger, primary_key=True, autoincrement=False, comment="分片"),
        sa.Column("hits", UnsignedBigInteger, nullable=False, comment="相似命中数"),
        sa.Column("saved_micros", UnsignedBigInteger, nullable=False, comment="节省的费用(CURRENCY的百万分之一)"),
        comment="分时段相似命中",
    )


def downgrade() -> None:
    op.drop_table("stats_similar")
    op.drop_table("cache_alias")
    op.drop_table("perceptual_hash")
