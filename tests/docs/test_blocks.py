"""Every command and every Python block of README and docs works as it is written."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.machine import shared_folder

from .blocks import ROOT, Block, PageError, pages, read_page
from .workspace import Workspaces

pytestmark = pytest.mark.timeout(1200)  # a page is run up to the block

READ: dict[str, tuple[list[Block], list[Block]]] = {}
WRONG: list[str] = []
for _path in pages():
    try:
        READ[_path.relative_to(ROOT).as_posix()] = read_page(_path)
    except PageError as error:
        WRONG.append(str(error))

BLOCKS = [block for blocks, _ in READ.values() for block in blocks]
# Run each time: what newcomers read first, the page of one method, and one of Python.
# The other pages are run by `make test-all`. Their commands are checked each time, but
# for those of the pages of methods, of which one is checked, and of benchmarks.
RUN = (
    *("README.md", "docs/quick_start.md", "configs/co2/README.md"),
    "docs/own_algorithm.md",
)
# Configs that a run on the page writes
WRITTEN = re.compile(r"recipe/pretrain\.py|work_dirs/\S+\.py")
CHECKED = {
    page: [
        replace(b, kind="cluster")
        for b in blocks
        if (b.language == "bash" or b.file) and not WRITTEN.search(b.text)
    ]
    for page, (blocks, _) in READ.items()
    if page not in RUN
}


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory):
    """The folders in which blocks run, and the programs that they start."""
    found = Workspaces(shared_folder(tmp_path_factory) / "docs")
    yield found
    found.close()


def test_pages_are_written_as_the_tests_read_them():
    assert not WRONG
    assert len(READ) > 50 and len(BLOCKS) > 100


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b, marks=[pytest.mark.slow] * (b.page not in RUN), id=b.name)
        for b in BLOCKS
    ],
)
def test_block(block, workspaces):
    blocks, _ = READ[block.page]
    workspaces.page(block.page, blocks).outcome(block).check()


def like_others(page):
    """Whether what it says of commands stands on another page, or is for developers."""
    one = page in ("configs/unmix/README.md", "configs/transfer/detection/README.md")
    return page.startswith(("configs/", "benchmarks/", "projects/")) and not one


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * like_others(page))
        for page, blocks in CHECKED.items()
        if blocks
    ],
)
def test_commands_of_a_page(page, workspaces):
    for block in CHECKED[page]:
        workspaces.page("checked", []).checked(block).check()


def test_commands_in_the_text(workspaces):
    commands = [command for _, found in READ.values() for command in found]
    assert len(commands) > 50
    workspaces.page("text", []).inline(commands).check()


SHAPES = """\
Text
with `make demo` and ``tools/train.py --amp``.

1. In a list:

   ```bash
   echo one \\
       two
   ```

:::{note}
<!-- block: cluster -->
```python
x = 1
```
:::
<!-- block: output -->
```python
shown
```
"""


def test_blocks_are_found_with_their_lines(tmp_path):
    (tmp_path / "page.md").write_text(SHAPES)
    blocks, commands = read_page(tmp_path / "page.md", tmp_path)
    assert [(b.name, b.language, b.kind, b.first, b.text) for b in blocks] == [
        ("page.md:6", "bash", "run", 7, "echo one \\\n    two"),
        ("page.md:13", "python", "cluster", 14, "x = 1"),
    ]
    found = [(c.line, c.text) for c in commands]
    assert found == [(2, "make demo"), (2, "tools/train.py --amp")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n<!-- block: imagnet -->\n```bash\nls\n```", 2),  # unknown mark
        ("<!-- block: cluster -->\n\ntext\n```bash\nls\n```", 1),  # of no block
        ("text\n<!-- block: cluster -->", 2),
        ("```sh\nls\n```", 1),  # a language that nothing runs
        ("````{note}\n```bash\nls\n```\n````", 1),  # not read by this parser
        ("text\n```bash\nls", 2),  # not closed
        ("```text\nloss 0.1\npython tools/train.py x.py\n```", 3),  # hidden
        ("<!-- block: cluster -->\n```json\n{}\n```", 2),  # no effect
    ],
)
def test_a_block_that_no_test_would_run_is_refused(text, line, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(PageError, match=rf"^page\.md:{line}: "):
        read_page(tmp_path / "page.md", tmp_path)


# Kind, language, code, the line within it that is wrong, and what is said of it.
BROKEN = [
    ("run", "bash", "ls\npython tools/test.py CONFIG no.pth", 2, "no.pth"),
    ("run", "bash", "mmssl-ext trian CONFIG", 1, "Did you mean 'train'"),
    ("run", "bash", "python tools/train.py CONFIG \\\n  --cfg-options max_epoch=1", 1,
     "Did you mean max_epochs"),
    ("run", "bash", "GPU=2 ls", 1, "nothing reads GPU"),
    ("run", "python", "x = 1\nx.y", 2, "AttributeError"),
    ("run", "python", 'model = dict(type="CO2", tau=1)', 1, "tau"),
    ("imagenet", "bash", "ls\npython tools/train.py configs/co2/co2_r50_imagenet.py "
     "--cfg-options model.backbone.depht=34", 2, "depht"),
    ("imagenet", "bash", "python tools/chain.py CONFIG --dry-rum", 1, "--dry-rum"),
    ("cluster", "bash", "tools/dist_train.sh configs/co2/co2_r50.py 8", 1, "not exist"),
    ("cluster", "bash", "tools/slurm_train.sh P J CONFIG --resume-from x", 1,
     "--resume-from"),
    ("install", "bash", "make demoo", 1, "demoo"),
    ("install", "bash", "pip install '.[detecton]'", 1, "no extra 'detecton'"),
    ("install", "bash", "pip install -r requirements/pined.txt", 1, "pined.txt"),
]  # fmt: skip


def test_a_broken_block_fails_with_page_line_and_cause(workspaces):
    blocks, expected, at = [], [], 1
    for kind, language, code, line, cause in BROKEN:
        blocks.append(Block("broken.md", at, language, kind, code))
        expected.append((f"broken.md:{at + line}: ", cause))
        at += 10
    page = workspaces.page("broken.md", blocks)
    for block, (place, cause) in zip(blocks, expected, strict=True):
        outcome = page.outcome(block)
        said = f"{outcome.failure}\n{outcome.output}"
        assert outcome.failure and said.startswith(place) and cause in said, said


def test_a_wrong_command_in_the_text_is_found(workspaces):
    texts = {
        "make tset": "make tset",
        "tools/tran.py CONFIG": "there is no tools/tran.py",
        "python tools/train.py --worc-dir x": "--worc-dir",
        "mmssl-ext repport": "no command repport",
        "tools/train.py configs/co2/co2.py": "there is no configs/co2/co2.py",
    }
    right = "tools/train.py CONFIG --resume --cfg-options a.b=c"
    commands = [
        Block("text.md", i, "bash", "inline", text)
        for i, text in enumerate([*texts, right], 1)
    ]
    outcome = workspaces.page("text.md", []).inline(commands)
    for command, cause in zip(commands, texts.values(), strict=False):
        assert cause in outcome.output.split(f"{command.name}: ")[1]
    assert commands[-1].name not in outcome.output
