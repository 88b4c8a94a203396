"""Making a plan: a file is read and tokenised once, its examination is set apart, and everything is frozen by hash.

Rows go to disk as they come: a file of any size is planned in the memory of a few thousand rows.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.encoding import encode_row, padding_id
from thirdshift.apps.training.examination import HoldOut
from thirdshift.apps.training.model import context_of, model_hash, tokenizer_hash
from thirdshift.apps.training.plan import Plan, PlanFacts
from thirdshift.apps.training.rows import BadLine, BadRow, Row, read_rows
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.apps.training.token_files import TokenFiles
from thirdshift.storage.verified import hash_file, publish


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
    should_stop: Callable[[], bool] = lambda: False,
) -> Plan | None:
    """Tokenise *data* for the model in *base* and write the plan to *directory*, which appears only when whole.

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
        facts = _write_rows(folder, data, tokenizer, sources, should_stop)
        facts = replace(facts, plan_hash=_hash_of(facts, folder))
        (folder / "plan.json").write_text(json.dumps(asdict(facts), indent=1))

    try:
        publish(directory, fill)
    except _Stopped:
        return None
    return Plan.load(directory)


def _write_rows(
    folder: Path, data: Path, tokenizer: Any, facts: PlanFacts, should_stop: Callable[[], bool]
) -> PlanFacts:
    """Write tokens, mask, rows and examination; return *facts* with the counts."""
    hold_out = HoldOut(facts.settings)
    with TokenFiles(folder, len(tokenizer)) as files:
        for line, row in read_rows(data):
            if should_stop():
                raise _Stopped
            try:
                encoded = encode_row(row, tokenizer, facts.context)
            except BadRow as problem:
                raise BadLine(data, line, problem.why) from problem
            files.add(encoded)
            hold_out.see(row)
        held_out, left_out = hold_out.chosen()
        rows = files.finish(np.asarray(left_out))
    _write_held_out(folder / "held_out.jsonl", held_out)
    steps_per_epoch = math.ceil(len(rows) / facts.settings.batch_size)
    return replace(
        facts,
        rows=len(rows),
        held_out_rows=len(held_out),
        cut_rows=int(np.count_nonzero(rows["cut"])),
        tokens=int(rows["length"].sum(dtype=np.int64)),
        trained_tokens=int(rows["answer"].sum(dtype=np.int64)),
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * facts.settings.epochs,
    )


def _hash_of(facts: PlanFacts, folder: Path) -> str:
    hasher = blake3(json.dumps(asdict(facts), sort_keys=True).encode())
    for name in ("tokens.npy", "loss_mask.npy", "rows.npy", "held_out.jsonl"):
        hasher.update(f"{name} {hash_file(folder / name)}\n".encode())
    return hasher.hexdigest()


def _write_held_out(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
