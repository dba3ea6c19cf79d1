"""The table of docs/faults.md: ``python -m tests.faults.page`` writes it anew.

It is made from the faults of the suite, what is said here of each, the marks in the
tests and what was observed of upstream (benchmarks/results/upstream_faults.csv).
"""

from __future__ import annotations

import ast
import csv
from collections import Counter
from pathlib import Path

from tests.faults.suite import FAULTS

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs/faults.md"
RESULTS = REPO / "benchmarks/results/upstream_faults.csv"
BEGIN = "<!-- written by tests/faults/page.py: begin -->"
END = "<!-- end -->"

# One precise sentence each; "refused" is exit code 2 and a message without traceback.
OURS = {
    "R1": "A file gets its name, its manifest (`epoch_3.pth.json`: size, SHA-256, "
    "step, ranks, config) and the pointer `last_checkpoint`, in this order, once "
    "it is on the disk and read back; older ones go last: the pointer names a "
    "file that loads.",
    "R2": "The save fails with the path, the bytes needed and the bytes free; its "
    "draft is removed, the last checkpoint and the pointer stand.",
    "R3": "`--resume` goes on from the newest checkpoint that is whole, with one "
    "warning that names the damaged file and its size; where none is, it is "
    "refused.",
    "R4": "The SHA-256 of the manifest (or the CRC of each entry, without one) is "
    "compared before a tensor is used: then as R3.",
    "R5": "Losses and all tensors (weights, momentum encoder, queue, pointer, bank, "
    "schedules) end bitwise equal to a run that never stopped, killed at any "
    "step, within an epoch or not; on the CPU, for every method.",
    "R6": "Bitwise equal: draws are keyed by (seed, epoch, sample, view), not by "
    "worker.",
    "R7": "The global batch must stay (else refused, with the `batch_size` to set): "
    "then the same images in every step, and a warning of what cannot be the "
    "same.",
    "R8": "The step is finished, everything saved, exit code 75; a wait for data or "
    "an evaluation ends at once; one rank that is told is enough; workers ignore "
    "it; a second signal after 2 s ends the process at once.",
    "R9": "All draws differ between epochs, keyed or not.",
    "R10": "No two of them share a number: seed, epoch, sample and view are words of "
    "a Philox key and counter, never added up.",
    "R11": '`on_error="raise"`: an error with the path and the cause; `"skip"`: '
    "another image in its place, the path in `unreadable_images.txt`, counts in "
    "the log.",
    "R12": "The run stops (exit code 2) with count, share and examples above 10 % "
    "(`max_share`), all of them in `unreadable_images.txt`.",
    "R13": "8-bit RGB: CMYK converted, 16 bits divided by 257, gray repeated, alpha "
    "dropped; any size up to 179 million pixels, beyond that R11's error.",
    "R14": "Stops (exit code 3) within 10 steps (`interval`), before a checkpoint is "
    "written or deleted; iteration, losses and images of the batch in the log and "
    "in `nonfinite_report.json`.",
    "R15": "One warning when the spread of the embeddings falls below a tenth of a "
    "uniform one, one when the loss stays at ln(K + 1); training goes on.",
    "R16": 'Refused: "0 of 318 tensors matched", names of both sides, the likely '
    "prefix; no tensor of the model is touched.",
    "R17": "Refused: how many matched, what is missing, unused and of another shape.",
    "R18": "All 318 tensors have equal hashes, for five layouts of the file; count "
    "and SHA-256 in the log before the first step, where a tensor that was "
    "initialised again since is an error.",
    "R19": "Refused, with the class named, and nothing runs; a plain copy is written "
    "only by a command that says that the file is trusted.",
    "R20": "`--strict-config`: refused by file, line and construct before anything "
    "runs. Without it a config is code, as everywhere in OpenMMLab.",
    "R21": "The queue is a ring: any batch, any number of ranks.",
    "R22": "Bitwise equal; all of it is in the state dict.",
    "R23": "Exit code 4 with the worker, its batch and its images named, everything "
    "saved; a worker that does not answer counts as dead after 600 s (`timeout`).",
    "R24": "Refused before any weight is loaded, with a list: checkpoint -> now.",
    "R25": "The second run is refused and names the first one's process and host "
    "(`run.lock`); a folder that cannot be written is refused before anything is "
    "built.",
    "R26": "One notice, then fp32, to the same bits as without.",
    "R27": "BatchNorm in groups (`bn_splits=8`) with a shuffle between query and "
    "key; a warning where that is switched off.",
    "R28": "The others end (exit code 5) and name the rank, host and process: at "
    "once where it is dead, within the timeout where it hangs; torchrun's restart "
    "resumes.",
    "R29": "Refused, with the run found there and the three ways on: `--resume`, "
    "another `--work-dir`, `--overwrite`, which moves what is there to `old/`. No run "
    "deletes an interim file of another one.",
    "R30": "Each run has a folder of its own below `out_dir`, by an identity that "
    "moves with the work dir; it is locked as the work dir is.",
    "R31": "Refused, with the files added, removed and changed; `--allow-other-data` "
    "goes on. A folder that was moved or copied is the same data.",
    "R32": "The schedule is that of the new length from the current epoch on; the log "
    "says the rate.",
    "R33": "As R8: everything is saved, one sentence, exit code 75; a second Ctrl-C "
    "ends the process at once, with 130.",
    "R34": "Target network, queues and banks move once per step of the optimizer, "
    "which then equals that of one large batch.",
    "R35": "Exit code 2 and a sentence with the path and the bytes free; what was "
    "saved stands, `--resume` goes on. A report that finds no room ends no run.",
    "R36": "Only regular files are listed; a file is not read beyond a bound; the "
    "first look at a sample is watched as the workers are.",
    "R37": "Trained on, listed and drawn as all others; control characters are shown "
    "escaped wherever a name is shown.",
    "R38": "Upright in the pretraining, kNN, probes, detection and segmentation.",
    "R39": "One list of suffixes for all readers; one line with what was found and "
    "left out; a warning where bands, pages or most of the range are not used.",
    "R40": "Classes are compared by name: mapped, and refused where the bank does not "
    "know one.",
    "R41": "Cached by the whole address and what the server says of the version.",
    "R42": "Refused with the file, the tensors and what is wrong with them.",
    "R43": "Refused, with the way that works: `PretrainedBackbone`.",
    "R44": "What is trained on and scored is counted per class and split; refused at "
    "zero, said where something is lost. A perfect detector has AP 1.",
    "R45": "Pixels are counted by class; a label that no class has is refused with "
    "the file, also in a map that is read late.",
}


