"""The same with SQLAlchemy, whose session holds the objects and the task; `pip install thirdshift[sqlalchemy]`."""

import tempfile
from pathlib import Path

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from thirdshift import BackgroundTaskManager, TaskHandle, current_task


class Base(DeclarativeBase):
    pass


class Parcel(Base):
    __tablename__ = "parcel"
    id: Mapped[int] = mapped_column(primary_key=True)
    shipped: Mapped[int] = mapped_column(default=0)


def engine_of(database: str | Path) -> Engine:
    return create_engine(f"sqlite:///{database}")


def order(manager: BackgroundTaskManager, session: Session, parcel: int) -> TaskHandle[str]:
    """Store the parcel and the task that ships it: both, or neither."""
    with manager.transaction(session) as tx:
        session.add(Parcel(id=parcel))
        return tx.submit(ship, manager.database, parcel)


def ship(database: str, parcel: int) -> str:
    """Ship once, however often the process is killed: the row changes in the transaction that completes the task."""
    engine = engine_of(database)
    with Session(engine) as session, current_task().commit(session) as done:
        session.get_one(Parcel, parcel).shipped += 1
        done.result = f"parcel {parcel} is on its way"
    engine.dispose()
    return str(done.result)


def main() -> None:
    database = Path(tempfile.mkdtemp()) / "shop.db"
    engine = engine_of(database)
    with BackgroundTaskManager(database=database) as manager, Session(engine) as session:
        Base.metadata.create_all(engine)
        handles = [order(manager, session, parcel) for parcel in range(3)]
        for handle in handles:
            print(handle.result(timeout=10), handle.status.value)
        print([(parcel.id, parcel.shipped) for parcel in session.query(Parcel)])
        session.rollback()
    engine.dispose()


if __name__ == "__main__":
    main()
