"""Codes and what they stand for, 64 at a time: what every processor does its own way.

With AVX-512 BW, VBMI, VNNI and GFNI, sixty-four codes are b words of bits. A byte permutation brings byte k of every word
together, a product of 8 x 8 bit matrices with the identity turns those bytes into eight codes, a byte permutation with the
table as its source looks all 64 up, and one instruction multiplies them by 64 activations and sums: four or five
instructions for 64 weights of any width. With AVX2 each bit of each word becomes a byte of its own first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from slt_sub8bit.lookup_kernels.assembly import Function, vector

BYTES, WORDS, FLOATS, SUMS = "<64 x i8>", "<8 x i64>", "<16 x float>", "<16 x i32>"
HALF, EIGHT_SUMS, EIGHT_FLOATS, SHORTS = "<32 x i8>", "<8 x i32>", "<8 x float>", "<16 x i16>"
IDENTITY = vector("i8", [1 << (lane % 8) for lane in range(64)])
PRODUCT = "llvm.x86.avx512.vpdpbusd.512"


class Codes(ABC):
    """How one function gets at its weights: the table in registers, then 64 codes or values at a time."""

    name: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    """What a processor must have, in LLVM's words."""
    cpu: ClassVar[str | None]
    """The processor to compile for, or None for the one that this is."""
    blocks: ClassVar[tuple[tuple[int, int], ...]]
    """Rows of activations, and of weights, that the registers hold together: many rows of activations first, one last."""
    has_tiles: ClassVar[bool]
    """Whether the kernels of `tiles` can be used."""

    def __init__(self, function: Function, bits: int, codes: str = "%codes", table: str = "%table") -> None:
        self.function, self.bits, self.codes, self.source = function, bits, codes, table

    @abstractmethod
    def at(self, group: str) -> str:
        """The 64 codes of a group, as bytes."""

    @abstractmethod
    def bytes_table(self) -> None:
        """Load the int8 table, before the loops."""

    @abstractmethod
    def integers(self, group: str) -> str:
        """The 64 values of a group, int8."""

    @abstractmethod
    def floats_table(self) -> None:
        """Load the float table, before the loops, where registers hold it."""

    @abstractmethod
    def looked_up(self, index: str) -> str:
        """The sixteen floats that indices of 32 bits name."""

    @abstractmethod
    def dot(self, total: str, x: str, weights: str) -> str:
        """Sixteen sums of four products each, of unsigned x and signed weights, added to `total`."""

    def start(self, group: str) -> str:
        """The address of a group."""
        f = self.function
        return f.at(self.codes, f.do(f"mul i64 {group}, {8 * self.bits}"))

    def floats(self, group: str) -> list[str]:
        """The 64 values of a group, as four vectors."""
        f, codes = self.function, self.at(group)
        found = []
        for quarter in range(4):
            lanes = ", ".join(f"i32 {16 * quarter + lane}" for lane in range(16))
            part = f.do(f"shufflevector {BYTES} {codes}, {BYTES} poison, <16 x i32> <{lanes}>")
            found.append(self.looked_up(f.do(f"zext <16 x i8> {part} to {SUMS}")))
        return found


