"""Steps of a task function: what one of them returned is stored, and the next attempt does not do it again.

The idea is that of durable execution, in its smallest form: no replay of the whole function, only named calls.
"""

import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from thirdshift.core import codec
from thirdshift.core.errors import UsageError
from thirdshift.core.task import Step

_MOST_NAME_CHARACTERS = 200


class StepStore(Protocol):
    """Where one attempt finds what earlier ones did, and keeps what it does. Any thread may call it."""

    def load_steps(self) -> Sequence[Step]:
        """Return the steps that the task has done so far."""

    def keep_step(self, name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step; it is as durable as its task on return. Raises ``StepNotStored``."""


class Steps:
    """The steps of one attempt. Without a store, of a function that is called directly, each is simply done."""

    def __init__(self, store: StepStore | None) -> None:
        self._store = store
        self._mutex = threading.Lock()
        self._done: dict[str, tuple[str, bytes]] | None = None

    def run(self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what *function* returns, or returned when this step was done with the same arguments."""
        inputs = self._inputs(name, args, kwargs)
        found = self._find(name, inputs)
        if found is not None:
            return codec.decode_result(found)
        value = function(*args, **kwargs)
        if isinstance(value, Coroutine):
            value.close()
            raise UsageError(f"step {name!r}: {function!r} is an async function; say `await current_task().astep(…)`")
        self._keep(name, inputs, value)
        return value

    async def arun(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Do what :meth:`run` does, in a coroutine: *function* may be async, and the store is asked in a thread."""
        import asyncio  # noqa: PLC0415  # loaded already: there is a running loop

        inputs = self._inputs(name, args, kwargs)
        found = await asyncio.to_thread(self._find, name, inputs)
        if found is not None:
            return codec.decode_result(found)
        value = function(*args, **kwargs)
        if isinstance(value, Coroutine):
            value = await value
        await asyncio.to_thread(self._keep, name, inputs, value)
        return value

    def _inputs(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME_CHARACTERS:
            raise UsageError(f"the name of a step is a text of 1 to {_MOST_NAME_CHARACTERS} characters, not {name!r}")
        return codec.hash_of_arguments(args, kwargs)

    def _find(self, name: str, inputs: str) -> bytes | None:
        """Return the stored result of the step; with other arguments it is another one, to be done."""
        if self._store is None:
            return None
        with self._mutex:
            if self._done is None:
                self._done = {step.name: (step.inputs, step.encoded_result) for step in self._store.load_steps()}
            done_with, result = self._done.get(name, ("", b""))
        return result if done_with == inputs else None

    def _keep(self, name: str, inputs: str, value: Any) -> None:
        encoded = codec.encode_result(value, where=f"the result of step {name!r}")
        if self._store is not None and self._done is not None:
            self._store.keep_step(name, inputs, encoded)
            with self._mutex:
                self._done[name] = inputs, encoded
