"""Look-up kernels for processors with AVX-512 BW, VBMI, VNNI and GFNI, as LLVM assembly.

Sixty-four codes are b words of bits. A byte permutation brings byte k of every word together, a product of 8 x 8 bit
matrices with the identity turns those bytes into eight codes, a byte permutation with the table as its source looks all
64 up, and one instruction multiplies them by 64 activations and sums: four or five instructions for 64 weights of any
width. Activations are bytes with an offset of 128, which the sums of each row's integers take out again.
"""

from __future__ import annotations

from slt_sub8bit.lookup_kernels.activations import rounded
from slt_sub8bit.lookup_kernels.assembly import Function, module, vector

FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni", "gfni")
BYTES, WORDS, FLOATS, SUMS = "<64 x i8>", "<8 x i64>", "<16 x float>", "<16 x i32>"
IDENTITY = vector("i8", [1 << (lane % 8) for lane in range(64)])
AHEAD = 1024  # bytes of each stream asked for before they are needed
SHAPES = ((1, 8), (1, 1), (4, 2), (4, 1), (8, 2), (8, 1))  # rows of activations, and of weights, computed together
ROWS_FLOAT = 2
LAYER = [("ptr", "codes"), ("ptr", "table"), ("i64", "columns"), ("ptr", "scale"), ("i64", "scale_step")]
LAYER += [("ptr", "bias"), ("i64", "bias_step")]


def source(bits: int) -> str:
    """The kernels of one width."""
    kernels = [multiply(bits, steps, rows) for steps, rows in SHAPES]
    kernels += [decode_bytes(bits), decode_floats(bits), multiply_floats(bits)]
    return module([*kernels, rounded("round_padded", padded=True), layer_rows(), layer_one()])


