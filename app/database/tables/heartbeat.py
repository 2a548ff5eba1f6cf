"""The heartbeats of the processes."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables.columns import TABLE_OPTIONS, Base, Milliseconds


class ProcessHeartbeat(Base):
    """A process renews its row while it owns what others may wait for, or waits itself (app/database/heartbeat.py)."""

    __tablename__ = "process_heartbeat"

    process_id: Mapped[str] = mapped_column(String(32), primary_key=True, comment="进程ID")
    beat_at: Mapped[datetime] = mapped_column(Milliseconds, comment="最近心跳时间")

    __table_args__ = ({"comment": "进程心跳", **TABLE_OPTIONS},)
