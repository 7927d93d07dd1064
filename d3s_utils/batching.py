"""Batches that become smaller when memory runs out, so that a run goes on instead of ending."""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_CPU_MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that the GPU's or the computer's memory is full.

    torch has a class for the first only; on a CPU it raises a plain RuntimeError.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or any(m in text for m in _CPU_MESSAGES))


def batches_within_memory(
    pending: deque[Item],
    run: Callable[[list[Item]], Result],
    *,
    batch_size: int,
    on_smaller: Callable[[int], None] = lambda size: None,
) -> Iterator[tuple[list[Item], Result]]:
    """Run batches from the front of `pending` until it is empty, halving the batch when memory runs out.

    The caller may put items back into `pending` between batches (to try them again). A batch that did not fit is
    run again in halves, and the size stays halved.

    Args:
        pending: What is to be run; it is emptied.
        run: Takes a list of items, returns their result.
        batch_size: Items in a batch at first.
        on_smaller: Told the new size after each halving.

    Yields:
        Each batch and its result.

    Raises:
        ValueError: If `batch_size` is not at least 1.
        MemoryError: If a batch of one does not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    while pending:
        batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
        full = None
        try:
            result = run(batch)
        except (RuntimeError, MemoryError) as error:
            pending.extendleft(reversed(batch))
            if not is_out_of_memory(error):
                raise
            full = str(error)
        if full is None:
            yield batch, result
            continue
        # Only here, outside the handler, is the traceback gone that keeps the failed batch's tensors alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise MemoryError(
                f"one item does not fit into memory ({full}): "
                "choose a smaller image_size, half precision or another device"
            )
        batch_size = len(batch) // 2
        on_smaller(batch_size)
