"""The prefix tree of a beam search: nodes with back-pointers in two flat arrays, freed as soon as nothing needs them.

A node lives while it is in the beam or has children. So the tree holds exactly the histories of the living hypotheses
and is the same whether the frames come at once or in chunks.
"""

# mypy: disable-error-code="no-any-return"
# (compiled functions return numbers; mypy sees the items of numpy arrays as Any.)

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.compiled import compile_kernel, copied_function, inline_function

IntRows = npt.NDArray[np.int64]
FloatRows = npt.NDArray[np.float64]

# Columns of the integer array, one row for each node.
PARENT, KEY, CHILD, NEXT, PREVIOUS, SLOT, START, LAST, LM, SPELL, EXTRA, PHRASE, FLAGS, OWNER, NODE_INTS = range(15)
"""KEY: the label (at a word's node WORD_KEY - word id). SLOT: place among the frame's candidates, -1 outside.
START, LAST: frames of the first and the last emission. LM: language model state. SPELL: trie node. EXTRA: node in the
phrases' spelling trie (token search), or the pronunciation's last trie node (at a word's node). OWNER: the word's node
that this label belongs to (lexicon search), or the number of characters in the current word (label search)."""

DONE, BASE, EARNED, FUSED, CLOSING, NODE_FLOATS = range(6)
"""DONE: language model and word bonuses of complete words. BASE, EARNED: phrase bonus before and after this label.
FUSED: everything that is added to the acoustic score. CLOSING: EARNED, or what it is when the word ends behind this
label without a boundary, whichever is more (label search)."""

FREE, USED, ROOT, LEFT, FRAME, SIZE, CONTROL_INTS = range(7)
"""FREE: head of the list of freed rows. USED: rows ever used. ROOT: the root's row. LEFT: rows that can still be
taken. FRAME: frames read so far. SIZE: hypotheses in the beam."""

ABSORBS, NONEMPTY = 1, 2
"""ABSORBS: at a word start, where a further word boundary adds nothing. NONEMPTY: the current word has characters."""

ROOT_KEY, WORD_KEY = -1, -2
OUTSIDE, FREED = -1, -2  # values of SLOT: not a candidate; not even a node
STEPS = 64
REACH = 24.0
_grid = np.arange(int(REACH) * STEPS + 2) / STEPS
SOFTPLUS = np.log1p(np.exp(-_grid))
SIGMOID = 1.0 / (1.0 + np.exp(_grid))


@inline_function
def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b), absolute error below 4e-11: third-order Taylor around 64 knots for each unit."""
    if a < b:
        a, b = b, a
    difference = a - b
    if not (difference < REACH):  # also when both are -inf
        return a
    knot = int(difference * STEPS + 0.5)
    h = difference - knot / STEPS
    s = SIGMOID[knot]
    curve = s * (1.0 - s)
    return a + SOFTPLUS[knot] - h * (s - h * curve * (0.5 - h * (1.0 - 2.0 * s) / 6.0))


@inline_function
def kth_largest(values: FloatRows, size: int, k: int) -> float:
    """The k-th largest (k >= 1) of `values[:size]`, which is reordered."""
    low, high, wanted = 0, size - 1, k - 1
    while low < high:
        middle = (low + high) >> 1
        a, b, c = values[low], values[middle], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            return values[wanted]
    return values[wanted]


@copied_function
def child_by_key(nodes: IntRows, node: int, key: int) -> int:
    """The child of `node` with `key`, or -1."""
    child = nodes[node, CHILD]
    while child >= 0 and nodes[child, KEY] != key:
        child = nodes[child, NEXT]
    return child


@copied_function
def add_node(nodes: IntRows, control: IntRows, parent: int, key: int, frame: int) -> int:
    """A new node below `parent`; the caller has made sure that a row is left."""
    node = control[FREE]
    if node >= 0:
        control[FREE] = nodes[node, NEXT]
    else:
        node = control[USED]
        control[USED] += 1
    control[LEFT] -= 1
    head = nodes[parent, CHILD]
    nodes[node, PARENT] = parent
    nodes[node, KEY] = key
    nodes[node, CHILD] = -1
    nodes[node, NEXT] = head
    nodes[node, PREVIOUS] = -1
    nodes[node, SLOT] = OUTSIDE
    nodes[node, START] = frame
    nodes[node, LAST] = frame
    if head >= 0:
        nodes[head, PREVIOUS] = node
    nodes[parent, CHILD] = node
    return node


@inline_function
def release(nodes: IntRows, control: IntRows, node: int) -> None:
    """Free `node` and its ancestors as far as they are neither in the beam nor have children."""
    while node >= 0 and node != control[ROOT] and nodes[node, SLOT] == OUTSIDE and nodes[node, CHILD] < 0:
        parent, before, after = nodes[node, PARENT], nodes[node, PREVIOUS], nodes[node, NEXT]
        if before >= 0:
            nodes[before, NEXT] = after
        else:
            nodes[parent, CHILD] = after
        if after >= 0:
            nodes[after, PREVIOUS] = before
        nodes[node, SLOT] = FREED
        nodes[node, NEXT] = control[FREE]
        control[FREE] = node
        control[LEFT] += 1
        node = parent


@inline_function
def base_of(nodes, numbers, parent, own, span):
    """Bonus earned before the first label of a match that ends at a node with this parent."""
    if span <= 1:
        return own
    for _ in range(span - 2):
        parent = nodes[parent, PARENT]
    return numbers[parent, BASE]


@compile_kernel
def move_root(nodes: IntRows, control: IntRows, keep: int, words: int, out: IntRows) -> int:
    """Free the history that all hypotheses share, but its last `keep` nodes; returns the number of nodes freed.

    Their rows are written to `out`, oldest first; the old root is the first of them. With `words` the root stays at a
    word's node.
    """
    length = 0
    node = control[ROOT]
    while nodes[node, SLOT] < 0 and nodes[node, CHILD] >= 0:
        child = nodes[node, CHILD]
        if nodes[child, NEXT] >= 0 or (words == 1 and nodes[child, KEY] > WORD_KEY):
            break
        node = child
        length += 1
    length = min(max(length - keep, 0), out.shape[0])
    node = control[ROOT]
    for index in range(length):
        out[index] = node
        child = nodes[node, CHILD]
        nodes[node, NEXT] = control[FREE]
        control[FREE] = node
        control[LEFT] += 1
        node = child
    if length > 0:
        control[ROOT] = node
        nodes[node, PARENT] = -1
    return length
