"""Configuration of the metric `listed-words`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sltcore.spec import Config, File


class ListedWordsConfig(Config):
    """Precision, recall and F1 of listed phrases; word error rates on listed and on other words."""

    phrases: tuple[str, ...] = Field((), description="listed words and phrases; these or words_file are needed")
    words_file: File | None = Field(
        None, description="further ones, in a list file: text, CSV or JSON; weights and spellings do not count"
    )
    lowercase: bool = Field(True, description="compare in lower case")
    punctuation: Literal["keep", "remove"] = Field("remove", description="punctuation and symbols, but not don't")
