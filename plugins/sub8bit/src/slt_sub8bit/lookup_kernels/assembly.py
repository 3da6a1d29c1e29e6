"""LLVM assembly as text: numbered values and loops, no more than the kernels need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Body = Callable[[str, list[str]], list[str]]


class Function:
    """One function in the making: every method appends instructions and gives the name of their value."""

    def __init__(self, name: str, parameters: Sequence[tuple[str, str]]) -> None:
        listed = ", ".join(f"{kind} %{parameter}" for kind, parameter in parameters)
        self.head = f"define void @{name}({listed}) {{"
        self.lines = ["entry:"]
        self.block = "entry"
        self.declared: set[str] = set()
        self.count = 0

    def new(self, prefix: str = "v") -> str:
        """A name that no other value has."""
        self.count += 1
        return f"%{prefix}{self.count}"

    def do(self, instruction: str) -> str:
        """Append an instruction that has a value."""
        name = self.new()
        self.lines.append(f"  {name} = {instruction}")
        return name

    def effect(self, instruction: str) -> None:
        """Append an instruction that has none."""
        self.lines.append(f"  {instruction}")

    def call(self, returns: str, name: str, *arguments: str, flags: str = "") -> str:
        """Call an intrinsic; each argument is its type and value in one text."""
        kinds = ", ".join(_kind(argument) for argument in arguments)
        self.declared.add(f"declare {returns} @{name}({kinds})")
        return self.do(f"call {flags}{returns} @{name}({', '.join(arguments)})")

    def at(self, pointer: str, index: str, kind: str = "i8") -> str:
        """The address `index` elements of `kind` behind `pointer`."""
        return self.do(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def load(self, kind: str, pointer: str, align: int = 1) -> str:
        """Load a value of `kind`."""
        return self.do(f"load {kind}, ptr {pointer}, align {align}")

    def store(self, kind: str, value: str, pointer: str, align: int = 1) -> None:
        """Store a value of `kind`."""
        self.effect(f"store {kind} {value}, ptr {pointer}, align {align}")

    def masked_store(self, kind: str, value: str, pointer: str, mask: str) -> None:
        """Store the lanes that `mask`, a type and a value, has."""
        lanes, element = kind[1:-1].split(" x ")
        name = f"llvm.masked.store.v{lanes}{element.replace('float', 'f32')}.p0"
        self.declared.add(f"declare void @{name}({kind}, ptr, i32, {_kind(mask)})")
        self.effect(f"call void @{name}({kind} {value}, ptr {pointer}, i32 1, {mask})")

    def splat(self, kind: str, lanes: int, value: str) -> str:
        """The same number in every lane."""
        one = self.do(f"insertelement <{lanes} x {kind}> poison, {kind} {value}, i64 0")
        return self.do(
            f"shufflevector <{lanes} x {kind}> {one}, <{lanes} x {kind}> poison, <{lanes} x i32> zeroinitializer"
        )

    def loop(
        self, start: str, stop: str, step: int, carried: Sequence[tuple[str, str]], body: Body, label: str = "loop"
    ) -> list[str]:
        """While index < stop: `body(index, values)` gives the next values; `carried` are their types and first values."""
        head, inner, after = (self.new(f"{label}.{part}.")[1:] for part in ("head", "body", "after"))
        before = self.block
        self.effect(f"br label %{head}")
        self._begin(head)
        index, following = self.new("i"), self.new("next")
        values = [self.new("c") for _ in carried]
        place = len(self.lines)  # the phis go here, once their second source is known
        goes_on = self.do(f"icmp slt i64 {index}, {stop}")
        self.effect(f"br i1 {goes_on}, label %{inner}, label %{after}")
        self._begin(inner)
        results = body(index, values)
        self.effect(f"{following} = add i64 {index}, {step}")
        phis = [f"  {index} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]"]
        for value, (kind, first), result in zip(values, carried, results, strict=True):
            phis.append(f"  {value} = phi {kind} [ {first}, %{before} ], [ {result}, %{self.block} ]")
        self.lines[place:place] = phis
        self.effect(f"br label %{head}")
        self._begin(after)
        return values

    def text(self) -> str:
        """The finished function."""
        return "\n".join([self.head, *self.lines, "  ret void", "}"])

    def _begin(self, block: str) -> None:
        self.lines.append(f"{block}:")
        self.block = block


def module(functions: Sequence[Function]) -> str:
    """Several functions and the intrinsics that they call."""
    declared = sorted(set().union(*(function.declared for function in functions)))
    return "\n".join([*declared, *(function.text() for function in functions)])


def vector(kind: str, values: Sequence[int]) -> str:
    """A constant vector, without its type."""
    return "<" + ", ".join(f"{kind} {value}" for value in values) + ">"


def _kind(argument: str) -> str:
    """The type of an argument: up to the closing bracket of a vector, or its first word."""
    return argument[: argument.index(">") + 1] if argument.startswith("<") else argument.split(" ", 1)[0]
