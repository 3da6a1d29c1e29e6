"""Products with packed weights for few rows of activations, and decoding, as LLVM assembly.

Activations are bytes with an offset of 128, which the sums of each row's integers take out again. How codes become values
and how bytes are multiplied is the processor's matter: see `codes`.
"""

from __future__ import annotations

from slt_sub8bit.lookup_kernels import calls
from slt_sub8bit.lookup_kernels.activations import rounded
from slt_sub8bit.lookup_kernels.assembly import Function, module
from slt_sub8bit.lookup_kernels.codes import BYTES, FLOATS, SUMS, Codes
from slt_sub8bit.lookup_kernels.tiles import decode_tile, layer_tiles, many_rows, tiled_activations

AHEAD = 1024  # bytes of each stream asked for before they are needed
ROWS_FLOAT = 2
LAYER = [("ptr", "codes"), ("ptr", "table"), ("i64", "columns"), ("ptr", "scale"), ("i64", "scale_step")]
LAYER += [("ptr", "bias"), ("i64", "bias_step")]


def source(bits: int, kind: type[Codes]) -> str:
    """The kernels of one width for one kind of processor."""
    shapes = sorted({(steps, rows) for steps, together in kind.blocks for rows in (together, 1)})
    kernels = [multiply(bits, kind, steps, rows) for steps, rows in shapes]
    kernels += [decode_bytes(bits, kind), decode_floats(bits, kind), multiply_floats(bits, kind)]
    kernels += [rounded(), layer_rows(kind), few_rows(), layer_one(), layer_call("few")]
    names = ["one", "few"]
    if kind.has_tiles:
        kernels += [tiled_activations(), decode_tile(bits, kind), layer_tiles(bits, kind, RECORD), many_rows(RECORD)]
        kernels.append(layer_call("many"))
        names.append("many")
    return module(kernels) + calls.source({f"layer_{name}": f"call_{name}" for name in names})


def multiply(bits: int, kind: type[Codes], steps: int, rows: int) -> Function:
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
    codes = kind(f, bits)
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
                read_ahead(f, bits, own)
                weights = codes.integers(own)
                found += [codes.dot(sums[r * steps + t], values[t], weights) for t in range(steps)]
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


def decode_bytes(bits: int, kind: type[Codes]) -> Function:
    """`decode_bytes`: groups `begin` to `end` as int8, at their places in `target`."""
    f = Function(
        "decode_bytes", [("ptr", "codes"), ("ptr", "table"), ("ptr", "target"), ("i64", "begin"), ("i64", "end")]
    )
    codes = kind(f, bits)
    codes.bytes_table()

    def body(group: str, _: list[str]) -> list[str]:
        f.store(BYTES, codes.integers(group), f.at("%target", f.do(f"shl i64 {group}, 6")))
        return []

    f.loop("%begin", "%end", 1, [], body)
    return f


def decode_floats(bits: int, kind: type[Codes]) -> Function:
    """`decode_floats`: `rows` rows of `groups` groups as float32, each row times its scale."""
    kinds = [("ptr", "codes"), ("ptr", "table"), ("ptr", "target"), ("i64", "rows"), ("i64", "groups")]
    f = Function("decode_floats", [*kinds, ("ptr", "scale"), ("i64", "scale_step")])
    codes = kind(f, bits)
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


def multiply_floats(bits: int, kind: type[Codes]) -> Function:
    """`multiply_floats`: y of one row of float activations, for rows `begin` to `end` of whole groups, two at a time."""
    kinds = [*LAYER, ("ptr", "x"), ("ptr", "y"), ("i64", "begin"), ("i64", "end")]
    f = Function("multiply_floats", kinds)
    codes = kind(f, bits)
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


RECORD = (
    "codes",
    "table",
    "columns",
    "scale",
    "scale_step",
    "sums",
    "outputs",
    "stride",
    "alone_from",
    "nothing",
    "row_sums",
)
"""The fields of a layer's record, 64 bits each; rows from `alone_from` on are not computed together with others;
`nothing` is the address of a bias of -0."""


def _field(f: Function, name: str) -> str:
    return f.load("i64", f.at("%layer", str(RECORD.index(name)), "i64"), 8)


def layer_rows(kind: type[Codes]) -> Function:
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

    done = "0"
    for steps, together in kind.blocks:
        stop = f.do(f"and i64 %count, {-steps}")
        block(steps, together, done, stop)
        done = stop
    return f


CALL = (("ptr", "layer"), ("ptr", "bias"), ("ptr", "x"), ("ptr", "y"), ("i64", "count"), ("ptr", "room"))
"""What a layer's function takes: `bias` may be null; `room` is memory that begins at a whole line, as much as is needed."""
SOME = (*CALL[:2], ("i64", "bias_step"), *CALL[2:], ("i64", "begin"), ("i64", "end"))
"""What the functions behind it take, for weight rows `begin` to `end`."""


def layer_one() -> Function:
    """`layer_one`: y of one row of float activations, rounded on the stack; `count` and `room` are not used."""
    f = Function("layer_one", CALL)
    stride, columns, rows = (_field(f, name) for name in ("stride", "columns", "outputs"))
    bias, bias_step = _bias_or_nothing(f)
    room = f.do(f"alloca i8, i64 {stride}, align 64")
    step = f.do("alloca float, align 4")
    f.effect(f"call void @round_padded(ptr %x, i64 1, i64 {columns}, ptr {room}, i64 {stride}, ptr {step})")
    rest = f"ptr {room}, ptr {step}, i64 1, ptr %y, i64 0, i64 {rows}"
    f.effect(f"call void @layer_rows(ptr %layer, ptr {bias}, i64 {bias_step}, {rest})")
    return f


def layer_call(name: str) -> Function:
    """`layer_few` or `layer_many`: y of `count` rows of float activations."""
    f = Function(f"layer_{name}", CALL)
    bias, bias_step = _bias_or_nothing(f)
    given = f"ptr %layer, ptr {bias}, i64 {bias_step}, ptr %x, ptr %y, i64 %count, ptr %room"
    f.effect(f"call void @{name}_rows({given}, i64 0, i64 {_field(f, 'outputs')})")
    return f


def few_rows() -> Function:
    """`few_rows`: y of `count` rows of float activations, for weight rows `begin` to `end`."""
    f = Function("few_rows", SOME)
    stride, columns = (_field(f, name) for name in ("stride", "columns"))
    step = f.at("%room", f.do(f"mul i64 {stride}, %count"))
    f.effect(f"call void @round_padded(ptr %x, i64 %count, i64 {columns}, ptr %room, i64 {stride}, ptr {step})")
    rest = f"ptr %room, ptr {step}, i64 %count, ptr %y, i64 %begin, i64 %end"
    f.effect(f"call void @layer_rows(ptr %layer, ptr %bias, i64 %bias_step, {rest})")
    return f


def _bias_or_nothing(f: Function) -> tuple[str, str]:
    nothing = f.do(f"inttoptr i64 {_field(f, 'nothing')} to ptr")
    has_bias = f.do("icmp ne ptr %bias, null")
    return f.do(f"select i1 {has_bias}, ptr %bias, ptr {nothing}"), f.do(f"zext i1 {has_bias} to i64")
