"""Batches halve when memory runs out, nothing is lost or doubled, and other errors pass through."""

from collections import deque

import pytest
import torch

from d3s_utils.batching import batches_within_memory, is_out_of_memory

CPU_MESSAGE = "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1234 bytes"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(CPU_MESSAGE)]
)
def test_batches_halve_until_they_fit(error):
    sizes = []

    def run(batch):
        if len(batch) > 3:
            raise error
        return [2 * item for item in batch]

    pending = deque(range(10))
    done = list(batches_within_memory(pending, run, batch_size=8, on_smaller=sizes.append))
    assert [item for batch, _ in done for item in batch] == list(range(10))
    assert [item for _, results in done for item in results] == [2 * item for item in range(10)]
    assert sizes == [4, 2]


def test_items_put_back_are_run_again():
    pending, tried = deque(["a", "b"]), []
    for batch, _ in batches_within_memory(pending, lambda batch: None, batch_size=2):
        tried.extend(batch)
        if "b" in batch and tried.count("b") < 3:
            pending.append("b")
    assert tried == ["a", "b", "b", "b"]


def test_one_item_that_does_not_fit_is_a_clear_error():
    def run(batch):
        raise MemoryError("too big")

    with pytest.raises(MemoryError, match="one item does not fit into memory"):
        list(batches_within_memory(deque([1, 2]), run, batch_size=2))


def test_other_errors_pass_through_and_keep_the_items():
    def run(batch):
        raise RuntimeError("shapes do not match")

    pending = deque([1, 2, 3])
    with pytest.raises(RuntimeError, match="shapes"):
        list(batches_within_memory(pending, run, batch_size=2))
    assert list(pending) == [1, 2, 3]
    assert not is_out_of_memory(ValueError("out of memory"))


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(batches_within_memory(deque([1]), lambda batch: None, batch_size=0))
