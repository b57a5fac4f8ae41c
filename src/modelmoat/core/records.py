"""One row of results, the same for every command, and the files that hold rows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelmoat.core.errors import RunError
from modelmoat.core.files import append_line, atomic_path, read_lines

SCHEMA_VERSION: Final = 1
RECORDS_FILE = "records.jsonl"
PARQUET_FILE = "records.parquet"


class StepCost(BaseModel):
    """What one step of a chain of defenses changes in answers to the test set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: str = Field(description="the step")
    mean_l1: float = Field(description="mean L1 between what the step gets and what it gives")
    top1_changed: float = Field(description="share of rows whose top-1 the step changes")
    total_l1: float = Field(description="mean L1 between clean answers and what the step gives")
    total_top1_changed: float = Field(description="share of rows whose top-1 is no longer the clean one after the step")


class Record(BaseModel):
    """What one attack at one budget took from one defended victim.

    Shares lie in [0, 1]. Distances are L1 between rows of probabilities and lie in [0, 2]. Times are in seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    package_version: str
    cell: str = Field(description="hash of all that determines this row")
    created: str = Field(description="UTC, ISO 8601")

    victim: str = Field(description="reference of the victim")
    victim_digest: str = Field(description="hash of its weights or file")
    victim_arch: str
    victim_recipe: str
    int8_bytes: int | None = Field(default=None, description="size of the graph of an int8 victim; none for others")
    int8_agreement: float | None = Field(
        default=None,
        description="share of validation images with the same top-1 as simulated in training and as converted",
    )
    int8_float_agreement: float | None = Field(
        default=None, description="likewise of the int8 victim and the float32 network that it was made from"
    )
    output_kind: str = Field(description="probabilities, top-k or label")

    data: str = Field(description="reference of the victim's data")
    test_digest: str
    test_size: int
    pool: str = Field(description="reference of the attacker's inputs")
    pool_digest: str
    pool_size: int

    defense: str
    defense_inside: str | None = Field(
        default=None,
        description="defense inside the victim's file, which is there whatever else defends; none for none",
    )
    defense_stateful: bool = Field(default=False, description="whether answers depend on earlier queries")
    defense_keeps_top1: bool = Field(default=False, description="whether the served top-1 is always the clean one")
    attack: str
    attacker_knows: str = Field(description="what the attacker was given, in words")
    defense_aware: bool = Field(description="whether the attacker reckoned with a defense")
    budget: int = Field(description="inputs the attacker was allowed to send")
    seed: int
    sent: int = Field(description="inputs answered, repeats included")
    unique: int = Field(description="different inputs answered")
    accounts: int = Field(default=1, description="accounts that the attacker asked from")
    benign_share: float = Field(default=0.0, ge=0, lt=1, description="share of all traffic that was benign users'")

    victim_accuracy: float = Field(ge=0, le=1, description="of the undefended victim on the test set")
    defended_accuracy: float = Field(ge=0, le=1, description="of the served answers on the test set")
    mean_l1: float = Field(ge=0, le=2.001, description="mean L1 between clean and served answers")
    max_l1: float = Field(ge=0, le=2.001)
    top1_changed: float = Field(ge=0, le=1, description="share of test inputs whose top-1 the defense changed")
    defense_steps: list[StepCost] = Field(default=[], description="for a chain of defenses, what each step costs")
    calibration_error: float = Field(ge=0, le=1, description="expected calibration error, 15 bins, clean answers")
    defended_calibration_error: float = Field(ge=0, le=1)
    latency_ratio: float = Field(
        gt=0, description="time of a defended query over an undefended one, in the largest batch"
    )
    latency_ratios: dict[str, float] | None = Field(default=None, description="the same by batch size: 1, 32 and 256")
    latency_ms: dict[str, float] | None = Field(
        default=None, description="milliseconds per defended query, by batch size"
    )

    clone_arch: str
    clone_init: str | None = Field(default=None, description="weights that clones started from; none for random ones")
    clone_steps: int = Field(description="optimizer steps of the final clone")
    clone_accuracy: float = Field(ge=0, le=1, description="on true labels of the test set")
    fidelity: float = Field(ge=0, le=1, description="share of test inputs with the undefended victim's top-1")
    served_fidelity: float = Field(ge=0, le=1, description="share of test inputs with the served top-1")
    relative_accuracy: float = Field(ge=0, description="clone accuracy over victim accuracy")
    agreement: str = Field(description="per test input: clone and undefended victim agree; packed bits, base64")

    robust_attack: str | None = Field(default=None, description="evasion attack on victim and clone; none if not run")
    robust_epsilon: float | None = Field(default=None, ge=0, description="largest change of an image, pixels in [0, 1]")
    robust_norm: str | None = Field(default=None, description="what the change is measured in: linf or l2")
    robust_size: int | None = Field(default=None, description="test images attacked")
    robust_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="undefended victim under attack through its own gradients (int8: those of its simulated form); none "
        "where it has none",
    )
    clone_robust_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="clone under attack through its own gradients"
    )
    transfer: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of attacked images served rightly, share served wrongly once changed to fool the clone",
    )

    query_seconds: float
    train_seconds: float
    device: str
    precision: str

    def agreement_bits(self) -> NDArray[np.bool_]:
        """Per-sample agreement of clone and undefended victim, shape [test_size]."""
        packed = np.frombuffer(base64.b64decode(self.agreement), dtype=np.uint8)
        return np.unpackbits(packed, count=self.test_size).astype(np.bool_)


def pack_bits(flags: Iterable[bool]) -> str:
    """Booleans as base64 text of packed bits.

    >>> pack_bits([True, False, True])
    'oA=='
    """
    return base64.b64encode(np.packbits(np.fromiter(flags, dtype=np.bool_)).tobytes()).decode()


def append_record(directory: Path, record: Record) -> None:
    """Append one record to ``records.jsonl``."""
    append_line(directory / RECORDS_FILE, record.model_dump_json())


def read_records(directory: Path | str, *, repair: bool = True) -> list[Record]:
    """Records of a run directory, in the order in which they were written; raises `RunError` for a foreign row.

    Without ``repair`` a row that is cut short stays in the file, as `read_lines` has it.
    """
    path = Path(directory, RECORDS_FILE)
    records = []
    for number, line in enumerate(read_lines(path, repair=repair), start=1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise RunError(
                f"{path}, line {number}: {where}: {first['msg']}; this version reads schema {SCHEMA_VERSION}; "
                "fix: use the version that wrote the file, or another --out folder"
            ) from error
    return records


def write_parquet(directory: Path, records: Sequence[Record]) -> Path:
    """Write all records as one Parquet table beside the JSON lines."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / PARQUET_FILE
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([record.model_dump() for record in records]), temporary)
    return path
