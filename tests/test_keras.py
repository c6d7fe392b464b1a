"""What memory costs while TensorFlow is loaded."""

import resource
import sys

import pytest

import edgebcnn.model.keras  # noqa: F401  (sets how glibc allocates)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_was_freed_is_not_asked_of_the_system_again() -> None:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [bytearray(b"\1") * (24 * 2**20) for _ in range(4)]
        assert len(blocks) == 4
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(2):
        page_faults()
    pages = 4 * 24 * 2**20 // resource.getpagesize()
    assert page_faults() < pages / 100
