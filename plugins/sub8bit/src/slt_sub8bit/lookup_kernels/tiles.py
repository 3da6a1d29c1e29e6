"""Many rows of activations times packed codes, in tiles of 16 by 16 results, for AVX-512.

Sixteen rows of the weight are decoded to int8 where the nearest cache holds them, 64 columns of each row next to each
other. Activations stand in vectors of 16 rows by 4 columns, made once a layer. One instruction then multiplies such a
vector by the same four weights in every lane: 16 sums of 16 rows of weights stay in registers over all columns, and no
sum crosses lanes. Where two vectors of activations are at hand, each weight serves both, and eight rows of weights are in
registers: the broadcast of a weight takes as long as two such instructions.
"""

from __future__ import annotations

from slt_sub8bit.lookup_kernels.activations import LEAD, padded_stride
from slt_sub8bit.lookup_kernels.assembly import Function, vector
from slt_sub8bit.lookup_kernels.codes import PRODUCT, Codes

TILE = 16
EIGHT = TILE // 2
GROUP = 64
STRIP = 32  # rows of the weight decoded at a time
DEPTH = 8  # groups of columns whose activations stay in the nearest cache
MOST_SUMS = 3 * STRIP * 64  # bytes of sums that wait
BYTES, SUMS, FLOATS, MASK = "<64 x i8>", "<16 x i32>", "<16 x float>", "<16 x i1>"
LANES = vector("i32", list(range(TILE)))
BLOCK = TILE * GROUP  # bytes of sixteen rows of one group


def transposed(f: Function, rows: list[str], kind: str = SUMS) -> list[str]:
    """Sixteen vectors of sixteen, transposed: each step exchanges blocks of half the size of the one before."""
    values = list(rows)
    for size in (8, 4, 2, 1):
        for i in range(TILE):
            if i & size:
                continue
            pair = f"{kind} {values[i]}, {kind} {values[i | size]}"
            low = [lane if not lane & size else TILE + (lane ^ size) for lane in range(TILE)]
            high = [(lane ^ size) if not lane & size else TILE + lane for lane in range(TILE)]
            values[i], values[i | size] = (
                f.do(f"shufflevector {pair}, <16 x i32> {vector('i32', order)}") for order in (low, high)
            )
    return values


def least(f: Function, one: str, other: str) -> str:
    """The smaller of two whole numbers."""
    return f.call("i64", "llvm.smin.i64", f"i64 {one}", f"i64 {other}")


def tiled_activations() -> Function:
    """`tiled_activations`: rows of bytes as `round_padded` writes them, as tiles `[rows/16 groups 16 16 4]`; the last row
    fills up the last tile."""
    kinds = [("ptr", "rounded"), ("i64", "stride"), ("i64", "rows"), ("i64", "groups"), ("ptr", "target")]
    f = Function("tiled_activations", kinds)
    last = f.do("sub i64 %rows, 1")
    size = f.do(f"mul i64 %groups, {BLOCK}")

    def body(first: str, _: list[str]) -> list[str]:
        starts = []
        for t in range(TILE):
            row = least(f, f.do(f"add i64 {first}, {t}"), last)
            starts.append(f.at("%rounded", f.do(f"add i64 {f.do(f'mul i64 {row}, %stride')}, {LEAD}")))
        target = f.at("%target", f.do(f"mul i64 {f.do(f'lshr i64 {first}, 4')}, {size}"))

        def inner(group: str, _: list[str]) -> list[str]:
            place = f.do(f"shl i64 {group}, 6")
            found = transposed(f, [f.load(SUMS, f.at(start, place)) for start in starts])
            block = f.at(target, f.do(f"mul i64 {group}, {BLOCK}"))
            for quad, values in enumerate(found):
                f.store(SUMS, values, f.at(block, str(64 * quad)))
            return []

        f.loop("0", "%groups", 1, [], inner, "groups")
        return []

    f.loop("0", "%rows", TILE, [], body, "rows")
    return f


