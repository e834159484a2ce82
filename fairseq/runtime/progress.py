"""Progress of long work: a tqdm bar in a terminal, elsewhere a line every few seconds, plain or JSON.

``Progress`` counts units (tokens, rows, lines) up to a total; ``at_work`` is for what cannot be counted. With
``--log-file`` the lines go to that file as well, also those that a bar stands for. What is logged while a bar is drawn
goes above it (``fairseq/runtime/log.py``).
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from fairseq.runtime.log import format_duration, log_format, log_to_file_alone, logger

LINE_INTERVAL_S = 10.0
CLOCK_INTERVAL_S = 1.0
# Of the bar alone, tqdm's own; beside statistics it has 20 columns, and a narrow terminal cuts the statistics.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{in_all}, {rate_fmt}]"
_BAR_AND_STATS = _BAR.replace("{bar}", "{bar:20}").replace("]", "{postfix}]")


class Progress(tqdm):  # type: ignore[type-arg] # tqdm takes no type at run time
    """Progress of one stage, as a context manager.

    Args:
        stage: what is being done: ``"evaluate"``.
        total: units in all.
        unit: what is counted: ``"tokens"``.
        done: units that an earlier run had finished; they do not count towards the rate.
        every: advances between two lines, instead of seconds.
        more: units that other stages will take after this one, for the time left in all; None where nobody knows.
        shown: False counts in silence.
    """

    n: int  # tqdm takes floats as well
    total: int
    monitor_interval = 0  # no thread of tqdm's: ``miniters`` is 0, and ``_tick`` draws what has not moved

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        every: int | None = None,
        more: int | None = None,
        shown: bool = True,
    ) -> None:
        self.form = log_format() if shown else "none"
        self.every, self.more = every, more
        self._closed = threading.Event()
        super().__init__(
            desc=stage,
            total=total,
            initial=done,
            unit=f" {unit}",
            unit_scale=True,
            miniters=0,
            leave=False,
            disable=False,  # whatever TQDM_DISABLE says: n is counted
            gui=self.form != "tqdm",  # as tqdm's other front ends have it: nothing is drawn on the terminal
            bar_format=_BAR,
            **_shape(),
        )
        self._num_advances, self._last_line_s = 0, 0.0
        if self.form == "tqdm":
            threading.Thread(target=self._tick, name=stage, daemon=True).start()

    def _tick(self) -> None:
        """Draws the bar every second, so that its clock moves while much is done between two advances."""
        while not self._closed.wait(CLOCK_INTERVAL_S):
            self.refresh()

    def close(self) -> None:
        """Takes the bar away."""
        self._closed.set()
        super().close()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        """Draws the bar, where there is one."""
        return self.form == "tqdm" and bool(super().display(msg, pos))

    def clear(self, nolock: bool = False) -> None:
        """Removes the bar, where there is one, until it is drawn again."""
        if self.form == "tqdm":
            super().clear(nolock=nolock)

    @property
    def format_dict(self) -> Any:
        """What the bar shows: tqdm's fields, and the time left of this stage and those after it."""
        fields = super().format_dict
        rate, left = fields["rate"], fields["total"] - fields["n"] + (self.more or 0)
        in_all = f", {format_duration(left / rate)} in all" if self.more and rate else ""
        return {**fields, "in_all": in_all}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return float(self.format_dict["elapsed"])

    @property
    def rate(self) -> float:
        """Units per second in this run."""
        return float((self.n - self.initial) / max(self.elapsed_s, 1e-9))

    def advance(self, count: int, **stats: float) -> None:
        """Counts ``count`` further units; ``stats`` are shown beside them."""
        if stats:
            self.bar_format = _BAR_AND_STATS
            self.set_postfix({name: f"{value:.4g}" for name, value in stats.items()}, refresh=False)
        self.update(count)
        self._num_advances += 1
        if self.form == "none" or not self._line_is_due():
            return
        self._last_line_s = self.elapsed_s
        if self.form == "tqdm":  # on the terminal a line would tear the bar
            log_to_file_alone(self._line(stats))
        else:
            logger.info("%s", self._line(stats))

    def _line_is_due(self) -> bool:
        if self.every is not None:
            return self._num_advances % self.every == 0
        return self.elapsed_s - self._last_line_s >= LINE_INTERVAL_S

    def _line(self, stats: dict[str, float]) -> str:
        stage, done, total, unit, rate = self.desc, self.n, self.total, self.unit.strip(), self.rate
        left_s = (total - done) / rate if rate > 0 else 0.0
        all_left_s = left_s + (self.more or 0) / rate if rate > 0 else 0.0
        if self.form == "json":
            record = {"stage": stage, "done": done, "total": total, "unit": unit, "per_second": round(rate, 2)}
            left = {"seconds_left": round(left_s, 1)}
            if self.more is not None:
                left["seconds_left_in_all"] = round(all_left_s, 1)
            return json.dumps({**record, **left, **stats})
        shown_rate = f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.2g}"  # a slow one is not 0
        in_all = f", {format_duration(all_left_s)} in all" if self.more else ""
        shown = "".join(f" | {name} {value:.4g}" for name, value in stats.items())
        return (
            f"{stage}: {done:,} / {total:,} {unit} ({100 * done / max(total, 1):.0f} %)"
            f" | {shown_rate} {unit}/s | {format_duration(left_s)} left{in_all}{shown}"
        )


def _shape() -> dict[str, Any]:
    """Returns tqdm's arguments for the size of the bar; some containers have terminals of no size."""
    with suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:
            return {"ncols": 80, "nrows": 24}
    return {"dynamic_ncols": True}


@contextmanager
def at_work(stage: str) -> Iterator[None]:
    """Says that a stage goes on, such as one call of another library, which nobody can count, and for how long so far.

    In a terminal a line shows it every second, elsewhere there is one every few seconds.
    """
    form = log_format()
    if form == "none":
        yield
        return
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(LINE_INTERVAL_S):
            seconds = time.monotonic() - start
            record = json.dumps({"stage": stage, "seconds": round(seconds, 1)})
            line = record if form == "json" else f"{stage}: {format_duration(seconds)} so far"
            if form == "tqdm":
                log_to_file_alone(line)
            else:
                logger.info("%s", line)

    def draw() -> None:
        with tqdm(desc=stage, bar_format="{desc}: {elapsed}", leave=False, **_shape()) as clock:
            while not done.wait(CLOCK_INTERVAL_S):
                clock.refresh()

    tellers = [threading.Thread(target=work, name=stage, daemon=True) for work in (tell, draw)[: 1 + (form == "tqdm")]]
    for teller in tellers:
        teller.start()
    try:
        yield
    finally:
        done.set()
        for teller in tellers:
            teller.join()
