"""Tasks to submit, for those who work with an engine directly."""

from dataclasses import replace
from itertools import count

from thirdshift.core import codec
from thirdshift.core.task import NewTask, PoolKind, TaskSpec

_ids = count(1)


def new_task(**changes: object) -> NewTask:
    """Return a task of its own id; *changes* are its ``id``, its ``arguments`` and fields of :class:`TaskSpec`."""
    task_id = changes.pop("id", f"{next(_ids):032x}")
    arguments = changes.pop("arguments", codec.encode_arguments((1,), {}))
    plain = TaskSpec(name="echo", function="thirdshift.testing.functions:echo", queue="default", pool=PoolKind.THREAD)
    spec = replace(plain, **changes)  # type: ignore[arg-type]  # the fields' types are the caller's business
    return NewTask(task_id, arguments, spec)  # type: ignore[arg-type]
