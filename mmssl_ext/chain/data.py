"""The stages of a chain, arranged so that initialisations can be compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .results import Record, read_records


@dataclass
class Cell:
    """A metric of a transfer from one source.

    Attributes:
        values: One per seed.
        is_best: None of its row is above it.
        gain: Points above random initialisation, None without.
        is_noise: The gain lies within the spread of the seeds.
    """

    values: list[float]
    is_best: bool = False
    gain: float | None = None
    is_noise: bool = False

    @property
    def mean(self) -> float:
        """Mean over the seeds, as it is shown."""
        return round(statistics.fmean(self.values), 1)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.mean:.1f}{spread}"


@dataclass
class Row:
    """A metric of a transfer from all sources; ``minor`` if not the headline."""

    title: str
    metric: str
    minor: bool
    cells: dict[str, Cell | None]


class Results:
    """The stages of a chain, arranged for comparison.

    Attributes:
        records: All stages.
        finished: Those that have finished.
        transfers: Name to title, in order.
        sources: In order, random initialisation first.
        base: Name of random initialisation, None where the chain has none.
        main: The source that the headline speaks of.
        seeds: Of all transfers.
        rows: Metrics of the transfers, the headline of each first.
        headlines: The first row of each transfer that has one.
        gains: Points of ``main`` in those rows above random initialisation.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.work_dir = Path(work_dir)
        self.records = read_records(work_dir)
        self.finished = [r for r in self.records if r.status == "finished"]
        runs = [record for record in self.records if record.source is not None]
        self.transfers = {record.transfer: record.title for record in runs}
        self.seeds = {record.seed for record in runs}
        names = [r.source or "" for r in sorted(runs, key=lambda r: not r.scratch)]
        self.sources = list(dict.fromkeys(names))
        scratch = [record.source for record in runs if record.scratch]
        self.base = scratch[0] if scratch else None
        self.main = next((name for name in names if name not in scratch), None)
        rows = {transfer: list(self._rows(transfer)) for transfer in self.transfers}
        self.rows = [row for some in rows.values() for row in some]
        self.headlines = {name: some[0] for name, some in rows.items() if some}
        self.gains = {
            name: cell.gain
            for name, row in self.headlines.items()
            if (cell := row.cells.get(self.main or "")) and cell.gain is not None
        }

    def of(self, transfer: str, source: str | None = None) -> list[Record]:
        """Finished stages of a transfer, from one source or all."""
        return [
            record
            for record in self.finished
            if record.transfer == transfer
            and (source is None or record.source == source)
        ]

    def _rows(self, transfer: str) -> Iterator[Row]:
        metrics = dict.fromkeys(n for r in self.of(transfer) for n in r.metrics)
        for i, metric in enumerate(metrics):
            cells: dict[str, Cell | None] = dict.fromkeys(self.sources)
            for source in self.sources:
                found = [r.metrics.get(metric) for r in self.of(transfer, source)]
                if values := [value for value in found if value is not None]:
                    cells[source] = Cell(values)
            best = max((cell.mean for cell in cells.values() if cell), default=0.0)
            base = cells.get(self.base or "")
            for source, cell in cells.items():
                if cell:
                    cell.is_best = cell.mean == best
                if cell and base and source != self.base:
                    cell.gain = round(cell.mean - base.mean, 1)
                    spreads = [c.spread for c in (cell, base) if c.spread is not None]
                    cell.is_noise = len(spreads) == 2
                    cell.is_noise &= abs(cell.gain) < math.hypot(*spreads)
            yield Row(self.transfers[transfer], metric, i > 0, cells)
