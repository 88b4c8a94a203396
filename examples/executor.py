"""The standard library's executor interface, on a file: what is submitted survives the end of the program."""

import tempfile
from concurrent.futures import as_completed
from pathlib import Path

from thirdshift import Executor


def square(number: int) -> int:
    return number * number


def main() -> None:
    database = Path(tempfile.gettempdir()) / "thirdshift-executor.db"
    with Executor(max_workers=4, name="squares", database=database) as executor:
        futures = [executor.submit(square, number) for number in range(10)]
        print("as they come:", sorted(future.result() for future in as_completed(futures)))
        print("in order:", list(executor.map(square, range(1000), chunksize=100))[-1])
    with Executor.attach("squares", database=database) as executor:  # another program, some other day
        print("completed:", sum(future.result() is not None for future in executor.futures.values()))


if __name__ == "__main__":
    main()
