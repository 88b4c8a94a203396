"""Making a plan: a file is read and tokenised once, its examination is set apart, and everything is frozen by hash.

Rows go to disk as they come: a file of any size is planned in the memory of a few thousand rows.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.data.batches import Integers
from thirdshift.apps.training.data.encoding import encode_row, padding_id
from thirdshift.apps.training.data.examination import HoldOut
from thirdshift.apps.training.data.replay import (
    Replay,
    ReplaySource,
    chosen,
    dealt,
    drawn_rows,
    rows_to_replay,
)
from thirdshift.apps.training.data.reservoir import Reservoir
from thirdshift.apps.training.data.row_files import digest_of, write_row_file
from thirdshift.apps.training.data.rows import BadLine, BadRow, Row, read_rows
from thirdshift.apps.training.models.model import context_of, model_hash, tokenizer_hash
from thirdshift.apps.training.plans.plan import FOR_REPLAY, HELD_OUT, Plan, PlanFacts
from thirdshift.apps.training.plans.token_files import TokenFiles
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.storage.verified import hash_file, publish

_NOTHING = Replay()
_ROWS_A_REPORT = 1000


class _Stopped(Exception):
    """Planning was asked to stop."""


def build_plan(
    data: Path,
    directory: Path,
    *,
    base: Path,
    tokenizer: Any,
    settings: PlanSettings,
    seed: int = 0,
    replay: Replay = _NOTHING,
    should_stop: Callable[[], bool] = lambda: False,
    on_share: Callable[[float], None] = lambda _share: None,
) -> Plan | None:
    """Tokenise *data* for the model in *base* and write the plan to *directory*, which appears only when whole.

    Rows of *replay* are mixed in; a source that is missing or was changed is named in the plan's facts, and left out.
    *on_share* is told now and then how much of *data* is done, from 0 to 1.

    Returns None when *should_stop* became true. Raises :class:`BadLine` at a line that is no row or does not fit.
    The same arguments give the same plan, to the byte.
    """
    sources = PlanFacts(
        data_name=data.name,
        data_hash=hash_file(data),
        base_hash=model_hash(base),
        tokenizer_hash=tokenizer_hash(base),
        seed=seed,
        context=min(settings.max_context, context_of(base)),
        pad_id=padding_id(tokenizer),
        settings=PlanSettings(**{field.name: getattr(settings, field.name) for field in fields(PlanSettings)}),
    )

    def fill(folder: Path) -> None:
        facts = _write_rows(folder, _rows_of(data, should_stop, on_share), data, tokenizer, sources, replay)
        facts = replace(facts, plan_hash=_hash_of(facts, folder))
        (folder / "plan.json").write_text(json.dumps(asdict(facts), indent=1))

    try:
        publish(directory, fill)
    except _Stopped:
        return None
    return Plan.load(directory)


def _rows_of(
    data: Path, should_stop: Callable[[], bool], on_share: Callable[[float], None]
) -> Iterator[tuple[int, Row]]:
    """Yield line number and row; raises :class:`_Stopped` when it is asked to stop."""
    size_bytes, read_bytes = max(1, data.stat().st_size), 0

    def count(content: bytes) -> None:
        nonlocal read_bytes
        read_bytes += len(content)

    for number, row in enumerate(read_rows(data, count)):
        if should_stop():
            raise _Stopped
        if number % _ROWS_A_REPORT == 0:
            on_share(read_bytes / size_bytes)
        yield row


def _write_rows(
    folder: Path,
    numbered_rows: Iterable[tuple[int, Row]],
    data: Path,
    tokenizer: Any,
    facts: PlanFacts,
    replay: Replay,
) -> PlanFacts:
    """Write tokens, mask, rows, examination and what later files may replay; return *facts* with the counts."""
    hold_out, reservoir = HoldOut(facts.settings), Reservoir(facts.settings.replay_keep)
    with TokenFiles(folder, len(tokenizer)) as files:
        for line, row in numbered_rows:
            try:
                encoded = encode_row(row, tokenizer, facts.context)
            except BadRow as problem:
                raise BadLine(data, line, problem.why) from problem
            files.add(encoded)
            hold_out.see(row)
            reservoir.see(row)
        held_out, left_out = hold_out.chosen()
        own, asked = files.count, {digest_of(row) for row in held_out}
        facts, replayed = _replayed(files, own - len(left_out), tokenizer, facts, replay, asked)
        rows = files.finish(own, np.asarray(left_out), replayed)
    write_row_file(folder / HELD_OUT, held_out)
    write_row_file(folder / FOR_REPLAY, reservoir.chosen(asked))
    own_rows = rows[: len(rows) - len(replayed)]
    steps_per_epoch = math.ceil((len(own_rows) + facts.replay_rows) / facts.settings.batch_size)
    return replace(
        facts,
        rows=len(own_rows),
        held_out_rows=len(held_out),
        cut_rows=int(np.count_nonzero(own_rows["cut"])),
        tokens=int(own_rows["length"].sum(dtype=np.int64)),
        trained_tokens=int(own_rows["answer"].sum(dtype=np.int64)),
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * facts.settings.epochs,
    )


def _replayed(
    files: TokenFiles, trained_rows: int, tokenizer: Any, facts: PlanFacts, replay: Replay, asked: set[int]
) -> tuple[PlanFacts, Integers]:
    """Add rows of earlier files to *files*; return *facts* with their sources, and the numbers for every epoch."""
    in_epoch = rows_to_replay(trained_rows, facts.settings.replay_percent)
    total = in_epoch * facts.settings.epochs
    sources: list[ReplaySource] = []
    first_rows, counts, missing = [], [], []
    never = frozenset(asked) | replay.examined
    candidates = chosen(replay.kept, total, facts.data_hash)
    for kept in candidates:
        if trouble := kept.trouble():
            missing.append(trouble)
            continue
        first = files.count
        for row in drawn_rows(kept, math.ceil(total / len(candidates)), facts.data_hash, never):
            with contextlib.suppress(BadRow):  # it was trained by a model with more context, or another template
                files.add(encode_row(row, tokenizer, facts.context))
        if files.count > first:
            sources.append(kept.source)
            first_rows.append(first)
            counts.append(files.count - first)
    facts = replace(facts, replay=tuple(sources), replay_missing=tuple(missing))
    if not sources:
        return facts, np.zeros(0, dtype=np.int64)
    return replace(facts, replay_rows=in_epoch), dealt(first_rows, counts, total)


def _hash_of(facts: PlanFacts, folder: Path) -> str:
    hasher = blake3(json.dumps(asdict(facts), sort_keys=True).encode())
    for name in ("tokens.npy", "loss_mask.npy", "rows.npy", HELD_OUT):
        hasher.update(f"{name} {hash_file(folder / name)}\n".encode())
    return hasher.hexdigest()