def decode_tile(bits: int, kind: type[Codes]) -> Function:
    """`decode_tile`: int8 of sixteen rows from `row` on, the last row in the place of rows behind it, as `[groups 16 64]`;
    zeros behind the columns. `line` has room for one row and two groups."""
    listed = [("ptr", "codes"), ("ptr", "table"), ("i64", "columns"), ("i64", "row"), ("i64", "rows"), ("ptr", "line")]
    f = Function("decode_tile", [*listed, ("ptr", "target")])
    codes = kind(f, bits, "%codes", "%table")
    codes.bytes_table()
    last = f.do("sub i64 %rows, 1")
    groups = f.do(f"lshr i64 {f.do('add i64 %columns, 63')}, 6")
    odd = f.do(f"icmp ne i64 {f.do('and i64 %columns, 63')}, 0")
    alone, never = f.do(f"zext i1 {odd} to i64"), f.do(f"zext i1 {f.do(f'xor i1 {odd}, true')} to i64")

    def body(index: str, _: list[str]) -> list[str]:
        start = f.do(f"mul i64 {least(f, f.do(f'add i64 %row, {index}'), last)}, %columns")
        first, shift = f.do(f"lshr i64 {start}, 6"), f.do(f"and i64 {start}, 63")
        target = f.at("%target", f.do(f"shl i64 {index}, 6"))

        def whole(group: str, _: list[str]) -> list[str]:
            f.store(
                BYTES,
                codes.integers(f.do(f"add i64 {first}, {group}")),
                f.at(target, f.do(f"mul i64 {group}, {BLOCK}")),
            )
            return []

        f.loop("0", f.do(f"mul i64 {never}, {groups}"), 1, [], whole, "whole")
        size = f.do(f"add i64 {f.do(f'add i64 {shift}, %columns')}, 63")

        def decode(group: str, _: list[str]) -> list[str]:
            f.store(
                BYTES, codes.integers(f.do(f"add i64 {first}, {group}")), f.at("%line", f.do(f"shl i64 {group}, 6"))
            )
            return []

        f.loop("0", f.do(f"mul i64 {alone}, {f.do(f'lshr i64 {size}, 6')}"), 1, [], decode, "decode")
        line = f.at("%line", shift)

        def move(group: str, _: list[str]) -> list[str]:
            place = f.do(f"shl i64 {group}, 6")
            left = f.do(f"trunc i64 {least(f, f.do(f'sub i64 %columns, {place}'), '64')} to i8")
            inside = f.do(f"icmp ult {BYTES} {vector('i8', list(range(64)))}, {f.splat('i8', 64, left)}")
            values = f.do(
                f"select <64 x i1> {inside}, {BYTES} {f.load(BYTES, f.at(line, place))}, {BYTES} zeroinitializer"
            )
            f.store(BYTES, values, f.at(target, f.do(f"mul i64 {group}, {BLOCK}")))
            return []

        f.loop("0", f.do(f"mul i64 {alone}, {groups}"), 1, [], move, "move")
        return []

    f.loop("0", str(TILE), 1, [], body, "rows")
    return f


