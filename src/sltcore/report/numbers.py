"""How numbers are written in a report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

SIGNIFICANT = 4  # digits of the largest number of a column
MOST_DECIMALS = 8
SPREAD = 1e-4  # beyond this ratio of smallest to largest, numbers of one column share no number of decimals
MINUS = "−"


def decimals_of(values: Iterable[float | None], spreads: Iterable[float] = ()) -> int | None:
    """Decimals that all numbers of a column are written with; None where their sizes differ too much for that.

    Four digits of the largest; two of the middle of `spreads` (half widths of intervals), but at least one decimal; and
    none that is zero in all.

    >>> decimals_of([28.8, 4.125]), decimals_of([3, 12]), decimals_of([1e-6, 3.5]), decimals_of([28.8333], [2.4])
    (2, 0, None, 1)
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    sizes = [abs(value) for value in found if value]
    if all(float(value).is_integer() for value in found) or not sizes:
        return 0
    if min(sizes) < SPREAD * max(sizes):
        return None
    places = SIGNIFICANT - 1 - math.floor(math.log10(max(sizes)))
    widths = sorted(width for width in spreads if width > 0 and math.isfinite(width))
    if widths:
        places = min(places, max(1, 1 - math.floor(math.log10(widths[len(widths) // 2]))))
    places = min(MOST_DECIMALS, max(0, places))
    texts = [f"{value:.{places}f}" for value in found]
    return max(len(text.rstrip("0").partition(".")[2]) for text in texts)


def number(value: float | None, decimals: int | None = None, *, sign: bool = False) -> str:
    """A number with thousands apart and a true minus; four significant digits where no decimals are given.

    >>> number(-1234.5, 1), number(0.25, 1, sign=True), number(2e-05), number(None), number(-0.001, 1)
    ('−1,234.5', '+0.2', '2e-5', '–', '0.0')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        text = "∞"
    elif decimals is not None:
        text = f"{abs(value):,.{decimals}f}"
    elif isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        text = f"{abs(int(value)):,}"
    elif 1e-4 <= abs(value) < 1e6:
        text = f"{abs(value):,.{max(0, SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, _, exponent = f"{abs(value):.{SIGNIFICANT - 1}e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if not any(digit in text for digit in "123456789∞"):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def interval(low: float | None, high: float | None, decimals: int | None = None, *, sign: bool = False) -> str:
    """An interval in brackets, empty where there is none.

    >>> interval(-2, 3.5, 1)
    '[−2.0, 3.5]'
    """
    if low is None or high is None:
        return ""
    return f"[{number(low, decimals, sign=sign)}, {number(high, decimals, sign=sign)}]"


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(0.25), duration(42), duration(200), duration(7300)
    ('0.25 s', '42 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(text: str) -> str:
    """A moment of ISO 8601 in words, in UTC; as it stands where it is none.

    >>> moment("2026-11-22T14:10:00+01:00"), moment("last week")
    ('22 November 2026, 13:10 UTC', 'last week')
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    if at.tzinfo is not None:
        at = at.astimezone(UTC)
    return f"{at.day} {at:%B %Y, %H:%M}{' UTC' if at.tzinfo else ''}"


def place(x: float | str) -> str:
    """A place on an axis: a number, or the name of a category.

    >>> place(10.0), place("ten")
    ('10', 'ten')
    """
    return x if isinstance(x, str) else number(x)
