"""Turn the log of a run into a result: one row per kNN measurement.

Run: python benchmarks/collect_run.py WORK_DIR NAME, which writes results/NAME.csv.
"""

import sys

import common

from mmssl_ext.visualization import logs


def main(work_dir: str, name: str) -> None:
    """Read the log and write the rows."""
    log, facts = logs.read_run(work_dir), logs.read_facts(work_dir)
    epochs = log.train[-1]["epoch"]
    rows = [
        {
            "config": facts["config"],
            "method": facts["method"],
            "seed": facts["seed"],
            "epoch": row["epoch"],
            "backbone_top1": row["knn/backbone_top1"],
            "embedding_top1": row["knn/embedding_top1"],
            "train_minutes": round(log.seconds() / 60 * row["epoch"] / epochs, 1),
            "device": facts["device"],
        }
        for row in log.knn
    ]
    common.write_rows(name, rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
