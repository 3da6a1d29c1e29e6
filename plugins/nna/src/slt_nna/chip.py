"""The description of a chip: word sizes, accumulator, rounding, tables, what stays on the host, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from sltcore.errors import SltError, SpecError, did_you_mean
from sltcore.spec import Config
from sltcore.spec.document import Document, PathKey, parse_document
from sltcore.spec.problems import Problem, problems_of, shown, spec_error

CHIPS = Path(__file__).parent / "chips"
FLOAT_BITS = 32
MAX_WORD_BITS = 16
MAX_PRODUCT_BITS = 62
NORM_BITS = 19  # 12 fraction bits of a normalised value, and 7 for the square root of up to 16384 features

Operator = Literal[
    "linear",
    "convolution",
    "matmul",
    "add",
    "multiply",
    "relu",
    "lookup",
    "gate",
    "softmax",
    "layer_norm",
    "batch_norm",
    "lstm",
    "gru",
    "embedding",
    "concatenate",
]
"""The operators a chip can run; `lookup` is sigmoid and tanh, `gate` is silu, gelu and glu, `multiply` also numbers."""

TableFunction = Literal["sigmoid", "tanh", "exp", "phi"]
TABLE_FUNCTIONS: tuple[TableFunction, ...] = ("sigmoid", "tanh", "exp", "phi")

_FLOAT = "; 32 for float, then in all words"


class Words(Config):
    """Bits of each class of numbers, sign included. Two's complement; 2 to 16, or 32 everywhere for float."""

    weight: int = Field(
        8, ge=2, le=FLOAT_BITS, description="bits of weights, gains and constants, symmetric about 0" + _FLOAT
    )
    activation: int = Field(
        8, ge=2, le=FLOAT_BITS, description="bits of what layers hand on, recurrent outputs included" + _FLOAT
    )
    bias: int = Field(
        32,
        ge=2,
        le=FLOAT_BITS,
        description="bits of biases, at the scale of the accumulator; a layer norm's are clipped below 12 + weight bits",
    )
    residual: int = Field(16, ge=2, le=FLOAT_BITS, description="bits of sums of two activations" + _FLOAT)
    preactivation: int = Field(
        16, ge=2, le=FLOAT_BITS, description="bits of the gates of LSTM and GRU before their tables" + _FLOAT
    )
    state: int = Field(16, ge=2, le=FLOAT_BITS, description="bits of the cell state of an LSTM" + _FLOAT)
    probability: int = Field(8, ge=2, le=FLOAT_BITS, description="bits of what a softmax gives, in [0, 1)" + _FLOAT)
    table: int = Field(8, ge=2, le=FLOAT_BITS, description="bits of a table's entries, in [-1, 1)" + _FLOAT)
    output: int = Field(
        16, ge=2, le=FLOAT_BITS, description="bits of what the layers of output_modules hand on" + _FLOAT
    )


class Accumulator(Config):
    """The register that sums products."""

    bits: int = Field(32, ge=8, le=MAX_PRODUCT_BITS, description="bits of the register, sign included")
    tile: int | None = Field(
        None,
        ge=1,
        description="inputs summed exactly before the register is narrowed; null: all inputs of a layer at once",
    )


class Table(Config):
    """A function by look-up: `entries` points over [-range, range), over [-range, 0] for exp."""

    entries: int = Field(256, ge=2, le=65536, description="points of the table")
    range: float = Field(8.0, gt=0, le=64.0, description="largest input in magnitude; larger ones are clipped to it")
    interpolation: Literal["nearest", "linear"] = Field(
        "nearest", description="nearest: the entry next to the input; linear: between two entries, in 256 steps"
    )
    gain: float = Field(
        1.0,
        ge=0.5,
        le=2.0,
        description="factor on every entry; other than 1 only to try how a model bears a wrong table",
    )


class Tables(Config):
    """The chip's tables; a function without one runs on the host."""

    sigmoid: Table | None = Field(Table(), description="table of sigmoid, also for silu, glu, LSTM and GRU")
    tanh: Table | None = Field(Table(range=4.0), description="table of tanh, also for LSTM and GRU")
    exp: Table | None = Field(Table(entries=257), description="table of exp over [-range, 0], for softmax")
    phi: Table | None = Field(Table(range=4.0), description="table of the standard normal cdf, for gelu")


