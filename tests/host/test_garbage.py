"""A full collection costs what was made since, not all that is loaded."""

import gc
import weakref

from thirdshift.host.garbage import loaded_objects_frozen


class _Cycle:
    """Something that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_loaded_is_passed_over() -> None:
    """Inside the block alone."""
    assert gc.get_freeze_count() == 0
    with loaded_objects_frozen():
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < 1000
    assert gc.get_freeze_count() == 0


def test_what_becomes_garbage_is_freed() -> None:
    """At once where it was made inside the block, at its end where it was there before."""
    before = _Cycle()
    of_before = weakref.ref(before)
    with loaded_objects_frozen():
        inside = _Cycle()
        of_inside = weakref.ref(inside)
        del before, inside
        gc.collect()
        assert of_inside() is None
        assert of_before() is not None
    gc.collect()
    assert of_before() is None
