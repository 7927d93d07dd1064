"""Progress bars that can be read in a log file: one line now and then, each with the name of who speaks."""

import time
from collections.abc import Callable
from typing import TextIO


class ProgressLines:
    r"""A text stream for tqdm and a notebook's output.

    Lines that end in ``\n`` go on at once. Of those that a bar overwrites with ``\r``, one every few seconds goes on,
    and the last one before the line ends.

    Args:
        stream: Where the lines go.
        label: What stands before each line.
        every: Least number of seconds between two states of a bar.
        clock: Returns seconds.
    """

    def __init__(self, stream: TextIO, *, label: str, every: float = 5.0, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._label = label
        self._every = every
        self._clock = clock
        self._last = -float("inf")
        self._rest = ""
        self._shown = ""

    def write(self, text: str) -> int:
        """Take some text, with whole lines or parts of them; return its length."""
        *lines, rest = (self._rest + text).split("\n")
        for line in lines:
            self._end(line)
        if "\r" in rest:
            state = next((part for part in reversed(rest.split("\r")) if part.strip()), "")
            if state and self._clock() - self._last >= self._every:
                self._say(state)
                self._shown, self._last = state, self._clock()
            rest = "\r" + state
        self._rest = rest
        return len(text)

    def flush(self) -> None:
        """Hand on what was said so far; a bar's last state waits for its line to end."""
        self._stream.flush()

    def close(self) -> None:
        """Say what is left of a line that never ended."""
        self._end(self._rest)
        self._rest = ""

    def _end(self, line: str) -> None:
        state = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        if state and not ("\r" in line and state == self._shown):
            self._say(state)
        self._shown = ""

    def _say(self, line: str) -> None:
        self._stream.write(f"{self._label} {line.rstrip()}\n")
        self._stream.flush()
