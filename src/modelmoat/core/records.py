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
    output_kind: str = Field(description="probabilities, top-k or label")

    data: str = Field(description="reference of the victim's data")
    test_digest: str
    test_size: int
    pool: str = Field(description="reference of the attacker's inputs")
    pool_digest: str
    pool_size: int

    defense: str
    attack: str
    attacker_knows: str = Field(description="what the attacker was given, in words")
    defense_aware: bool = Field(description="whether the attacker reckoned with a defense")
    budget: int = Field(description="inputs the attacker was allowed to send")
    seed: int
    sent: int = Field(description="inputs answered, repeats included")
    unique: int = Field(description="different inputs answered")

    victim_accuracy: float = Field(ge=0, le=1, description="of the undefended victim on the test set")
    defended_accuracy: float = Field(ge=0, le=1, description="of the served answers on the test set")
    mean_l1: float = Field(ge=0, le=2.001, description="mean L1 between clean and served answers")
    max_l1: float = Field(ge=0, le=2.001)
    top1_changed: float = Field(ge=0, le=1, description="share of test inputs whose top-1 the defense changed")
    calibration_error: float = Field(ge=0, le=1, description="expected calibration error, 15 bins, clean answers")
    defended_calibration_error: float = Field(ge=0, le=1)
    latency_ratio: float = Field(gt=0, description="time of a defended query over an undefended one")

    clone_arch: str
    clone_steps: int = Field(description="optimizer steps of the final clone")
    clone_accuracy: float = Field(ge=0, le=1, description="on true labels of the test set")
    fidelity: float = Field(ge=0, le=1, description="share of test inputs with the undefended victim's top-1")
    served_fidelity: float = Field(ge=0, le=1, description="share of test inputs with the served top-1")
    relative_accuracy: float = Field(ge=0, description="clone accuracy over victim accuracy")
    agreement: str = Field(description="per test input: clone and undefended victim agree; packed bits, base64")

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


def read_records(directory: Path) -> list[Record]:
    """Records of a run directory, in the order in which they were written; raises `RunError` for a foreign row."""
    path = directory / RECORDS_FILE
    records = []
    for number, line in enumerate(read_lines(path), start=1):
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
