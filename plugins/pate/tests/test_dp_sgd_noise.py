"""The random stream against NIST's vectors, and what it makes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slt_pate.dp_sgd import random_stream
from slt_pate.dp_sgd.random_stream import RandomStream
from slt_pate.dp_sgd.vector_noise import whole_gaussian


def test_the_cipher_is_aes_256_in_counter_mode() -> None:
    """NIST SP 800-38A, F.5.5: what comes out is the key stream, the vector's output blocks."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    expected = (
        "0bdf7df1591716335e9a8b15c860c502 5a6e699d536119065433863c8f657b94"
        "1bc12c9c01610d5d0d8bd6a3378eca62 2956e1c8693536b1bee99c73a31576b6"
    )
    with RandomStream(key, counter) as stream:
        if not stream.is_cipher:
            pytest.skip("Python's hashlib is linked to no OpenSSL that could be found")
        found = np.concatenate([stream.read(20), stream.read(44)])
    assert found.tobytes() == bytes.fromhex(expected)


def test_each_stream_has_a_key_of_its_own_and_a_machine_without_openssl_gets_bytes_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for _ in range(2):
        with RandomStream() as stream:
            found.append(stream.read(64).tobytes())
    monkeypatch.setattr(random_stream, "_openssl", lambda: None)
    with RandomStream() as stream:
        assert not stream.is_cipher
        found.append(stream.read(64).tobytes())
    assert len(set(found)) == 3


@pytest.mark.parametrize("sigma", [3.0, 2.0**32])
def test_noise_has_the_law_of_a_rounded_gaussian(sigma: float) -> None:
    with RandomStream() as stream:
        values = np.concatenate([whole_gaussian(sigma, size, stream).numpy() for size in (65536, 65535, 1, 30_000)])
    assert (values == np.rint(values)).all()
    edges = np.concatenate([[-np.inf], np.rint(np.linspace(-3, 3, 31) * sigma) + 0.5, [np.inf]])
    edges = np.unique(edges)
    expected = np.diff(stats.norm.cdf(edges / sigma)) * len(values)
    counts = np.histogram(values, edges)[0]
    assert stats.chisquare(counts, expected).pvalue > 1e-4
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.015
    half = len(values) // 4
    assert abs(np.corrcoef(values[:half], values[half : 2 * half])[0, 1]) < 0.03
