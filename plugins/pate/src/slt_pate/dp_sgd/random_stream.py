"""Random bytes by the megabyte: AES-256 in counter mode under a fresh key of the operating system."""

from __future__ import annotations

import ctypes
import functools
import os
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32


class RandomStream:
    """A stream of random bytes for one release, while it is entered.

    Its key is 32 bytes of `os.urandom`, drawn anew each time and forgotten at the end: a generator in the sense of NIST SP
    800-90A's CTR_DRBG, without reseeding, for far fewer than 2**64 blocks. The cipher is that of the OpenSSL that Python's own
    hashlib is linked to; where there is none to be found, all bytes come from `os.urandom`, five times as slowly.
    """

    def __init__(self, key: bytes | None = None, counter: bytes = bytes(16)) -> None:
        self._key, self._counter = key, counter
        self._context: Any = None

    def __enter__(self) -> RandomStream:
        library = _openssl()
        if library is None:
            return self
        context = library.EVP_CIPHER_CTX_new()
        key = os.urandom(KEY_BYTES) if self._key is None else self._key
        if context and library.EVP_EncryptInit_ex(context, library.EVP_aes_256_ctr(), None, key, self._counter) == 1:
            self._context = context
        elif context:
            library.EVP_CIPHER_CTX_free(context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is not None:
            _openssl().EVP_CIPHER_CTX_free(self._context)  # type: ignore[union-attr]
            self._context = None

    @property
    def is_cipher(self) -> bool:
        """Whether bytes come from the cipher."""
        return self._context is not None

    def read(self, count: int) -> NDArray[np.uint8]:
        """The next `count` bytes, below 2**31 of them."""
        if self._context is not None:
            found, written = np.zeros(count, dtype=np.uint8), ctypes.c_int()
            done = _openssl().EVP_EncryptUpdate(  # type: ignore[union-attr]
                self._context, found.ctypes.data, ctypes.byref(written), found.ctypes.data, count
            )
            if done == 1 and written.value == count:
                return found
        return np.frombuffer(bytearray(os.urandom(count)), dtype=np.uint8)


@functools.cache
def _openssl() -> Any:
    """The functions of OpenSSL's libcrypto, or None."""
    try:
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name, result, arguments in (
            ("EVP_aes_256_ctr", pointer, []),
            ("EVP_CIPHER_CTX_new", pointer, []),
            ("EVP_CIPHER_CTX_free", None, [pointer]),
            ("EVP_EncryptInit_ex", number, [pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_char_p]),
            ("EVP_EncryptUpdate", number, [pointer, pointer, ctypes.POINTER(number), pointer, number]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError):
        return None
    return library
