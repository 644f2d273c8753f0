"""The files that volumes come in and label maps go out to; which library reads which is told in each module."""

from models.segmenter.formats.reading import open_volume
from models.segmenter.formats.writing import default_suffix, write_labels

__all__ = ["default_suffix", "open_volume", "write_labels"]
