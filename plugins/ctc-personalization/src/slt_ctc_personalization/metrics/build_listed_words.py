"""Builder of the metric `listed-words`: the only place that sees its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slt_ctc_personalization.metrics.listed_words import LIST_FILE, ListedWords
from sltcore.data.phrase_lists import read_phrases

if TYPE_CHECKING:
    from slt_ctc_personalization.metrics.config_listed_words import ListedWordsConfig
    from sltcore.plugin import Ports


def listed_words(config: ListedWordsConfig, ports: Ports) -> ListedWords:
    """**Raises** `DataError` when the list file cannot be read, or there is no list."""
    phrases, file = list(config.phrases), config.words_file
    if ports.folder is not None and (ports.folder / LIST_FILE).is_file():
        phrases, file = [], ports.folder / LIST_FILE
    if file is not None:
        listed = read_phrases(file, named=f"words_file: {file}")
        phrases += [phrase if isinstance(phrase, str) else str(phrase["text"]) for phrase in listed]
    return ListedWords(phrases, lowercase=config.lowercase, punctuation=config.punctuation == "keep")
