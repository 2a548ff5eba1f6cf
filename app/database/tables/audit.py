"""The audit log: who did what that an operator may have to answer for."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import ACCOUNT_OPTIONS, Base, UnsignedBigInteger, UtcDateTime


class AuditEntry(Base):
    """One event. No passwords, keys or tokens are in it, and no picture's description."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(UnsignedBigInteger, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, comment="时间(UTC)")
    actor: Mapped[str] = mapped_column(String(128), comment="操作者")
    action: Mapped[str] = mapped_column(String(64), comment="操作")
    subject: Mapped[str | None] = mapped_column(String(128), comment="对象")
    ip_address: Mapped[str | None] = mapped_column(String(45), comment="IP地址")
    details: Mapped[dict[str, Any]] = mapped_column(JSON, comment="详情")

    __table_args__ = (
        Index("idx_at", "at"),
        Index("idx_subject", "subject", "at"),
        {"comment": "审计日志", **ACCOUNT_OPTIONS},
    )
