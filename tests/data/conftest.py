from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Pixels = np.ndarray


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELMOAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELMOAT_MEMORY_LIMIT", raising=False)


@pytest.fixture
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELMOAT_DATA", raising=False)


@pytest.fixture
def random_pixels() -> Callable[..., Pixels]:
    def make(*shape: int, seed: int = 0) -> Pixels:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


def encode(pixels: Pixels, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    return encode


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """Write encoded images and labels in the layout of Hugging Face data sets."""

    def write(
        path: Path,
        images: Sequence[Pixels | bytes | None],
        labels: Sequence[object],
        *,
        names: Sequence[str] | None = None,
        columns: tuple[str, str] = ("image", "label"),
        plain: bool = False,
    ) -> Path:
        encoded = [encode(image) if isinstance(image, np.ndarray) else image for image in images]
        kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = encoded if plain else [{"bytes": item, "path": "x.png"} for item in encoded]
        table = pa.table({columns[0]: pa.array(cells, kind), columns[1]: pa.array(labels)})
        if names is not None:
            features = {"info": {"features": {columns[1]: {"names": list(names), "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    return write