def observed() -> dict[str, dict[str, str]]:
    """Rows of the CSV by id."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


MARK = "pytest.mark.fault"


def proofs() -> dict[str, Counter[Path]]:
    """Test files by id, with the number of marked tests in each."""
    found: dict[str, Counter[Path]] = {fault: Counter() for fault in FAULTS}
    for path in sorted((REPO / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == MARK:
                for argument in node.args:
                    found[ast.literal_eval(argument)][path.relative_to(REPO)] += 1
    return found


def table() -> str:
    """Render the table."""
    upstream, tests = observed(), proofs()
    lines = [
        "| id | fault | mmssl_ext | proved by | mmengine and mmpretrain |",
        "|---|---|---|---|---|",
    ]
    for fault, text in FAULTS.items():
        links = [f"[{_short(path)}](../{path.as_posix()})" for path in tests[fault]]
        seen = upstream[fault]
        cells = (
            fault,
            text,
            OURS[fault],
            ", ".join(links),
            f"**{seen['outcome']}**: {seen['observed']}",
        )
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    versions = {v: 0 for row in upstream.values() for v in row["versions"].split(", ")}
    return "\n".join([*lines, "", f"Upstream as run: {', '.join(versions)}."])


def _short(path: Path) -> str:
    """A test file as it is spoken of: ``engine/guard``."""
    name = path.relative_to("tests").with_suffix("").as_posix()
    return name.replace("test_", "")


def parts() -> tuple[str, str, str]:
    """The page before the table, the table, and the page after it."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    inside, after = rest.split(END)
    return before, inside.strip(), after


def main() -> None:
    """Write the table into the page."""
    before, _, after = parts()
    text = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
