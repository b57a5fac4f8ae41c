from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelmoat.core.errors import DataError
from modelmoat.data import load, load_splits

Write = Callable[..., Path]


@pytest.mark.parametrize("plain", [False, True])
def test_png_bytes_give_their_pixels_back(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable, plain: bool
) -> None:
    pixels = random_pixels(2100, 5, 7, 3)
    path = write_parquet(tmp_path / "a.parquet", list(pixels), list(range(2100)), plain=plain)
    images = load(f"parquet:{path},test=0")
    assert images.shape == (3, 5, 7)
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert images.labels.tolist() == list(range(2100))
    assert images.images.is_contiguous()


def test_folder_gives_train_and_test_with_class_names(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    train, test = random_pixels(20, 4, 4), random_pixels(6, 4, 4, seed=1)
    write_parquet(tmp_path / "train.parquet", list(train), [0, 1] * 10, names=["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", list(test), [1] * 6, names=["cat", "dog"])
    splits = load_splits(f"parquet:{tmp_path}")
    assert splits.train.class_names == ("cat", "dog")
    assert np.array_equal(splits.test.images[:, 0].numpy(), test)
    assert len(splits.train) + len(splits.validation) == 20


def test_files_without_split_names_make_one_set_in_order(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    pixels = random_pixels(7, 4, 4)
    write_parquet(tmp_path / "b.parquet", list(pixels[4:]), [4, 5, 6])
    write_parquet(tmp_path / "a.parquet", list(pixels[:4]), [0, 1, 2, 3])
    images = load(f"parquet:{tmp_path},test=0")
    assert np.array_equal(images.images[:, 0].numpy(), pixels)
    assert images.labels.tolist() == list(range(7))


def test_published_validation_serves_as_test_where_there_is_none(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", list(random_pixels(9, 4, 4)), [0] * 9)
    write_parquet(tmp_path / "data" / "valid-00000-of-00001.parquet", list(random_pixels(3, 4, 4)), [0] * 3)
    assert len(load(f"parquet:{tmp_path},split=test")) == 3


def test_columns_can_be_named(tmp_path: Path, write_parquet: Write, random_pixels: Callable) -> None:
    path = write_parquet(tmp_path / "a.parquet", list(random_pixels(3, 4, 4)), [0, 1, 2], columns=("img", "fine"))
    assert len(load(f"parquet:{path},image=img,label=fine,test=0")) == 3
    with pytest.raises(DataError, match=r"no column 'image'.*Columns: img, fine; fix: add image=COLUMN"):
        load(f"parquet:{path}")
    with pytest.raises(DataError, match=r"no column 'fines'; did you mean 'fine'\?.*fix: add label=COLUMN"):
        load(f"parquet:{path},image=img,label=fines")


@pytest.mark.parametrize("color_first", [False, True])
def test_one_color_picture_makes_all_rgb(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable, color_first: bool
) -> None:
    grey, color = list(random_pixels(3, 4, 4)), list(random_pixels(1, 4, 4, 3))
    pixels = [*color, *grey] if color_first else [*grey, *color]
    path = write_parquet(tmp_path / "a.parquet", pixels, [0, 1, 2, 3])
    images = load(f"parquet:{path},test=0").images
    assert images.shape == (4, 3, 4, 4)
    for row, picture in enumerate(pixels):
        expected = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
        assert np.array_equal(images[row].permute(1, 2, 0).numpy(), expected)
    assert load(f"parquet:{path},test=0,grey").shape == (1, 4, 4)


def test_grey_is_the_luma_of_the_color(tmp_path: Path, write_parquet: Write, random_pixels: Callable) -> None:
    pixels = random_pixels(3, 4, 4, 3)
    path = write_parquet(tmp_path / "a.parquet", list(pixels), [0, 0, 0])
    images = load(f"parquet:{path},test=0,grey").images
    assert np.abs(images[:, 0].numpy() - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_different_sizes_name_both_rows_and_the_fix(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    pixels = [random_pixels(4, 6), random_pixels(4, 6, seed=1), random_pixels(8, 5)]
    path = write_parquet(tmp_path / "a.parquet", pixels, [0, 0, 0])
    with pytest.raises(DataError, match=r"a.parquet row 0 is 6x4, .*a.parquet row 2 is 5x8.*size=32"):
        load(f"parquet:{path}")
    assert load(f"parquet:{path},size=4,test=0").shape == (1, 4, 4)


def test_large_pictures_are_decoded_by_threads_in_order(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    pixels = random_pixels(40, 100, 100)
    path = write_parquet(tmp_path / "a.parquet", list(pixels), [0] * 40)
    assert np.array_equal(load(f"parquet:{path},test=0").images[:, 0].numpy(), pixels)


def test_corrupt_pictures_name_their_file_and_row(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable, png: Callable[..., bytes]
) -> None:
    whole = png(random_pixels(40, 40))
    bad = {"cut": whole[: len(whole) // 2], "foreign": b"GIF89a not an image", "empty": b""}
    for name, encoded in bad.items():
        path = write_parquet(tmp_path / f"{name}.parquet", [whole, encoded], [0, 0])
        with pytest.raises(DataError, match=rf"{name}.parquet row 1 cannot be decoded: .*PNG, JPEG, BMP, WEBP"):
            load(f"parquet:{path}")


def test_rows_are_counted_within_their_file(tmp_path: Path, write_parquet: Write, random_pixels: Callable) -> None:
    good = list(random_pixels(3, 4, 4))
    write_parquet(tmp_path / "a.parquet", good, [0] * 3)
    write_parquet(tmp_path / "b.parquet", [good[0], b"junk", good[1]], [0] * 3)
    with pytest.raises(DataError, match=r"b.parquet row 1 "):
        load(f"parquet:{tmp_path}")


def test_missing_bytes_name_their_row(tmp_path: Path, write_parquet: Write, random_pixels: Callable) -> None:
    images = [random_pixels(4, 4)] * 1500
    path = write_parquet(tmp_path / "a.parquet", [*images, None], [0] * 1501)
    with pytest.raises(DataError, match=r"a.parquet row 1500 has no image bytes"):
        load(f"parquet:{path}")


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, -1], None, r"row 1: label -1; expected 0 to"),
        ([0, 2_000_000], None, r"row 1: label 2000000; expected 0 to"),
        ([0.0, 1.0], None, "column 'label' is double; expected whole numbers"),
        (["cat", "dog"], None, "column 'label' is string; expected whole numbers"),
        ([0, None], None, "row 1 has no label"),
        ([0, 2], ["cat", "dog"], r"row 1: label 2 with 2 class names; expected 0 to 1"),
    ],
)
def test_bad_labels_are_refused(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable, labels: list, names: list[str] | None, words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", list(random_pixels(2, 4, 4)), labels, names=names)
    with pytest.raises(DataError, match=words):
        load(f"parquet:{path}")


def test_train_and_test_that_name_different_classes_are_refused(
    tmp_path: Path, write_parquet: Write, random_pixels: Callable
) -> None:
    write_parquet(tmp_path / "train.parquet", list(random_pixels(2, 4, 4)), [0, 1], names=["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", list(random_pixels(2, 4, 4)), [0, 1], names=["dog", "cat"])
    with pytest.raises(DataError, match="different classes"):
        load(f"parquet:{tmp_path}")


def test_places_without_parquet_are_refused(tmp_path: Path, write_parquet: Write) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist.*fix"):
        load(f"parquet:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match=r"holds no .parquet file.*fix"):
        load(f"parquet:{tmp_path}")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"cannot read .*bad.parquet.*a Parquet file.*fix"):
        load(f"parquet:{tmp_path / 'bad.parquet'}")
    path = write_parquet(tmp_path / "none.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(DataError, match=r"none.parquet has no rows.*fix"):
        load(f"parquet:{path}")


def test_image_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]], "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'image' is list<.*expected encoded images"):
        load(f"parquet:{tmp_path / 'a.parquet'}")


def test_broken_metadata_is_refused(tmp_path: Path, write_parquet: Write, random_pixels: Callable) -> None:
    path = write_parquet(tmp_path / "a.parquet", list(random_pixels(2, 4, 4)), [0, 1])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": "{"}), path)
    with pytest.raises(DataError, match="features as JSON in the metadata key 'huggingface'"):
        load(f"parquet:{path}")
