"""Tasks that wait for others: a chain, a group with one result, and a clean-up that runs however they end."""

import tempfile
from pathlib import Path

from thirdshift import BackgroundTaskManager


def pages_of(book: str) -> list[str]:
    """Return the pages of *book*."""
    return [f"{book}, page {number}" for number in range(1, 4)]


def count_words(page: str) -> int:
    """Return how many words *page* has."""
    return len(page.split())


def report(title: str, counts: list[int]) -> str:
    """Return what is told in the end."""
    return f"{title}: {sum(counts)} words on {len(counts)} pages"


def tidy_up() -> str:
    """Run whatever became of the others."""
    return "tidied up"


def main() -> None:
    database = Path(tempfile.mkdtemp()) / "books.db"
    with BackgroundTaskManager(database=database) as manager:
        with manager.batch() as batch:  # all are stored in one commit, or none
            counts = [batch.submit(count_words, page) for page in pages_of("Emma")]
            told = batch.submit(report, "Emma", [count.output for count in counts])  # waits for all of them
            last = batch.options(after_any_outcome=[told]).submit(tidy_up)
        print(told.result(timeout=10))
        print(last.result(timeout=10), last.status.value)


if __name__ == "__main__":
    main()
