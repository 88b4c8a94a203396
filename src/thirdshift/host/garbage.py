"""Python's collector of cycles, kept from looking through all that was loaded."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loaded_objects_frozen() -> Iterator[None]:
    """Let full collections inside the ``with`` block pass over every object that exists when it begins.

    A process with torch and transformers loaded has some hundred thousand objects that live as long as it does. Each
    full collection looks at all of them: a pause of 100 ms and more, at any allocation. What becomes garbage is freed
    as ever, but for cycles among the frozen objects, which are found after the block. Enter it in one thread at a time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
