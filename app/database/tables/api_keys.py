"""API keys; a key itself is kept nowhere."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import ACCOUNT_OPTIONS, Base, UnsignedBigInteger, UnsignedInteger, UtcDateTime


class ApiKey(Base):
    """One key; `key_hash` is the SHA-256 of its text, in hex."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64), comment="名称")
    key_hash: Mapped[str] = mapped_column(String(64), comment="密钥的SHA-256")
    scopes: Mapped[str] = mapped_column(String(64), comment="权限")
    budget_micros: Mapped[int | None] = mapped_column(UnsignedBigInteger, comment="每日预算")
    rate_per_minute: Mapped[int | None] = mapped_column(UnsignedInteger, comment="每分钟请求数")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="创建时间")
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="过期时间")
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="吊销时间")

    __table_args__ = (
        Index("uk_key_hash", "key_hash", unique=True),
        {"comment": "API密钥", **ACCOUNT_OPTIONS},
    )
