"""The stages of a chain, arranged so that initialisations can be compared."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from .results import Record, read_records


@dataclass
class Cell:
    """A metric of a transfer from one source, over the seeds."""

    values: list[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.mean:.1f}{spread}"

    def minus(self, other: Cell) -> float:
        """Difference in points, of the figures as shown."""
        return round(round(self.mean, 1) - round(other.mean, 1), 1)


class Results:
    """The stages of a chain, arranged for comparison.

    Attributes:
        records: All stages.
        transfers: Name to title, in order.
        sources: In order, random initialisation first.
        base: Name of random initialisation, None where the chain has none.
        main: The source that the headline speaks of.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.work_dir = Path(work_dir)
        self.records = read_records(work_dir)
        runs = [record for record in self.records if record.source is not None]
        self.transfers = {record.transfer: record.title for record in runs}
        names = dict.fromkeys(
            record.source or "" for record in sorted(runs, key=lambda r: not r.scratch)
        )
        self.sources = list(names)
        scratch = [record.source for record in runs if record.scratch]
        self.base = scratch[0] if scratch else None
        self.main = next((name for name in names if name not in scratch), None)

    def of(self, transfer: str, source: str | None = None) -> list[Record]:
        """Finished stages of a transfer, from one source or all."""
        return [
            record
            for record in self.records
            if record.transfer == transfer
            and record.status == "finished"
            and (source is None or record.source == source)
        ]

    def metrics(self, transfer: str) -> list[str]:
        """Names of the metrics of a transfer, the headline first."""
        return list(dict.fromkeys(n for r in self.of(transfer) for n in r.metrics))

    def cell(self, transfer: str, source: str | None, metric: str) -> Cell | None:
        """Return a metric from one source; None where it was not measured."""
        values = [r.metrics.get(metric) for r in self.of(transfer, source or "")]
        known = [value for value in values if value is not None]
        return Cell(known) if known else None

    def gains(self) -> dict[str, float]:
        """Points of the headline metric above random initialisation, by transfer."""
        found = {}
        for transfer in self.transfers:
            for metric in self.metrics(transfer)[:1]:
                base = self.cell(transfer, self.base, metric) if self.base else None
                main = self.cell(transfer, self.main, metric) if self.main else None
                if base and main:
                    found[transfer] = main.minus(base)
        return found