class _Tiles:
    """The results of one layer: what all tiles share, and the two shapes of a tile."""

    def __init__(self, f: Function, bits: int, kind: type[Codes], fields: tuple[str, ...]) -> None:
        self.f = f
        held = {name: f.load("i64", f.at("%layer", str(place), "i64"), 8) for place, name in enumerate(fields)}
        self.pointers = {
            name: f.do(f"inttoptr i64 {held[name]} to ptr") for name in ("codes", "table", "scale", "row_sums")
        }
        self.columns, self.outputs, self.scale_step = held["columns"], held["outputs"], held["scale_step"]
        self.groups = f.do(f"lshr i64 {f.do(f'add i64 {self.columns}, 63')}, 6")
        self.size = f.do(f"mul i64 {self.groups}, {BLOCK}")
        self.last = f.do("sub i64 %count, 1")
        self.sums = self._tile(STRIP // TILE)
        self.codes = kind(f, bits, self.pointers["codes"], self.pointers["table"])
        self.codes.bytes_table()

    def decoded(self, row: str) -> None:
        """Decode the rows of a strip, for all tiles beside them."""
        f, pointers = self.f, self.pointers
        line = f.at(self.sums, str(MOST_SUMS))
        for tile in range(STRIP // TILE):
            first = f.do(f"add i64 {row}, {TILE * tile}")
            given = (
                f"ptr {pointers['codes']}, ptr {pointers['table']}, i64 {self.columns}, i64 {first}, i64 {self.outputs}"
            )
            f.effect(f"call void @decode_tile({given}, ptr {line}, ptr {self._tile(tile)})")

    def _tile(self, index: int | str) -> str:
        return self.f.at("%room", self.f.do(f"mul i64 {self.size}, {index}"))

    def fresh(self, row: str) -> None:
        """At most sixteen rows of activations by sixteen of the weight, whose codes are decoded on the way, while those of
        the next sixteen rows are asked for."""
        f, bits = self.f, self.codes.bits
        starts = [self._first_group(row, r) for r in range(TILE)]
        later = f.at(self.pointers["codes"], f.do(f"mul i64 {self.groups}, {TILE * 8 * bits}"))

        def products(group: str, sums: list[str]) -> list[str]:
            for r, start in enumerate(starts):
                here = f.do(f"add i64 {start}, {group}")
                ask(f, f.at(later, f.do(f"mul i64 {here}, {8 * bits}")), 3)
                f.store(BYTES, self.codes.integers(here), f.at("%room", str(64 * r)), 64)
            return self._multiplied(group, sums, ["%x"], "%room", TILE)

        sums = f.loop("0", self.groups, 1, [(SUMS, "zeroinitializer")] * TILE, products, "groups")
        self._write(sums, "0", row)

    def wide(self, t: str, row: str, count: int) -> None:
        """`count` times sixteen rows of activations by a strip of the weight: eight rows of it at a time, of as many columns
        as the nearest cache holds of the activations; sums wait in memory for the next columns."""
        f = self.f
        first = f.at("%x", f.do(f"mul i64 {f.do(f'lshr i64 {t}, 4')}, {self.size}"))
        inputs = [first, *(f.at(first, f.do(f"mul i64 {self.size}, {i}")) for i in range(1, count))]
        later = f.do(f"mul i64 {f.do(f'add i64 {row}, {STRIP}')}, {self.columns}")
        following = f.at(self.pointers["codes"], f.do(f"mul i64 {f.do(f'lshr i64 {later}, 6')}, {8 * self.codes.bits}"))
        for place in range(STRIP * count):
            f.store(SUMS, "zeroinitializer", f.at(self.sums, str(64 * place)), 64)

        def columns(begin: str, _: list[str]) -> list[str]:
            end = least(f, f.do(f"add i64 {begin}, {DEPTH}"), self.groups)

            def rows(index: str, _: list[str]) -> list[str]:
                tile = self._tile(f.do(f"lshr i64 {index}, 1"))
                half = f.at(tile, f.do(f"mul i64 {f.do(f'and i64 {index}, 1')}, {BLOCK // 2}"))
                kept = f.at(self.sums, f.do(f"mul i64 {index}, {64 * EIGHT * count}"))
                places = [f.at(kept, str(64 * place)) for place in range(EIGHT * count)]

                part = f.do(f"mul i64 {index}, {self.groups}")

                def products(group: str, sums: list[str]) -> list[str]:
                    weights = f.at(half, f.do(f"mul i64 {group}, {BLOCK}"))
                    line = f.at(
                        following, f.do(f"mul i64 {f.do(f'add i64 {part}, {group}')}, {GROUP * self.codes.bits}")
                    )
                    for place in range(self.codes.bits):
                        ask(f, f.at(line, str(GROUP * place)), 2)
                    return self._multiplied(group, sums, inputs, weights, EIGHT)

                before = [(SUMS, f.load(SUMS, place, 64)) for place in places]
                for place, total in zip(places, f.loop(begin, end, 1, before, products, "groups"), strict=True):
                    f.store(SUMS, total, place, 64)
                return []

            f.loop("0", str(STRIP // EIGHT), 1, [], rows, "eights")
            return []

        f.loop("0", self.groups, DEPTH, [], columns, "columns")

        def write(tile: str, _: list[str]) -> list[str]:
            below = f.do(f"add i64 {row}, {f.do(f'mul i64 {tile}, {TILE}')}")
            kept = f.at(self.sums, f.do(f"mul i64 {tile}, {64 * TILE * count}"))
            for i in range(count):
                order = [EIGHT * count * (r // EIGHT) + EIGHT * i + r % EIGHT for r in range(TILE)]
                sums = [f.load(SUMS, f.at(kept, str(64 * place)), 64) for place in order]
                self._write(sums, f.do(f"add i64 {t}, {TILE * i}"), below)
            return []

        f.loop("0", str(STRIP // TILE), 1, [], write, "write")

    def _first_group(self, row: str, r: int) -> str:
        f = self.f
        at = least(f, f.do(f"add i64 {row}, {r}"), f.do(f"sub i64 {self.outputs}, 1"))
        return f.do(f"mul i64 {at}, {self.groups}")

    def _multiplied(self, group: str, sums: list[str], inputs: list[str], weights: str, rows: int) -> list[str]:
        """The products of one group of columns, added to the sums `[activations rows]`."""
        f, sums = self.f, list(sums)
        place = f.do(f"mul i64 {group}, {BLOCK}")
        blocks = [f.at(x, place) for x in inputs]
        for quad in range(TILE):
            values = [f.load(SUMS, f.at(block, str(64 * quad)), 64) for block in blocks]
            for r in range(rows):
                four = f.load("i32", f.at(weights, str(64 * r + 4 * quad)), 4)
                same = f.splat("i32", TILE, four)
                for i, value in enumerate(values):
                    total = f"{SUMS} {sums[i * rows + r]}"
                    sums[i * rows + r] = f.call(SUMS, PRODUCT, total, f"{SUMS} {value}", f"{SUMS} {same}")
        return sums

    def _write(self, sums: list[str], t: str, row: str) -> None:
        """Write sixteen rows of sixteen results; rows of activations behind the last write the last again."""
        f = self.f
        inside, offsets, scale, bias = self._of_rows(row)
        for place, whole in enumerate(transposed(f, sums)):
            at = least(f, f.do(f"add i64 {t}, {place}"), self.last)
            step = f.splat("float", TILE, f.load("float", f.at("%x_step", at, "float"), 4))
            exact = f.do(f"sitofp {SUMS} {f.do(f'sub {SUMS} {whole}, {offsets}')} to {FLOATS}")
            scaled = f.do(f"fmul {FLOATS} {f.do(f'fmul {FLOATS} {exact}, {step}')}, {scale}")
            y = f.at("%y", f.do(f"add i64 {f.do(f'mul i64 {at}, {self.outputs}')}, {row}"), "float")
            f.masked_store(FLOATS, f.do(f"fadd {FLOATS} {scaled}, {bias}"), y, f"{MASK} {inside}")

    def _of_rows(self, row: str) -> tuple[str, str, str, str]:
        """What results of sixteen rows of the weight need: which are there, and their offsets, scales and biases."""
        f = self.f
        ends = f.splat("i32", TILE, f.do(f"trunc i64 {f.do(f'sub i64 {self.outputs}, {row}')} to i32"))
        inside = f.do(f"icmp slt {SUMS} {LANES}, {ends}")
        place = f.at(self.pointers["row_sums"], row, "i32")
        given = (f"ptr {place}", "i32 4", f"{MASK} {inside}", f"{SUMS} zeroinitializer")
        offsets = f.call(SUMS, "llvm.masked.load.v16i32.p0", *given)
        found = []
        for pointer, step in ((self.pointers["scale"], self.scale_step), ("%bias", "%bias_step")):
            many = f.splat("i1", TILE, f.do(f"icmp ne i64 {step}, 0"))
            lanes = f.do(f"and {MASK} {inside}, {many}")
            one = f.splat("float", TILE, f.load("float", pointer, 4))
            given = (f"ptr {f.at(pointer, row, 'float')}", "i32 4", f"{MASK} {lanes}", f"{FLOATS} {one}")
            found.append(f.call(FLOATS, "llvm.masked.load.v16f32.p0", *given))
        return inside, offsets, found[0], found[1]


def ask(f: Function, place: str, locality: int) -> None:
    """Ask for a line of memory: of locality 3 for the nearest cache, of 2 for the next."""
    f.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    f.effect(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 {locality}, i32 1)")


def layer_tiles(bits: int, kind: type[Codes], fields: tuple[str, ...]) -> Function:
    """`layer_tiles`: y of tiled activations, for weight rows `begin` to `end`; `room` holds a strip of the weight, sums, and
    a row with two groups more."""
    kinds = [("ptr", "layer"), ("ptr", "bias"), ("i64", "bias_step"), ("ptr", "x"), ("ptr", "x_step"), ("i64", "count")]
    f = Function("layer_tiles", [*kinds, ("ptr", "y"), ("i64", "begin"), ("i64", "end"), ("ptr", "room")])
    tiles = _Tiles(f, bits, kind, fields)
    few = f.do("icmp sle i64 %count, 16")
    whole = f.do(f"icmp eq i64 {f.do(f'and i64 {tiles.columns}, 63')}, 0")
    fused = f.do(f"and i1 {few}, {whole}")
    split = f.do(f"select i1 {fused}, i64 %end, i64 %begin")
    count = f.do(f"and i64 {f.do('add i64 %count, 15')}, -16")
    threes = f.do(f"mul i64 {f.do(f'udiv i64 {count}, {3 * TILE}')}, {3 * TILE}")
    left = f.do(f"sub i64 {count}, {threes}")
    twos = f.do(f"add i64 {threes}, {f.do(f'and i64 {left}, {2 * TILE}')}")

    def only(row: str, _: list[str]) -> list[str]:
        tiles.fresh(row)
        return []

    def body(row: str, _: list[str]) -> list[str]:
        tiles.decoded(row)
        for many, begin, end in ((3, "0", threes), (2, threes, twos), (1, twos, "%count")):

            def tile(t: str, _: list[str], many: int = many) -> list[str]:
                tiles.wide(t, row, many)
                return []

            f.loop(begin, end, many * TILE, [], tile, "tiles")
        return []

    f.loop("%begin", split, TILE, [], only, "only")
    f.loop(split, "%end", STRIP, [], body, "rows")
    return f


def many_rows(fields: tuple[str, ...]) -> Function:
    """`many_rows`: y of `count` rows of float activations, for weight rows `begin` to `end`; `room` of `room_bytes`."""
    kinds = [("ptr", "layer"), ("ptr", "bias"), ("i64", "bias_step"), ("ptr", "x"), ("ptr", "y"), ("i64", "count")]
    f = Function("many_rows", [*kinds, ("ptr", "room"), ("i64", "begin"), ("i64", "end")])
    stride, columns = (
        f.load("i64", f.at("%layer", str(fields.index(name)), "i64"), 8) for name in ("stride", "columns")
    )
    groups = f.do(f"lshr i64 {f.do(f'add i64 {columns}, 63')}, 6")

    def after(start: str, size: str) -> str:
        whole = f.do(f"and i64 {f.do(f'add i64 {size}, 63')}, -64")
        return f.at(start, whole)

    x_step = after("%room", f.do(f"mul i64 {stride}, {TILE}"))
    tiles = after(x_step, f.do("shl i64 %count, 2"))
    padded = f.do(f"and i64 {f.do('add i64 %count, 15')}, -16")
    strip = after(tiles, f.do(f"mul i64 {f.do(f'mul i64 {padded}, {groups}')}, {GROUP}"))

    def sixteen(t: str, _: list[str]) -> list[str]:
        some = least(f, f.do(f"sub i64 %count, {t}"), str(TILE))
        x = f.at("%x", f.do(f"mul i64 {t}, {columns}"), "float")
        target = f.at(tiles, f.do(f"mul i64 {f.do(f'mul i64 {t}, {groups}')}, {GROUP}"))
        steps = f.at(x_step, t, "float")
        f.effect(f"call void @round_padded(ptr {x}, i64 {some}, i64 {columns}, ptr %room, i64 {stride}, ptr {steps})")
        f.effect(f"call void @tiled_activations(ptr %room, i64 {stride}, i64 {some}, i64 {groups}, ptr {target})")
        return []

    f.loop("0", "%count", TILE, [], sixteen, "sixteens")
    rest = f"ptr {tiles}, ptr {x_step}, i64 %count, ptr %y, i64 %begin, i64 %end, ptr {strip}"
    f.effect(f"call void @layer_tiles(ptr %layer, ptr %bias, i64 %bias_step, {rest})")
    return f


def room_bytes(count: int, columns: int) -> int:
    """Memory that `many_rows` needs: sixteen rows of activations, tiles of all, their steps, a strip of the weight, its sums,
    and a row."""
    groups = -(-columns // GROUP)
    activations = TILE * padded_stride(columns) + 4 * count + -(-count // TILE) * TILE * groups * GROUP
    return activations + ((STRIP + 1) * groups + 3) * GROUP + MOST_SUMS + 3 * GROUP
