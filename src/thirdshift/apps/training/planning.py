"""Making a plan: a file is read and tokenised once, its examination is set apart, and everything is frozen by hash."""

import json
import math
from array import array
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.batches import Integers
from thirdshift.apps.training.encoding import encode_row, padding_id
from thirdshift.apps.training.model import context_of, model_hash, tokenizer_hash
from thirdshift.apps.training.plan import Plan, PlanFacts, Tokens
from thirdshift.apps.training.rows import BadLine, BadRow, Row, read_rows
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.storage.verified import hash_file, publish

ROWS_FOR_AN_EXAMINATION = 20  # from so many rows on at least one is held out, however small the percentage


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
    context = min(settings.max_context, context_of(base))
    read = _read(data, tokenizer, context, should_stop)
    if read is None:
        return None
    tokens, digests, cut = read
    held_out = _held_out(digests, settings)
    is_trained = np.array([digest not in held_out for digest in digests])
    tokens = _only(tokens, is_trained, len(tokenizer))
    rows = int(is_trained.sum())
    steps_per_epoch = math.ceil(rows / settings.batch_size)
    facts = PlanFacts(
        data_name=data.name,
        data_hash=hash_file(data),
        base_hash=model_hash(base),
        tokenizer_hash=tokenizer_hash(base),
        seed=seed,
        context=context,
        pad_id=padding_id(tokenizer),
        settings=PlanSettings(**{field.name: getattr(settings, field.name) for field in fields(PlanSettings)}),
        rows=rows,
        held_out_rows=len(held_out),
        cut_rows=int(np.count_nonzero(cut[is_trained])),
        tokens=len(tokens.ids),
        trained_tokens=int(np.count_nonzero(tokens.trained)),
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * settings.epochs,
    )
    facts = replace(facts, plan_hash=_hash_of(facts, tokens))
    publish(
        directory, lambda folder: _write(folder, facts, tokens, data, held_out), facts={"plan_hash": facts.plan_hash}
    )
    return Plan.load(directory)


def _read(
    data: Path, tokenizer: Any, context: int, should_stop: Callable[[], bool]
) -> tuple[Tokens, list[str], Integers] | None:
    """Return the tokens of all rows, the digest of each ("" for plain text) and the tokens each has lost."""
    ids, trained, offsets, cut = array("I"), array("B"), array("q", [0]), array("q")
    digests: list[str] = []
    for line, row in read_rows(data):
        if should_stop():
            return None
        try:
            encoded = encode_row(row, tokenizer, context)
        except BadRow as problem:
            raise BadLine(data, line, problem.why) from problem
        ids.extend(encoded.ids)
        trained.extend(encoded.trained)
        offsets.append(len(ids))
        cut.append(encoded.cut)
        digests.append(_digest(row))
    tokens = Tokens(ids=np.asarray(ids), trained=np.asarray(trained), offsets=np.asarray(offsets))
    return tokens, digests, np.asarray(cut)


def _digest(row: Row) -> str:
    """Return a hash of what the row asks and answers; the same for the same conversation, whatever its form."""
    if row.text:
        return ""
    content = json.dumps([[message.role, message.content] for message in row.messages])
    return blake3(content.encode()).hexdigest()


def _held_out(digests: list[str], settings: PlanSettings) -> set[str]:
    """Return the digests of the rows that are never trained: those with the smallest hashes.

    A duplicate has the same digest, so it is held out with its twin. Plain text asks nothing and is always trained.
    """
    different = sorted(set(digests) - {""})
    count = round(len(different) * settings.held_out_percent / 100)
    if settings.held_out_percent and len(digests) >= ROWS_FOR_AN_EXAMINATION:
        count = max(count, 1)
    is_everything = len(different) == len(set(digests))
    return set(different[: min(count, settings.held_out_limit, len(different) - is_everything)])


def _only(tokens: Tokens, is_trained: Integers, vocabulary: int) -> Tokens:
    lengths = np.diff(tokens.offsets)
    keep = np.repeat(is_trained, lengths)
    return Tokens(
        ids=tokens.ids[keep].astype(np.uint16 if vocabulary <= 2**16 else np.uint32),
        trained=tokens.trained[keep].astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths[is_trained])]).astype(np.int64),
    )


def _hash_of(facts: PlanFacts, tokens: Tokens) -> str:
    hasher = blake3(json.dumps(asdict(facts), sort_keys=True).encode())
    for part in (tokens.ids, tokens.trained, tokens.offsets):
        hasher.update(part.tobytes())
    return hasher.hexdigest()


def _write(folder: Path, facts: PlanFacts, tokens: Tokens, data: Path, held_out: set[str]) -> None:
    np.save(folder / "tokens.npy", tokens.ids)
    np.save(folder / "loss_mask.npy", tokens.trained)
    np.save(folder / "offsets.npy", tokens.offsets)
    _write_held_out(folder / "held_out.jsonl", data, held_out)
    (folder / "plan.json").write_text(json.dumps(asdict(facts), indent=1))


def _write_held_out(path: Path, data: Path, held_out: set[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        written: set[str] = set()
        for _, row in read_rows(data):
            digest = _digest(row)
            if digest in held_out and digest not in written:
                written.add(digest)
                file.write(json.dumps(asdict(row)) + "\n")