class Codes:
    """How one function gets at its weights: the table in registers, then 64 codes or values at a time."""

    def __init__(self, function: Function, bits: int) -> None:
        self.function, self.bits = function, bits

    def at(self, group: str) -> str:
        """The 64 codes of a group, as bytes."""
        f, bits = self.function, self.bits
        start = f.at("%codes", f.do(f"mul i64 {group}, {8 * bits}"))
        if bits == 8:
            return f.load(BYTES, start)
        words = f.call(
            WORDS,
            "llvm.masked.load.v8i64.p0",
            f"ptr {start}",
            "i32 1",
            f"<8 x i1> {vector('i1', [int(word < bits) for word in range(8)])}",
            f"{WORDS} zeroinitializer",
        )
        planes = f.do(f"bitcast {WORDS} {words} to {BYTES}")
        order = [8 * (7 - lane % 8) + lane // 8 if 7 - lane % 8 < bits else 63 for lane in range(64)]
        together = permuted(f, planes, vector("i8", order))
        return f.call(BYTES, "llvm.x86.vgf2p8affineqb.512", f"{BYTES} {IDENTITY}", f"{BYTES} {together}", "i8 0")

    def bytes_table(self) -> None:
        """Load the int8 table, before the loops."""
        if self.bits < 8:
            count = 2 if self.bits == 7 else 1
            self.table = [
                self.function.load(BYTES, self.function.at("%table", str(64 * part))) for part in range(count)
            ]

    def integers(self, group: str) -> str:
        """The 64 values of a group, int8."""
        f, codes = self.function, self.at(group)
        if self.bits == 8:
            return f.do(f"xor {BYTES} {codes}, {vector('i8', [-128] * 64)}")
        if self.bits < 7:
            return permuted(f, self.table[0], codes)
        low, high = self.table
        return f.call(
            BYTES, "llvm.x86.avx512.vpermi2var.qi.512", f"{BYTES} {low}", f"{BYTES} {codes}", f"{BYTES} {high}"
        )

    def floats_table(self) -> None:
        """Load the float table, before the loops."""
        count = max(1, 2**self.bits // 16)
        self.table = [self.function.load(FLOATS, self.function.at("%table", str(64 * part))) for part in range(count)]

    def floats(self, group: str) -> list[str]:
        """The 64 values of a group, as four vectors."""
        f, codes = self.function, self.at(group)
        found = []
        for quarter in range(4):
            lanes = ", ".join(f"i32 {16 * quarter + lane}" for lane in range(16))
            part = f.do(f"shufflevector {BYTES} {codes}, {BYTES} poison, <16 x i32> <{lanes}>")
            found.append(self._looked_up(f.do(f"zext <16 x i8> {part} to {SUMS}")))
        return found

    def _looked_up(self, index: str) -> str:
        f, tables = self.function, self.table
        if len(tables) == 1:
            return f.call(FLOATS, "llvm.x86.avx512.permvar.sf.512", f"{FLOATS} {tables[0]}", f"{SUMS} {index}")
        found = [
            f.call(
                FLOATS, "llvm.x86.avx512.vpermi2var.ps.512", f"{FLOATS} {low}", f"{SUMS} {index}", f"{FLOATS} {high}"
            )
            for low, high in zip(tables[::2], tables[1::2], strict=True)
        ]
        bit = 32
        while len(found) > 1:
            masked = f.do(f"and {SUMS} {index}, {vector('i32', [bit] * 16)}")
            upper = f.do(f"icmp ne {SUMS} {masked}, zeroinitializer")
            found = [
                f.do(f"select <16 x i1> {upper}, {FLOATS} {high}, {FLOATS} {low}")
                for low, high in zip(found[::2], found[1::2], strict=True)
            ]
            bit *= 2
        return found[0]


def permuted(f: Function, source: str, index: str) -> str:
    """The bytes of `source` that `index` names."""
    return f.call(BYTES, "llvm.x86.avx512.permvar.qi.512", f"{BYTES} {source}", f"{BYTES} {index}")


def multiply(bits: int, steps: int, rows: int) -> Function:
    """`multiply_{steps}_{rows}`: y of `steps` rows of activations, for weight rows `begin` to `end`, each with
    `rows - 1` further ones.

    Rows taken together are `apart` rows from each other: a processor fetches ahead on every one of such streams, and several
    bring more bytes a second than one. They need columns in whole groups. `sums` are 128 times the sums of each row's groups.
    """
    kinds = [*LAYER, ("ptr", "sums"), ("i64", "outputs"), ("ptr", "x"), ("i64", "stride")]
    f = Function(
        f"multiply_{steps}_{rows}",
        [*kinds, ("ptr", "x_step"), ("ptr", "y"), ("i64", "begin"), ("i64", "end"), ("i64", "apart")],
    )
    codes = Codes(f, bits)
    codes.bytes_table()
    x_steps = [f.load("float", f.at("%x_step", str(t), "float")) for t in range(steps)]
    inputs = [f.at("%x", f.do(f"mul i64 %stride, {t}")) for t in range(steps)]

    def body(row: str, _: list[str]) -> list[str]:
        start = f.do(f"mul i64 {row}, %columns")
        group, shift = f.do(f"lshr i64 {start}, 6"), f.do(f"and i64 {start}, 63")
        size = f.do(f"add i64 {f.do(f'add i64 {shift}, %columns')}, 63")
        groups = f.do(f"lshr i64 {size}, 6")
        between = f.do(f"mul i64 {groups}, %apart")
        lead = f.do(f"sub i64 64, {shift}")  # what stands before the row is multiplied by the offset
        shifted = [f.at(x, lead) for x in inputs]

        def inner(index: str, sums: list[str]) -> list[str]:
            found = []
            bytes_in = f.do(f"shl i64 {index}, 6")
            values = [f.load(BYTES, f.at(x, bytes_in)) for x in shifted]
            here = f.do(f"add i64 {group}, {index}")
            for r in range(rows):
                own = here if r == 0 else f.do(f"add i64 {here}, {f.do(f'mul i64 {between}, {r}')}")
                if steps == 1:
                    read_ahead(f, bits, own)
                weights = codes.integers(own)
                found += [dot(f, sums[r * steps + t], values[t], weights) for t in range(steps)]
            return found

        zeros = [(SUMS, "zeroinitializer")] * (rows * steps)
        totals = f.loop("0", groups, 1, zeros, inner, "groups")
        for r in range(rows):
            at = f.do(f"add i64 {row}, {f.do(f'mul i64 %apart, {r}')}")
            offset = f.load("i32", f.at("%sums", at, "i32"))
            scale = f.load("float", f.at("%scale", f.do(f"mul i64 {at}, %scale_step"), "float"))
            bias = bias_at(f, at)
            for t in range(steps):
                total = f.call("i32", "llvm.vector.reduce.add.v16i32", f"{SUMS} {totals[r * steps + t]}")
                exact = f.do(f"sitofp i32 {f.do(f'sub i32 {total}, {offset}')} to float")
                scaled = f.do(f"fmul float {f.do(f'fmul float {exact}, {x_steps[t]}')}, {scale}")
                y = f.at("%y", f.do(f"add i64 {f.do(f'mul i64 %outputs, {t}')}, {at}"), "float")
                f.store("float", f.do(f"fadd float {scaled}, {bias}"), y, 4)
        return []

    f.loop("%begin", "%end", 1, [], body, "rows")
    return f


def read_ahead(f: Function, bits: int, group: str) -> None:
    """Ask for the codes that stand `AHEAD` bytes behind a group."""
    later = f.at("%codes", f.do(f"add i64 {f.do(f'mul i64 {group}, {8 * bits}')}, {AHEAD}"))
    f.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    f.effect(f"call void @llvm.prefetch.p0(ptr {later}, i32 0, i32 3, i32 1)")


def bias_at(f: Function, row: str) -> str:
    """The row's bias; a layer without one has a step of 0 and -0, which adds nothing, not even to -0."""
    return f.load("float", f.at("%bias", f.do(f"mul i64 {row}, %bias_step"), "float"), 4)


def dot(f: Function, total: str, x: str, weights: str) -> str:
    """Sixteen sums of four products each, of unsigned x and signed weights, added to `total`."""
    parts = [f.do(f"bitcast {BYTES} {value} to {SUMS}") for value in (x, weights)]
    return f.call(SUMS, "llvm.x86.avx512.vpdpbusd.512", f"{SUMS} {total}", f"{SUMS} {parts[0]}", f"{SUMS} {parts[1]}")


def decode_bytes(bits: int) -> Function:
    """`decode_bytes`: groups `begin` to `end` as int8, at their places in `target`."""
    f = Function(
        "decode_bytes", [("ptr", "codes"), ("ptr", "table"), ("ptr", "target"), ("i64", "begin"), ("i64", "end")]
    )
    codes = Codes(f, bits)
    codes.bytes_table()

    def body(group: str, _: list[str]) -> list[str]:
        f.store(BYTES, codes.integers(group), f.at("%target", f.do(f"shl i64 {group}, 6")))
        return []

    f.loop("%begin", "%end", 1, [], body)
    return f


def decode_floats(bits: int) -> Function:
    """`decode_floats`: `rows` rows of `groups` groups as float32, each row times its scale."""
    kinds = [("ptr", "codes"), ("ptr", "table"), ("ptr", "target"), ("i64", "rows"), ("i64", "groups")]
    f = Function("decode_floats", [*kinds, ("ptr", "scale"), ("i64", "scale_step")])
    codes = Codes(f, bits)
    codes.floats_table()

    def body(row: str, _: list[str]) -> list[str]:
        scale = f.splat("float", 16, f.load("float", f.at("%scale", f.do(f"mul i64 {row}, %scale_step"), "float")))
        first = f.do(f"mul i64 {row}, %groups")

        def inner(index: str, _: list[str]) -> list[str]:
            group = f.do(f"add i64 {first}, {index}")
            for quarter, values in enumerate(codes.floats(group)):
                place = f.do(f"add i64 {f.do(f'shl i64 {group}, 8')}, {64 * quarter}")
                f.store(FLOATS, f.do(f"fmul {FLOATS} {values}, {scale}"), f.at("%target", place))
            return []

        f.loop("0", "%groups", 1, [], inner, "groups")
        return []

    f.loop("0", "%rows", 1, [], body, "rows")
    return f


def multiply_floats(bits: int) -> Function:
    """`multiply_floats`: y of one row of float activations, for rows `begin` to `end` of whole groups, two at a time."""
    kinds = [*LAYER, ("ptr", "x"), ("ptr", "y"), ("i64", "begin"), ("i64", "end")]
    f = Function("multiply_floats", kinds)
    codes = Codes(f, bits)
    codes.floats_table()
    groups = f.do("lshr i64 %columns, 6")

    def body(row: str, _: list[str]) -> list[str]:
        first = f.do(f"mul i64 {row}, {groups}")

        def inner(index: str, sums: list[str]) -> list[str]:
            place = f.do(f"shl i64 {index}, 8")
            x = [f.load(FLOATS, f.at("%x", f.do(f"add i64 {place}, {64 * q}"))) for q in range(4)]
            found = []
            for r in range(ROWS_FLOAT):
                base = f.do(f"add i64 {first}, {index}")
                group = base if r == 0 else f.do(f"add i64 {base}, {f.do(f'mul i64 {groups}, {r}')}")
                for q, values in enumerate(codes.floats(group)):
                    total = sums[4 * r + q]
                    found.append(
                        f.call(FLOATS, "llvm.fma.v16f32", f"{FLOATS} {values}", f"{FLOATS} {x[q]}", f"{FLOATS} {total}")
                    )
            return found

        totals = f.loop("0", groups, 1, [(FLOATS, "zeroinitializer")] * (4 * ROWS_FLOAT), inner, "groups")
        for r in range(ROWS_FLOAT):
            one, two, three, four = totals[4 * r : 4 * r + 4]
            both = [f.do(f"fadd {FLOATS} {a}, {b}") for a, b in ((one, two), (three, four))]
            total = f.call(
                "float",
                "llvm.vector.reduce.fadd.v16f32",
                "float -0.0",
                f"{FLOATS} {f.do(f'fadd {FLOATS} {both[0]}, {both[1]}')}",
                flags="reassoc ",
            )
            at = f.do(f"add i64 {row}, {r}")
            scale = f.load("float", f.at("%scale", f.do(f"mul i64 {at}, %scale_step"), "float"))
            scaled = f.do(f"fmul float {total}, {scale}")
            y = f.do(f"fadd float {scaled}, {bias_at(f, at)}")
            f.store("float", y, f.at("%y", at, "float"), 4)
        return []

    f.loop("%begin", "%end", ROWS_FLOAT, [], body, "rows")
    return f


RECORD = ("codes", "table", "columns", "scale", "scale_step", "sums", "outputs", "stride", "alone_from", "nothing")
"""The fields of a layer's record, 64 bits each; rows from `alone_from` on are not computed together with others;
`nothing` is the address of a bias of -0."""


def _field(f: Function, name: str) -> str:
    return f.load("i64", f.at("%layer", str(RECORD.index(name)), "i64"), 8)


def layer_rows() -> Function:
    """`layer_rows`: y of rounded activations `[t]`, for weight rows `begin` to `end`, in the largest blocks that fit."""
    kinds = [("ptr", "layer"), ("ptr", "bias"), ("i64", "bias_step"), ("ptr", "x"), ("ptr", "x_step"), ("i64", "count")]
    f = Function("layer_rows", [*kinds, ("ptr", "y"), ("i64", "begin"), ("i64", "end")])
    values = {name: _field(f, name) for name in RECORD}
    pointers = {name: f.do(f"inttoptr i64 {values[name]} to ptr") for name in ("codes", "table", "scale", "sums")}
    limit = f.call("i64", "llvm.smin.i64", "i64 %end", f"i64 {values['alone_from']}")
    room = f.call("i64", "llvm.smax.i64", f"i64 {f.do(f'sub i64 {limit}, %begin')}", "i64 0")

    def block(steps: int, together: int, start: str, stop: str) -> None:
        def body(step: str, _: list[str]) -> list[str]:
            x = f.at("%x", f.do(f"mul i64 {step}, {values['stride']}"))
            x_step = f.at("%x_step", step, "float")
            y = f.at("%y", f.do(f"mul i64 {step}, {values['outputs']}"), "float")
            apart = f.do(f"sdiv i64 {room}, {together}")
            first = f.do(f"add i64 %begin, {apart}")
            middle = f.do(f"add i64 %begin, {f.do(f'mul i64 {apart}, {together}')}")
            for rows, begin, end in ((together, "%begin", first), (1, middle, "%end")):
                layer = f"ptr {pointers['codes']}, ptr {pointers['table']}, i64 {values['columns']}, "
                layer += f"ptr {pointers['scale']}, i64 {values['scale_step']}, ptr %bias, i64 %bias_step, "
                layer += f"ptr {pointers['sums']}, i64 {values['outputs']}, ptr {x}, i64 {values['stride']}, "
                f.effect(
                    f"call void @multiply_{steps}_{rows}({layer}ptr {x_step}, ptr {y}, i64 {begin}, i64 {end}, i64 {apart})"
                )
            return []

        f.loop(start, stop, steps, [], body)

    eights, fours = f.do("and i64 %count, -8"), f.do("and i64 %count, -4")
    block(8, 2, "0", eights)
    block(4, 2, eights, fours)
    block(1, 8, fours, "%count")
    return f


def layer_one() -> Function:
    """`layer_one`: y of one row of float activations, rounded on the stack; `bias` may be null."""
    f = Function("layer_one", [("ptr", "layer"), ("ptr", "bias"), ("ptr", "x"), ("ptr", "y")])
    stride, columns, rows = (_field(f, name) for name in ("stride", "columns", "outputs"))
    nothing = f.do(f"inttoptr i64 {_field(f, 'nothing')} to ptr")
    has_bias = f.do("icmp ne ptr %bias, null")
    bias = f.do(f"select i1 {has_bias}, ptr %bias, ptr {nothing}")
    bias_step = f.do(f"zext i1 {has_bias} to i64")
    room = f.do(f"alloca i8, i64 {stride}, align 64")
    step = f.do("alloca float, align 4")
    f.effect(f"call void @round_padded(ptr %x, i64 1, i64 {columns}, ptr {room}, i64 {stride}, ptr {step})")
    rest = f"ptr {room}, ptr {step}, i64 1, ptr %y, i64 0, i64 {rows}"
    f.effect(f"call void @layer_rows(ptr %layer, ptr {bias}, i64 {bias_step}, {rest})")
    return f
