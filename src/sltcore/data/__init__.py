"""Data: corpora as descriptors, fetched without root and loaded as tables; manifests and inputs of a run.

Nothing heavy is imported here; `datasets` is imported by the functions that return its tables.
"""

from sltcore.audio.headers import AUDIO_EXTENSIONS
from sltcore.data.cache import Progress, cache_folder
from sltcore.data.corpora import CORPORA, Corpus, DebianPackage, corpus
from sltcore.data.manifests import MANIFEST_EXTENSIONS, iter_inputs, read_manifest
from sltcore.data.normalization import normalized
from sltcore.data.phrase_lists import read_phrases
from sltcore.data.rows import Row
from sltcore.data.sources import Fetched, fetch
from sltcore.data.tables import SPLITS, audio_of, list_corpora, load, rows, show

__all__ = [
    "AUDIO_EXTENSIONS",
    "CORPORA",
    "MANIFEST_EXTENSIONS",
    "SPLITS",
    "Corpus",
    "DebianPackage",
    "Fetched",
    "Progress",
    "Row",
    "audio_of",
    "cache_folder",
    "corpus",
    "fetch",
    "iter_inputs",
    "list_corpora",
    "load",
    "normalized",
    "read_manifest",
    "read_phrases",
    "rows",
    "show",
]
