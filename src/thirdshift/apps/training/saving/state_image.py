"""The files of a checkpoint as they will be on disk, laid out in staged memory, so that saving is only a copy.

What the weights' file looks like is transformers' affair: it writes one at the start, and we keep its header. Then the
staged bytes are compared with that file; a family of models whose tensors are stored otherwise than they are held is
noticed there, and is written by transformers at every checkpoint, which is slower.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thirdshift.apps.training.saving.checkpoint_saver import StagedFile
from thirdshift.apps.training.saving.ledger import LEDGER_FILE
from thirdshift.apps.training.saving.staging import StagingBuffer
from thirdshift.apps.training.saving.state import MOMENTS, OPTIMIZER_FILE

WEIGHTS_FILE = "model.safetensors"
_ALIGN_BYTES = 4096
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
_DTYPES |= {"BOOL": torch.bool}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    name: str
    dtype: torch.dtype
    shape: Sequence[int]
    begin: int
    """First byte, counted from the end of the header."""
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _StagedTensors:
    """A safetensors file in staged memory: its header, and for the name of each tensor the memory it is copied to."""

    header: bytes
    places: Mapping[str, torch.Tensor]
    size_bytes: int

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, place in self.places.items():
            place.copy_(tensors[name].detach())


class StateImage:
    """Weights, optimizer, tokenizer and ledger of one training in a buffer of its own.

    Raises ``NoRoom`` when there is no memory for it. *scratch* is a folder that may be made and is removed again.
    """

    def __init__(
        self,
        *,
        model: Any,
        optimizer: torch.optim.Optimizer,
        tokenizer_files: Mapping[str, bytes],
        rows: int,
        scratch: Path,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scratch = scratch
        self._named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        try:
            self._write_by_transformers()
            small = [path for path in sorted(scratch.iterdir()) if path.name != WEIGHTS_FILE]
            self._small = {**{path.name: path.read_bytes() for path in small}, **tokenizer_files}
            weights = scratch / WEIGHTS_FILE
            self._weights_bytes = weights.stat().st_size
            self._weights_header = _header_of(weights)
            self._weights = _tensors_of(self._weights_header)
            self.buffer = StagingBuffer(self._capacity(rows))
            self._bytes = torch.frombuffer(self.buffer.view, dtype=torch.uint8)
            self._weights_places = self._placed(0, self._weights_header, self._weights)
            self._optimizer_places: _StagedTensors | None = None
            self.is_direct = self._holds_what_it_stores() and self._stages_as(weights)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def stage(self, ledger: bytes) -> list[StagedFile]:
        """Copy the state as it is into the buffer; returns the files and where their bytes lie."""
        with _one_thread():
            files = [self._stage_weights()]
            files.append(self._stage_optimizer(_after(files)))
        for name, content in [*self._small.items(), (LEDGER_FILE, ledger)]:
            files.append((name, _after(files), len(content)))
            self._put(files[-1][1], content)
        return files

    def close(self) -> None:
        """Give the memory back."""
        self.buffer.close()

    def _stage_weights(self) -> StagedFile:
        if self.is_direct:
            self._put(0, self._weights_header)
            self._weights_places.copy(self._model.state_dict())
        else:
            try:
                self._write_by_transformers()
                self._put(0, (self._scratch / WEIGHTS_FILE).read_bytes())
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)
        return (WEIGHTS_FILE, 0, self._weights_bytes)

    def _stage_optimizer(self, offset: int) -> StagedFile:
        """Parameters that have had no gradient yet have no state, and no place in the file."""
        found = dict(self._moments())
        places = self._optimizer_places
        if places is None or places.places.keys() != found.keys():
            tensors = _laid_out(found)
            places = self._optimizer_places = self._placed(offset, _header(tensors), tensors)
        self._put(offset, places.header)
        places.copy(found)
        return (OPTIMIZER_FILE, offset, places.size_bytes)

    def _moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._named:
            if state := self._optimizer.state.get(parameter):
                yield from ((f"{name}.{moment}", state[moment]) for moment in MOMENTS)

    def _capacity(self, rows: int) -> int:
        expected = {
            f"{name}.{moment}": torch.empty(each.shape if moment != "step" else (), dtype=each.dtype, device="meta")
            for name, each in self._named
            for moment in MOMENTS
        }
        tensors = _laid_out(expected)
        optimizer_bytes = len(_header(tensors)) + (tensors[-1].end if tensors else 0)
        sizes = [self._weights_bytes, optimizer_bytes, 4 * rows, *map(len, self._small.values())]
        return sum(size + 2 * _ALIGN_BYTES for size in sizes)

    def _holds_what_it_stores(self) -> bool:
        state = self._model.state_dict()
        return all(
            each.name in state
            and list(state[each.name].shape) == list(each.shape)
            and state[each.name].dtype == each.dtype
            for each in self._weights
        )

    def _stages_as(self, written: Path) -> bool:
        self.is_direct = True
        self._stage_weights()
        expected = torch.from_file(str(written), size=self._weights_bytes, dtype=torch.uint8)
        return torch.equal(self._bytes[: self._weights_bytes], expected)

    def _write_by_transformers(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._model.save_pretrained(self._scratch, max_shard_size="1TB")

    def _put(self, offset: int, content: bytes) -> None:
        self.buffer.view[offset : offset + len(content)] = content

    def _placed(self, offset: int, header: bytes, tensors: Sequence[_Tensor]) -> _StagedTensors:
        """Return the file of *tensors* at *offset* of the staged memory."""
        first = offset + len(header)
        places = {
            each.name: self._bytes[first + each.begin : first + each.end].view(each.dtype).view(tuple(each.shape))
            for each in tensors
        }
        size_bytes = len(header) + max((each.end for each in tensors), default=0)
        return _StagedTensors(header=header, places=places, size_bytes=size_bytes)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Copy with one thread: it moves bytes as fast as memory does, and meets no other at hundreds of barriers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _after(files: Sequence[StagedFile]) -> int:
    _, offset, size_bytes = files[-1]
    return -(-(offset + size_bytes) // _ALIGN_BYTES) * _ALIGN_BYTES


def _laid_out(tensors: Mapping[str, torch.Tensor]) -> list[_Tensor]:
    """Return the places of *tensors*, one after the other; widest types first, so that each is aligned."""
    places: list[_Tensor] = []
    begin = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        end = begin + tensor.numel() * tensor.element_size()
        places.append(_Tensor(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape), begin=begin, end=end))
        begin = end
    return places


def _header(tensors: Sequence[_Tensor]) -> bytes:
    """Return the beginning of a safetensors file: its length in eight bytes, then JSON, padded to eight."""
    document = {
        each.name: {"dtype": _CODES[each.dtype], "shape": list(each.shape), "data_offsets": [each.begin, each.end]}
        for each in tensors
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header_of(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _tensors_of(header: bytes) -> list[_Tensor]:
    document = json.loads(header[8:])
    document.pop("__metadata__", None)
    return [
        _Tensor(name=name, dtype=_DTYPES[each["dtype"]], shape=each["shape"], begin=begin, end=end)
        for name, each in document.items()
        for begin, end in [each["data_offsets"]]
    ]
