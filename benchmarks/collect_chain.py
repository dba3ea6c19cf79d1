"""Turn the results.csv of a chain into a result: one row per finished stage.

Run: python benchmarks/collect_chain.py WORK_DIR NAME, which writes results/NAME.csv.
Paths stay out of it; configs and checkpoints are named by their hashes.
"""

import csv
import sys
from pathlib import Path

import common

KEPT = (
    *("transfer", "source", "seed", "metric", "value"),
    *("config_sha256", "source_sha256", "seconds", "memory_mb", "device"),
)


def main(work_dir: str, name: str) -> None:
    """Read the table and write the rows."""
    with Path(work_dir, "results.csv").open(encoding="utf-8") as file:
        table = csv.DictReader(file)
        names = list(table.fieldnames or ())
        stages = [row for row in table if row["status"] == "finished"]
    kept = [*KEPT, *names[names.index("reason") + 1 :]]  # the metrics stand last
    rows = [
        {key: stage[key][:12] if "sha256" in key else stage[key] for key in kept}
        for stage in stages
    ]
    common.write_rows(name, rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
