"""One frame of an LSTM or GRU, forwards and backwards, for the rows [n ·] of the sequences that have it.

`steps` holds the six numbers of each rescaling, `words` the least and largest codes of each word, `codes` and `values` tables
read at every code. Flags say, bit by bit, what was clipped.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from slt_nna.emulated.arithmetic import narrowed, rescaled
from slt_nna.emulated.compiled import compile_kernel, inline_function

STATE_BIT, HIDDEN_BIT = 16, 32
OLD_BIT, NEW_BIT, RESET_BIT, UPDATE_BIT = 4, 8, 1, 2


@inline_function
def moved(v, step):
    """A rescaled integer."""
    return rescaled(v, step[0], step[1], step[2], step[3], step[4], step[5])


@compile_kernel
def lstm_gates(acc_x, inverse_x, bias, acc_h, inverse_h, steps, words, wrap, pre, flags):
    """Codes of the gates i f g o before their tables, from both products; counts overflows.

    words: accumulator, gates; steps: input, recurrent. Flags 1 2 4 8 for i f g o.
    """
    low, high, least, most = words[0, 0], words[0, 1], words[1, 0], words[1, 1]
    factor, shift, half, away, even, limit = steps[0]
    factor2, shift2, half2, away2, even2, limit2 = steps[1]
    width = pre.shape[1] // 4
    overflowed = 0
    for i in range(pre.shape[0]):
        for gate in range(4):
            bit = np.uint8(1 << gate)
            for k in range(width):
                j = gate * width + k
                v = np.int64(np.rint(acc_x[i, j] * inverse_x)) + bias[j]
                w = np.int64(np.rint(acc_h[i, j] * inverse_h))
                first, second = narrowed(v, low, high, wrap), narrowed(w, low, high, wrap)
                z = rescaled(first, factor, shift, half, away, even, limit)
                z += rescaled(second, factor2, shift2, half2, away2, even2, limit2)
                y = narrowed(z, least, most, wrap)
                pre[i, j] = y
                over = (first != v) | (second != w)
                overflowed += over
                lost = (y != z) | over
                flags[i, k] = (flags[i, k] if gate else np.uint8(0)) | (bit if lost else np.uint8(0))
    return overflowed


@compile_kernel
def lstm_cell(pre, least, sigmoid, tanh, tanh_state, steps, words, wrap, c, before, after, scale, flags, h):
    """c and h from the gates. words: state, output; steps: f c, i g, o y. `c` int32 is the state, changed in place."""
    width = h.shape[1]
    low, high, bottom, top = words[0, 0], words[0, 1], words[1, 0], words[1, 1]
    factor, shift, half, away, even, limit = steps[0]
    factor2, shift2, half2, away2, even2, limit2 = steps[1]
    factor3, shift3, half3, away3, even3, limit3 = steps[2]
    for k in range(h.shape[0]):
        for j in range(width):
            i = np.int64(sigmoid[pre[k, j] - least])
            f = np.int64(sigmoid[pre[k, width + j] - least])
            g = np.int64(tanh[pre[k, 2 * width + j] - least])
            o = np.int64(sigmoid[pre[k, 3 * width + j] - least])
            old = np.int64(c[k, j])
            z = rescaled(f * old, factor, shift, half, away, even, limit)
            z += rescaled(i * g, factor2, shift2, half2, away2, even2, limit2)
            state = narrowed(z, low, high, wrap)
            y = np.int64(tanh_state[state - low])
            raw = rescaled(o * y, factor3, shift3, half3, away3, even3, limit3)
            out = narrowed(raw, bottom, top, wrap)
            before[k, j] = old
            after[k, j] = state
            c[k, j] = state
            h[k, j] = np.float32(out * scale)
            lost = np.uint8(STATE_BIT) if state != z else np.uint8(0)
            flags[k, j] |= lost | (np.uint8(HIDDEN_BIT) if out != raw else np.uint8(0))


@compile_kernel
def lstm_gradient(
    given, back, back_c, pre, least, before, after, low, scale_c, flags, sigmoid, tanh, tanh_state, gates
):
    """The gradient of the gates, from those of the output (`given` + `back`) and of c, which becomes that of the c before.

    `sigmoid`, `tanh`, `tanh_state` [2 codes]: values and slopes.
    """
    width = given.shape[1]
    zero = np.float32(0)
    scale = np.float32(scale_c)
    for k in range(given.shape[0]):
        for j in range(width):
            lost = flags[k, j]
            i, f = pre[k, j] - least, pre[k, width + j] - least
            g, o = pre[k, 2 * width + j] - least, pre[k, 3 * width + j] - least
            state = after[k, j] - low
            dh = given[k, j] + back[k, j]
            dh = zero if lost & HIDDEN_BIT else dh
            y = tanh_state[0, state]
            dc = back_c[k, j] + dh * sigmoid[0, o] * tanh_state[1, state]
            dc = zero if lost & STATE_BIT else dc
            gates[k, j] = zero if lost & 1 else dc * tanh[0, g] * sigmoid[1, i]
            gates[k, width + j] = zero if lost & 2 else dc * np.float32(before[k, j]) * scale * sigmoid[1, f]
            gates[k, 2 * width + j] = zero if lost & 4 else dc * sigmoid[0, i] * tanh[1, g]
            gates[k, 3 * width + j] = zero if lost & 8 else dh * y * sigmoid[1, o]
            back_c[k, j] = dc * sigmoid[0, f]


@compile_kernel
def gru_frame(
    acc_x, inverse_x, bias_x, acc_h, inverse_h, bias_h, steps, words, wrap, sigmoid, tanh, one, old, inverse_old, scale,
    pre, inner, flags, h,
):  # fmt: skip
    """Codes of the gates r z n before their tables, and h; counts overflows. `inner` is the recurrent part of n.

    words: accumulator, gates, hidden; steps: input, recurrent, r times inner, (1 - z) n, z h. `one` is 1 on the tables' grid.
    """
    low, high, least, most = words[0, 0], words[0, 1], words[1, 0], words[1, 1]
    bottom, top = words[2, 0], words[2, 1]
    width = h.shape[1]
    overflowed = 0
    for i in range(h.shape[0]):
        for j in range(width):
            lost = 0
            for gate in range(2):
                k = gate * width + j
                v = np.int64(np.rint(acc_x[i, k] * inverse_x)) + bias_x[k]
                w = np.int64(np.rint(acc_h[i, k] * inverse_h)) + bias_h[k]
                first, second = narrowed(v, low, high, wrap), narrowed(w, low, high, wrap)
                z = moved(first, steps[0]) + moved(second, steps[1])
                y = narrowed(z, least, most, wrap)
                pre[i, k] = y
                over = (first != v) | (second != w)
                overflowed += over
                if (y != z) | over:
                    lost |= 1 << gate
            k = 2 * width + j
            v = np.int64(np.rint(acc_x[i, k] * inverse_x)) + bias_x[k]
            w = np.int64(np.rint(acc_h[i, k] * inverse_h)) + bias_h[k]
            first, second = narrowed(v, low, high, wrap), narrowed(w, low, high, wrap)
            raw_x, raw_h = moved(first, steps[0]), moved(second, steps[1])
            part_x, part_h = narrowed(raw_x, least, most, wrap), narrowed(raw_h, least, most, wrap)
            overflowed += (first != v) + (second != w)
            r = np.int64(sigmoid[pre[i, j] - least])
            u = np.int64(sigmoid[pre[i, width + j] - least])
            z = part_x + moved(r * part_h, steps[2])
            y = narrowed(z, least, most, wrap)
            pre[i, k] = y
            inner[i, j] = part_h
            if (part_h != raw_h) | (second != w):
                lost |= OLD_BIT
            if (y != z) | (part_x != raw_x) | (first != v):
                lost |= NEW_BIT
            n = np.int64(tanh[y - least])
            raw = moved((one - u) * n, steps[3]) + moved(u * np.int64(np.rint(old[i, j] * inverse_old)), steps[4])
            out = narrowed(raw, bottom, top, wrap)
            h[i, j] = np.float32(out * scale)
            if out != raw:
                lost |= HIDDEN_BIT
            flags[i, j] = lost
    return overflowed


@compile_kernel
def gru_gradient(given, back, pre, least, inner, scale_p, old, flags, sigmoid, tanh, direct, gates_x, gates_h):
    """The gradients of the gates by either product, and the part `direct` of the gradient of the h before."""
    width = given.shape[1]
    zero = np.float32(0)
    scale = np.float32(scale_p)
    for i in range(given.shape[0]):
        for j in range(width):
            lost = flags[i, j]
            r, u, n = pre[i, j] - least, pre[i, width + j] - least, pre[i, 2 * width + j] - least
            dh = zero if lost & HIDDEN_BIT else given[i, j] + back[i, j]
            dn = zero if lost & NEW_BIT else dh * (np.float32(1) - sigmoid[0, u]) * tanh[1, n]
            du = zero if lost & UPDATE_BIT else dh * (old[i, j] - tanh[0, n]) * sigmoid[1, u]
            dr = zero if lost & RESET_BIT else dn * np.float32(inner[i, j]) * scale * sigmoid[1, r]
            gates_x[i, j], gates_h[i, j] = dr, dr
            gates_x[i, width + j], gates_h[i, width + j] = du, du
            gates_x[i, 2 * width + j] = dn
            gates_h[i, 2 * width + j] = zero if lost & OLD_BIT else dn * sigmoid[0, r]
            direct[i, j] = dh * sigmoid[0, u]
