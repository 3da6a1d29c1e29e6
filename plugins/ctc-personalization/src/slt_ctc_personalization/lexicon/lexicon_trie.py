"""Tries as flat arrays: spellings of the language model's words, and pronunciations of a lexicon.

Nodes are numbered breadth first, so the children of a node are neighbours, sorted by label: a trie is four arrays and
is built by one `numpy.unique` for each depth, without a Python loop over words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import inline_function
from sltcore.errors import VocabularyError, did_you_mean

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
LINEAR_SCAN = 6
FIRST, COUNT, LABEL, ABOVE = range(4)


class TrieTables(NamedTuple):
    """A trie with words at its nodes; node 0 is the root.

    `rows` [node, 4] int32: first child, number of children (they are neighbours), label, parent: one row is one cache
    line's quarter, and a step down reads two.
    `word_start` [node + 1]: the entries of node n are `word_start[n] ... word_start[n + 1] - 1` in `words` (word ids)
    and `weights` (natural log of each pronunciation's probability). `best` [node] float32: the largest score of a
    word at or below the node, for look-ahead.
    """

    rows: IntArray
    word_start: IntArray
    words: IntArray
    weights: FloatArray
    best: FloatArray


def build_trie(
    paths: Sequence[Sequence[int]],
    words: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    scores: npt.ArrayLike | None = None,
) -> TrieTables:
    """The trie of label paths; `words`, `weights` and `scores` have one entry for each path."""
    lengths = np.fromiter((len(path) for path in paths), dtype=np.int64, count=len(paths))
    flat = np.fromiter((label for path in paths for label in path), dtype=np.int64, count=int(lengths.sum()))
    return build_trie_flat(flat, lengths, words, weights=weights, scores=scores)


def build_trie_flat(
    flat: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    words: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    scores: npt.ArrayLike | None = None,
) -> TrieTables:
    """As `build_trie`, from concatenated paths and their lengths."""
    ids = np.asarray(words, dtype=np.int32)
    parents, labels, depths, leaf = levels(flat, lengths)
    size = len(parents)
    order = np.lexsort((ids, leaf))
    kept_weights = np.zeros(len(ids), np.float32) if weights is None else np.asarray(weights, np.float32)
    best = _best_below(size, parents, depths, leaf, scores)
    return TrieTables(
        rows=child_rows(parents, labels),
        word_start=np.searchsorted(leaf[order], np.arange(size + 1)).astype(np.int32),
        words=np.ascontiguousarray(ids[order]),
        weights=np.ascontiguousarray(kept_weights[order]),
        best=best,
    )


def levels(flat: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Parents, labels and depths of all nodes, and each path's node."""
    width = int(flat.max()) + 1 if len(flat) else 1
    starts = np.cumsum(lengths) - lengths
    leaf = np.zeros(len(lengths), np.int64)
    parents, labels, depths = [np.full(1, -1)], [np.full(1, -1)], [np.zeros(1, np.int64)]
    size = 1
    for depth in range(int(lengths.max()) if len(lengths) else 0):
        active = np.flatnonzero(lengths > depth)
        keys, inverse = np.unique(leaf[active] * width + flat[starts[active] + depth], return_inverse=True)
        leaf[active] = size + inverse
        parents.append(keys // width)
        labels.append(keys % width)
        depths.append(np.full(len(keys), depth + 1))
        size += len(keys)
    return np.concatenate(parents), np.concatenate(labels), np.concatenate(depths), leaf


def child_rows(parents: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> IntArray:
    """First child, number of children, label and parent of each node numbered breadth first: [node, 4] int32."""
    size = len(parents)
    rows = np.zeros((size, 4), np.int32)
    rows[:, LABEL], rows[:, ABOVE] = labels, parents
    if size > 1:
        rows[:, COUNT] = np.bincount(parents[1:], minlength=size)
        starts = np.flatnonzero(np.r_[True, parents[2:] != parents[1:-1]]) + 1
        rows[parents[starts], FIRST] = starts
    return rows


def _best_below(
    size: int,
    parents: npt.NDArray[np.int64],
    depths: npt.NDArray[np.int64],
    leaf: npt.NDArray[np.int64],
    scores: npt.ArrayLike | None,
) -> FloatArray:
    if scores is None:
        return np.zeros(size, np.float32)
    best = np.full(size, -np.inf, np.float32)
    np.maximum.at(best, leaf, np.asarray(scores, np.float32))
    for depth in range(int(depths.max()), 0, -1):
        nodes = slice(*np.searchsorted(depths, (depth, depth + 1)))
        np.maximum.at(best, parents[nodes], best[nodes])
    return best


EMPTY_TRIE = build_trie([], [])


def child_of(trie: Any, node: int, label: int) -> int:
    """The child of `node` by `label`, or -1; `find_child` is the same function for compiled callers."""
    rows = trie.rows
    low = rows[node, FIRST]
    high = low + rows[node, COUNT]
    while high - low > LINEAR_SCAN:
        middle = (low + high) >> 1
        if rows[middle, LABEL] <= label:
            low = middle
        else:
            high = middle
    for child in range(low, high):
        if rows[child, LABEL] == label:
            return child
    return -1


find_child = inline_function(child_of)


class LexiconTrie:
    """Words and the label paths (phones or letters) they are heard as.

    `pronunciations` maps a word to its paths: each a sequence of label names, or one string of names separated by
    spaces. A word with several paths is heard as any of them; words that share a path are homophones. `log_weights`
    gives the natural log of each path's probability; without it every path counts fully.

    >>> lexicon = LexiconTrie({"new": ["n u", "n j u"], "knew": ["n u"]}, ["<blank>", "n", "j", "u"])
    >>> len(lexicon), lexicon.paths("new")
    (2, [(1, 3), (1, 2, 3)])

    Raises `VocabularyError` when a path is empty or uses a label that does not exist.
    """

    def __init__(
        self,
        pronunciations: Mapping[str, Sequence[str | Sequence[str]]],
        labels: Sequence[str],
        *,
        log_weights: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self._ids = {label: index for index, label in enumerate(self.labels)}
        self.words: list[str] = []
        self._paths: list[tuple[int, ...]] = []
        self._owner: list[int] = []
        self._weights: list[float] = []
        for word, paths in pronunciations.items():
            weights = list(log_weights[word]) if log_weights and word in log_weights else [0.0] * len(paths)
            self._add(word, [self.path(word, path) for path in paths], weights)
        self._flat = np.array([label for path in self._paths for label in path], np.int64)
        self._lengths = np.array([len(path) for path in self._paths], np.int64)
        self._index = {word: index for index, word in enumerate(self.words)}
        self._path_ids: dict[int, list[int]] = {}
        for index, owner in enumerate(self._owner):
            self._path_ids.setdefault(owner, []).append(index)

    def _add(self, word: str, paths: Iterable[tuple[int, ...]], weights: Iterable[float]) -> None:
        owner = len(self.words)
        self.words.append(word)
        seen: set[tuple[int, ...]] = set()
        for path, weight in zip(paths, weights, strict=True):
            if path not in seen:
                seen.add(path)
                self._paths.append(path)
                self._owner.append(owner)
                self._weights.append(weight)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def index(self, word: str) -> int:
        """The id of a word that the lexicon holds."""
        return self._index[word]

    def path(self, word: str, pronunciation: str | Sequence[str]) -> tuple[int, ...]:
        """The label ids of a written pronunciation of `word`; `VocabularyError` names the label that does not exist."""
        names = pronunciation.split() if isinstance(pronunciation, str) else list(pronunciation)
        if not names:
            raise VocabularyError(f"lexicon: word {word!r} has an empty pronunciation; give at least one label")
        for name in names:
            if name not in self._ids:
                hint = did_you_mean(name, self.labels)
                raise VocabularyError(f"lexicon: word {word!r} is written with {name!r}, which is no label.{hint}")
        return tuple(self._ids[name] for name in names)

    def paths(self, word: str) -> list[tuple[int, ...]]:
        """The label paths of a word, none when the lexicon lacks it."""
        if word not in self._index:
            return []
        return [self._paths[index] for index in sorted(self._path_ids.get(self._index[word], []))]

    def tables(self, scores: npt.NDArray[np.float32], extra: Sequence[tuple[int, tuple[int, ...]]] = ()) -> TrieTables:
        """The trie with `scores` [word] float32 for look-ahead; `extra` (word id, path) pairs are added to it.

        Word ids from `len(self)` on belong to the caller. Adding rebuilds all arrays: about 25 ms for 20,000 words.
        """
        known = {(owner, path) for owner, path in extra if owner < len(self) and path in self.paths(self.words[owner])}
        added = [pair for pair in dict.fromkeys(extra) if pair not in known]
        flat = np.concatenate([self._flat, np.array([label for _, path in added for label in path], np.int64)])
        lengths = np.concatenate([self._lengths, np.array([len(path) for _, path in added], np.int64)])
        owners = np.array([*self._owner, *(owner for owner, _ in added)], np.int32)
        weights = np.array([*self._weights, *(0.0 for _ in added)], np.float32)
        return build_trie_flat(
            flat, lengths, owners, weights=weights, scores=scores[owners] + weights if len(owners) else None
        )


def map_labels(log_probs: Any, log_map: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Log-probabilities over other labels: `out[.., w] = ln sum_v exp(log_probs[.., v] + log_map[v, w])`.

    `log_probs` [.. v] float32 (natural log), `log_map` [v w] float32, row v the log-probability that the lexicon label
    w was meant when v was heard (`-inf` where never). One matrix product in the linear domain for each call; a frame
    is scaled by its maximum first, so that nothing underflows which is within 85 nats of it.
    """
    values = np.asarray(log_probs, np.float32)
    matrix = np.exp(np.asarray(log_map, np.float32))
    if values.shape[-1] != matrix.shape[0]:
        raise VocabularyError(
            f"label map: {matrix.shape[0]} rows, but the log-probabilities have {values.shape[-1]} labels; give one row each"
        )
    top = np.max(values, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, np.float32(0.0))
    with np.errstate(divide="ignore"):
        mapped: npt.NDArray[np.float32] = np.log(np.exp(values - top) @ matrix) + top
    return mapped