class Avx512(Codes):
    """Byte permutations, bit matrices and products of bytes."""

    name = "avx512"
    features = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni", "gfni")
    cpu = None
    blocks = ((8, 2), (4, 4), (2, 8), (1, 8))
    has_tiles = True

    def at(self, group: str) -> str:
        f, bits = self.function, self.bits
        start = self.start(group)
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
        if self.bits < 8:
            count = 2 if self.bits == 7 else 1
            self.table = [
                self.function.load(BYTES, self.function.at(self.source, str(64 * part))) for part in range(count)
            ]

    def integers(self, group: str) -> str:
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
        count = max(1, 2**self.bits // 16)
        self.table = [
            self.function.load(FLOATS, self.function.at(self.source, str(64 * part))) for part in range(count)
        ]

    def looked_up(self, index: str) -> str:
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

    def dot(self, total: str, x: str, weights: str) -> str:
        f = self.function
        parts = [f.do(f"bitcast {BYTES} {value} to {SUMS}") for value in (x, weights)]
        return f.call(SUMS, PRODUCT, f"{SUMS} {total}", f"{SUMS} {parts[0]}", f"{SUMS} {parts[1]}")


class Avx2(Codes):
    """Bits spread to bytes, tables of 16 bytes, and products of 16-bit numbers."""

    name = "avx2"
    features = ("avx2", "fma", "bmi", "bmi2")
    cpu = "x86-64-v3"
    blocks = ((4, 1), (2, 2), (1, 4))
    has_tiles = False

    def at(self, group: str) -> str:
        f, start = self.function, self.start(group)
        if self.bits == 8:
            return f.load(BYTES, start)
        found = "zeroinitializer"
        self.set = []
        for plane in range(self.bits):
            word = f.do(f"bitcast i64 {f.load('i64', f.at(start, str(8 * plane)))} to <64 x i1>")
            self.set.append(f.do(f"sext <64 x i1> {word} to {BYTES}"))
            bit = f.do(f"and {BYTES} {self.set[-1]}, {vector('i8', [1 << plane] * 64)}")
            found = f.do(f"or {BYTES} {found}, {bit}")
        return found

    def bytes_table(self) -> None:
        f = self.function
        twice = "<32 x i32> " + vector("i32", [*range(16), *range(16)])
        self.table = []
        for part in range(max(1, 2**self.bits // 16) if self.bits < 8 else 0):
            values = f.load("<16 x i8>", f.at(self.source, str(16 * part)))
            self.table.append(f.do(f"shufflevector <16 x i8> {values}, <16 x i8> poison, {twice}"))

    def integers(self, group: str) -> str:
        f, codes = self.function, self.at(group)
        if self.bits == 8:
            return f.do(f"xor {BYTES} {codes}, {vector('i8', [-128] * 64)}")
        halves = [self._part(codes, BYTES, 32 * half, 32, "i8") for half in range(2)]
        found = []
        for table in self.table:
            both = [f.call(HALF, "llvm.x86.avx2.pshuf.b", f"{HALF} {table}", f"{HALF} {half}") for half in halves]
            lanes = "<64 x i32> " + vector("i32", list(range(64)))
            found.append(f.do(f"shufflevector {HALF} {both[0]}, {HALF} {both[1]}, {lanes}"))
        for plane in range(4, self.bits):
            high = f.do(f"icmp ne {BYTES} {self.set[plane]}, zeroinitializer")
            found = [
                f.do(f"select <64 x i1> {high}, {BYTES} {upper}, {BYTES} {lower}")
                for lower, upper in zip(found[::2], found[1::2], strict=True)
            ]
        return found[0]

    def floats_table(self) -> None:
        self.table = []  # floats are gathered from memory

    def looked_up(self, index: str) -> str:
        f = self.function
        every = f.do(f"bitcast {EIGHT_SUMS} {vector('i32', [-1] * 8)} to {EIGHT_FLOATS}")
        found = []
        for half in range(2):
            some = self._part(index, SUMS, 8 * half, 8, "i32")
            given = (f"{EIGHT_FLOATS} zeroinitializer", f"ptr {self.source}", f"{EIGHT_SUMS} {some}")
            found.append(
                f.call(EIGHT_FLOATS, "llvm.x86.avx2.gather.d.ps.256", *given, f"{EIGHT_FLOATS} {every}", "i8 4")
            )
        return self._joined(found[0], found[1], EIGHT_FLOATS)

    def dot(self, total: str, x: str, weights: str) -> str:
        f = self.function
        sums = []
        for quarter in range(4):
            parts = [self._part(value, BYTES, 16 * quarter, 16, "i8") for value in (x, weights)]
            wide = [
                f.do(f"{how} <16 x i8> {part} to {SHORTS}") for how, part in zip(("zext", "sext"), parts, strict=True)
            ]
            sums.append(f.call(EIGHT_SUMS, "llvm.x86.avx2.pmadd.wd", f"{SHORTS} {wide[0]}", f"{SHORTS} {wide[1]}"))
        halves = [f.do(f"add {EIGHT_SUMS} {a}, {b}") for a, b in (sums[:2], sums[2:])]
        return f.do(f"add {SUMS} {total}, {self._joined(halves[0], halves[1], EIGHT_SUMS)}")

    def _part(self, value: str, kind: str, first: int, count: int, element: str) -> str:
        """Some lanes of a vector."""
        lanes = vector("i32", list(range(first, first + count)))
        return self.function.do(f"shufflevector {kind} {value}, {kind} poison, <{count} x i32> {lanes}")

    def _joined(self, low: str, high: str, kind: str) -> str:
        """Two vectors of eight as one."""
        return self.function.do(
            f"shufflevector {kind} {low}, {kind} {high}, <16 x i32> {vector('i32', list(range(16)))}"
        )


def permuted(f: Function, source: str, index: str) -> str:
    """The bytes of `source` that `index` names."""
    return f.call(BYTES, "llvm.x86.avx512.permvar.qi.512", f"{BYTES} {source}", f"{BYTES} {index}")
