"""Image sets by reference, such as ``mnist,size=32``, decoded once into one uint8 tensor.

`load` gives one split of a reference and `load_splits` all of them; `ImageSet` holds images, labels and class names.
"""

from modelmoat.data.foreign import NOISE, check_foreign, foreign_reference, load_foreign, noise_images, refuse_overlap
from modelmoat.data.images import ImageSet, overlap
from modelmoat.data.loading import Splits, load, load_splits
from modelmoat.data.sources import SourceInfo, known_sources, source_of

__all__ = [
    "NOISE",
    "ImageSet",
    "SourceInfo",
    "Splits",
    "check_foreign",
    "foreign_reference",
    "known_sources",
    "load",
    "load_foreign",
    "load_splits",
    "noise_images",
    "overlap",
    "refuse_overlap",
    "source_of",
]