class Speed(Config):
    """What the latency model of `slt nna cost` reckons with; the arithmetic does not read it."""

    clock_hz: float = Field(5e8, gt=0, le=1e11, description="clock of the multipliers, Hz")
    macs_per_cycle: float = Field(256, gt=0, le=1e6, description="multiply-accumulates in one cycle")
    bytes_per_s: float = Field(4e9, gt=0, le=1e13, description="bandwidth of the chip's memory, bytes per second")
    crossing_s: float = Field(2e-5, ge=0, le=1.0, description="time of one hand-over between chip and host, seconds")
    host_flops_per_s: float = Field(5e9, gt=0, le=1e15, description="speed of the host in float, operations per second")


class _Conflict(ValueError):
    """Fields that do not fit together, with the place of each."""

    def __init__(self, found: list[Problem]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each.path))}: {each.message}" for each in found))
        self.found = found


class Chip(Config):
    """A fixed-point accelerator, as data.

    A number on it is an integer code times a scale. `words` says how wide the codes are, `scales` which scales there
    are, `rounding` and `overflow` what is done with bits that do not fit. A chip whose words have 32 bits is float.
    """

    name: str = Field(
        min_length=1, max_length=60, pattern=r"^[\w.-]+$", description="short name, for tables and reports"
    )
    description: str = Field(min_length=1, description="what chip this is, and why its numbers are what they are")
    words: Words = Field(Words(), description="bits of each class of numbers")
    accumulator: Accumulator = Field(Accumulator(), description="the register that sums products")
    rounding: Literal["half_up", "half_even", "half_away", "truncate"] = Field(
        "half_away", description="what becomes of the bits that a shift drops; truncate is towards minus infinity"
    )
    overflow: Literal["saturate", "wrap"] = Field(
        "saturate", description="what becomes of a number too large for its word: clipped, or its low bits kept"
    )
    scales: Literal["power_of_two", "free"] = Field(
        "power_of_two", description="power_of_two: rescaling is a shift; free: by an integer multiplier and a shift"
    )
    weight_scales: Literal["tensor", "channel"] = Field(
        "tensor", description="one scale for a weight, or one for each output channel of linear and convolution"
    )
    multiplier_bits: int = Field(24, ge=2, le=31, description="bits of the integer multiplier where scales are free")
    tables: Tables = Field(Tables(), description="functions by look-up")
    host: tuple[Operator, ...] = Field((), description="operators that stay on the host, in float")
    output_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("*head",), description="patterns (* and ?) of the layers whose outputs have words.output bits"
    )
    speed: Speed = Field(Speed(), description="what the latency model reckons with")

    @property
    def is_ideal(self) -> bool:
        """Whether its words are float, so that it changes no value."""
        return self.words.weight == FLOAT_BITS

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = list(_conflicts(self))
        if found:
            raise _Conflict(found)
        return self


def chip_names() -> tuple[str, ...]:
    """The chips that are shipped, by name, from the mildest to the harshest.

    >>> chip_names()
    ('ideal', 'generous-8bit', 'mixed-8-16', 'harsh')
    """
    return ("ideal", "generous-8bit", "mixed-8-16", "harsh")


def load_chip(source: str | Path | Mapping[str, Any] | Chip) -> Chip:
    """The chip of a shipped name, of a YAML or JSON file, or of a mapping.

    A text that ends in .yaml, .yml or .json, or has a slash, is a file; any other is a name. A file may begin with
    `kind: chip`, by which `slt check` knows it.

    **Raises** `SpecError` when no chip has the name, when the file is missing or is not YAML, and for every field that
    is unknown, out of range, or does not fit another: one line each, with file, line, column and the field's path.

    >>> load_chip("harsh").accumulator.bits
    20
    """
    if isinstance(source, Chip):
        return source
    if isinstance(source, Mapping):
        return _checked(Document(dict(source), {}, "chip"))
    if isinstance(source, str) and not is_file(source):
        if source not in chip_names():
            raise SpecError(
                f"no chip is named {shown(source)}; shipped: {', '.join(chip_names())}; "
                f"write the path of a YAML file for one of your own.{did_you_mean(source, chip_names())}"
            )
        source = chip_file(source)
    return _checked(_read(Path(source)))


def is_file(source: str | Path) -> bool:
    """Whether a text means a file, and no shipped chip."""
    return isinstance(source, Path) or "/" in source or "\\" in source or source.endswith((".yaml", ".yml", ".json"))


def check_file(path: Path) -> None:
    """What `slt check` does with a file that begins with `kind: chip`.

    **Raises** `SpecError` with one line for each problem.
    """
    _checked(_read(path))


def chip_file(name: str) -> Path:
    """The file of a shipped chip."""
    return CHIPS / f"{name}.yaml"


