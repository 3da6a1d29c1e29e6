"""Machine code as a Python function, which costs a tenth of a call through ctypes.

One row of a layer takes microseconds, a model calls a hundred layers, and what ctypes reads on the way is out of the caches
by then. The function takes addresses, releases the lock for the time of the kernel, and checks nothing: its callers must.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm

FASTCALL = 0x80
ARGUMENTS = ("ptr", "ptr", "ptr", "i64", "ptr")
USED = ("PyLong_AsLongLong", "PyEval_SaveThread", "PyEval_RestoreThread", "Py_IncRef")


class _Method(ctypes.Structure):
    """`PyMethodDef` of CPython."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def source(wrappers: Mapping[str, str]) -> str:
    """For each function of a layer, by its name, a wrapper for Python: `wrapper(self, arguments, count)`, whose arguments
    are three addresses, a number and an address, all as Python's whole numbers; `self` is the layer's address."""
    for name in USED:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    declared = """
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare void @Py_IncRef(ptr)
"""
    return declared + "".join(_wrapper(target, wrapper) for target, wrapper in wrappers.items())


def _wrapper(target: str, name: str) -> str:
    nothing = f"inttoptr (i64 {id(None)} to ptr)"
    lines = ["%bound = call i64 @PyLong_AsLongLong(ptr %self)", "%layer = inttoptr i64 %bound to ptr"]
    given = ["ptr %layer"]
    for place, kind in enumerate(ARGUMENTS):
        lines.append(f"%place{place} = getelementptr ptr, ptr %arguments, i64 {place}")
        lines.append(f"%object{place} = load ptr, ptr %place{place}")
        lines.append(f"%whole{place} = call i64 @PyLong_AsLongLong(ptr %object{place})")
        if kind == "ptr":
            lines.append(f"%address{place} = inttoptr i64 %whole{place} to ptr")
        given.append(f"{kind} %{'address' if kind == 'ptr' else 'whole'}{place}")
    lines.append("%thread = call ptr @PyEval_SaveThread()")
    lines.append(f"call void @{target}({', '.join(given)})")
    lines.append("call void @PyEval_RestoreThread(ptr %thread)")
    lines.append(f"call void @Py_IncRef(ptr {nothing})")
    lines.append(f"ret ptr {nothing}")
    body = "".join(f"  {line}\n" for line in lines)
    return f"define ptr @{name}(ptr %self, ptr %arguments, i64 %count) {{\n{body}}}\n"


class PythonFunctions:
    """Python functions of one piece of machine code, each bound to an address of its own."""

    def __init__(self, name: str, address: int, library: object) -> None:
        self._method, self._library = _Method(name.encode(), address, FASTCALL, None), library
        self._new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)(
            ("PyCFunction_NewEx", ctypes.pythonapi)
        )

    def bound(self, address: int, owner: object) -> Any:
        """The function with `address` as its first argument. It holds, in the place of its module, its machine code and
        `owner`, whose memory the address is."""
        return self._new(ctypes.addressof(self._method), address, (self, owner))
