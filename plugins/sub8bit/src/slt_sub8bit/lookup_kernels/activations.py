"""Activations to 8 bits, as LLVM assembly.

The formulas are those of `slt_sub8bit.integer_linear`, operation for operation, so that both give the same bits.
"""

from __future__ import annotations

from slt_sub8bit.lookup_kernels.assembly import Function, vector

FLOATS, INTEGERS, MASK = "<16 x float>", "<16 x i32>", "<16 x i1>"
LANES = vector("i32", list(range(16)))
MAGIC = "0x4168000000000000"  # 1.5 * 2^23: adding it rounds to a whole number, half to even
MAGIC_BITS = 0x4B400000
TINY = "0x39B4484C00000000"  # 1e-30 in float32: below, a row counts as zeros
LEAD = 64  # bytes of offset before each row of bytes
TAIL = 128


def padded_stride(columns: int) -> int:
    """Bytes from one padded row to the next."""
    return LEAD + -(-columns // 16) * 16 + TAIL


def rounded() -> Function:
    """`round_padded`: x float `[rows columns]` as unsigned bytes with an offset of 128, and the step of each row.

    There are 64 bytes of offset before each row and at least 64 behind, so that a kernel may begin and end within a group.
    """
    kinds = [("ptr", "x"), ("i64", "rows"), ("i64", "columns"), ("ptr", "target"), ("i64", "stride"), ("ptr", "step")]
    f = Function("round_padded", kinds)
    last = f.do("trunc i64 %columns to i32")
    ends = f.splat("i32", 16, last)

    def body(row: str, _: list[str]) -> list[str]:
        x = f.at("%x", f.do(f"mul i64 {row}, %columns"), "float")
        target = f.at("%target", f.do(f"mul i64 {row}, %stride"))

        def largest(index: str, most: list[str]) -> list[str]:
            bits = f.do(f"bitcast {FLOATS} {within(f, x, index, ends)} to {INTEGERS}")
            size = f.do(f"and {INTEGERS} {bits}, {vector('i32', [0x7FFFFFFF] * 16)}")
            return [f.call(INTEGERS, "llvm.umax.v16i32", f"{INTEGERS} {most[0]}", f"{INTEGERS} {size}")]

        (most,) = f.loop("0", "%columns", 16, [(INTEGERS, "zeroinitializer")], largest, "most")
        top = f.do(f"bitcast i32 {f.call('i32', 'llvm.vector.reduce.umax.v16i32', f'{INTEGERS} {most}')} to float")
        f.store("float", f.do(f"fdiv float {top}, 127.0"), f.at("%step", row, "float"), 4)
        counts = f.do(
            f"and i1 {f.do(f'fcmp ogt float {top}, {TINY}')}, {f.do(f'fcmp olt float {top}, 0x7FF0000000000000')}"
        )
        inverse = f.do(f"select i1 {counts}, float {f.do(f'fdiv float 127.0, {top}')}, float 0.0")
        factor = f.splat("float", 16, inverse)
        allowed = f.do(f"sext i1 {counts} to i32")
        valid = f.splat("i32", 16, allowed)
        magic = f.splat("float", 16, MAGIC)
        f.store("<64 x i8>", vector("i8", [-128] * 64), target)
        target = f.at(target, str(LEAD))

        def write(index: str, _: list[str]) -> list[str]:
            values = within(f, x, index, ends)
            shifted = f.do(f"fadd {FLOATS} {f.do(f'fmul {FLOATS} {values}, {factor}')}, {magic}")
            bits = f.do(f"bitcast {FLOATS} {shifted} to {INTEGERS}")
            difference = f.do(f"sub {INTEGERS} {bits}, {vector('i32', [MAGIC_BITS] * 16)}")
            whole = f.do(f"and {INTEGERS} {difference}, {valid}")
            shifted = f.do(f"add {INTEGERS} {whole}, {vector('i32', [128] * 16)}")
            f.store("<16 x i8>", f.do(f"trunc {INTEGERS} {shifted} to <16 x i8>"), f.at(target, index))
            return []

        f.loop("0", "%columns", 16, [], write, "write")
        whole = f.do("and i64 " + f.do("add i64 %columns, 15") + ", -16")
        for part in range(TAIL // 64):
            f.store("<64 x i8>", vector("i8", [-128] * 64), f.at(target, f.do(f"add i64 {whole}, {64 * part}")))
        return []

    f.loop("0", "%rows", 1, [], body, "rows")
    return f


def within(f: Function, x: str, index: str, ends: str) -> str:
    """Sixteen floats from `index`, zeros behind the end of the row."""
    first = f.splat("i32", 16, f.do(f"trunc i64 {index} to i32"))
    inside = f.do(f"icmp slt {INTEGERS} {f.do(f'add {INTEGERS} {first}, {LANES}')}, {ends}")
    place = f.at(x, index, "float")
    arguments = (f"ptr {place}", "i32 4", f"{MASK} {inside}", f"{FLOATS} zeroinitializer")
    return f.call(FLOATS, "llvm.masked.load.v16f32.p0", *arguments)