def _read(path: Path) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"chip file {path} cannot be read: {error.strerror}; shipped chips go by name: {', '.join(chip_names())}"
        ) from None
    if not data.strip():
        raise SpecError(f"{path}:1:1: the chip file is empty; begin with a copy of `slt nna chip mixed-8-16`")
    return parse_document(data, str(path))


def _checked(document: Document) -> Chip:
    if not isinstance(document.data, dict):
        raise SpecError(f"{document.name}:1:1: expected the fields of a chip, got {shown(document.data)}")
    fields = {name: value for name, value in document.data.items() if name != "kind"}
    if document.data.get("kind", "chip") != "chip":
        raise _error([Problem(("kind",), f"expected chip, got {shown(document.data['kind'])}")], document)
    try:
        return Chip.model_validate(fields)
    except ValidationError as error:
        cause = (error.errors()[0].get("ctx") or {}).get("error")
        found = (
            cause.found
            if isinstance(cause, _Conflict)
            else [
                Problem(each.path, each.message.replace(" (slt explain chip)", ""))
                for each in problems_of(error, Chip, data=fields)
            ]
        )
        raise _error(found, document) from None


def _error(found: list[Problem], document: Document) -> SltError:
    if document.marks:
        return spec_error(found, document)
    return SpecError("\n".join(f"{document.name}: {'.'.join(map(str, each.path))}: {each.message}" for each in found))


def _conflicts(chip: Chip) -> Iterator[Problem]:
    """What no field shows alone."""
    words = chip.words.model_dump()
    sized = {name: bits for name, bits in words.items() if name != "bias"}
    if chip.is_ideal:
        for name, bits in sized.items():
            if bits != FLOAT_BITS:
                yield _word(
                    name, f"expected 32 as in words.weight, got {bits}; 32 bits are float, and then all words are"
                )
        return
    for name, bits in sized.items():
        if bits > MAX_WORD_BITS:
            yield _word(name, f"expected 2 to {MAX_WORD_BITS} bits, or 32 in all words for float, got {bits}")
    if max(sized.values()) > MAX_WORD_BITS:
        return
    yield from _accumulator_conflicts(chip)
    if chip.scales == "power_of_two":
        yield from _table_conflicts(chip)


def _word(name: str, message: str) -> Problem:
    return Problem(("words", name), message)


def _accumulator_conflicts(chip: Chip) -> Iterator[Problem]:
    words, bits = chip.words, chip.accumulator.bits
    least = max(words.weight, words.activation) + words.activation
    place: PathKey = ("accumulator", "bits")
    if bits < least:
        yield Problem(
            place,
            f"expected at least {least}, got {bits}: the product of a {least - words.activation}-bit and a "
            f"{words.activation}-bit number alone takes so many",
        )
    if words.bias > bits:
        yield _word("bias", f"expected at most the {bits} bits of the accumulator, where it is added, got {words.bias}")
    if chip.scales == "power_of_two":
        return
    most = MAX_PRODUCT_BITS - bits
    if chip.multiplier_bits > most:
        yield Problem(
            ("multiplier_bits",),
            f"expected at most {most} beside an accumulator of {bits} bits, got {chip.multiplier_bits}: "
            f"their product is held in {MAX_PRODUCT_BITS} bits",
        )
    most = MAX_PRODUCT_BITS + 1 - NORM_BITS - words.weight
    if chip.multiplier_bits > most:
        yield Problem(
            ("multiplier_bits",),
            f"expected at most {most} beside weights of {words.weight} bits, got {chip.multiplier_bits}: "
            "a normalised value times a gain and the multiplier must stay below 62 bits",
        )


def _table_conflicts(chip: Chip) -> Iterator[Problem]:
    """With shifts alone an index is a shift of the code: the step of a table is a power of two then."""
    for function in TABLE_FUNCTIONS:
        table: Table | None = getattr(chip.tables, function)
        if table is None:
            continue
        more = 1 if function == "exp" else 0
        if not _is_power(table.entries - more):
            wanted = "a power of two and one" if more else "a power of two"
            yield Problem(
                ("tables", function, "entries"),
                f"expected {wanted} such as {256 + more}, got {table.entries}: scales are powers of two, so a table's "
                "steps are",
            )
        if not _is_power(table.range):
            yield Problem(
                ("tables", function, "range"),
                f"expected a power of two such as 8, got {table.range:g}: scales are powers of two, so a table's steps are",
            )


def _is_power(value: float) -> bool:
    numerator, denominator = float(value).as_integer_ratio()
    return value > 0 and (numerator & (numerator - 1)) == 0 and (denominator & (denominator - 1)) == 0
