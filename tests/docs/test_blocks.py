"""Every command and every Python block of README and docs works as it is written."""

from __future__ import annotations

import pytest

from tests.machine import shared_folder

from .blocks import ROOT, Block, Command, PageError, pages, read_page
from .workspace import Workspaces

pytestmark = pytest.mark.timeout(1200)  # a page is run up to the block

READ: dict[str, tuple[list[Block], list[Command]]] = {}
WRONG: dict[str, str] = {}
for _path in pages():
    _name = _path.relative_to(ROOT).as_posix()
    try:
        READ[_name] = read_page(_path)
    except PageError as error:
        WRONG[_name] = str(error)
        READ[_name] = [], []

BLOCKS = [block for blocks, _ in READ.values() for block in blocks]
INLINE = {page: commands for page, (_, commands) in READ.items() if commands}


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory):
    """The folders in which blocks run, and the programs that they start."""
    found = Workspaces(shared_folder(tmp_path_factory) / "docs")
    yield found
    found.close()


@pytest.mark.parametrize("page", READ)
def test_page_is_written_as_the_tests_read_it(page):
    assert page not in WRONG, WRONG[page]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block(block, workspaces):
    blocks, _ = READ[block.page]
    workspaces.page(block.page, blocks).outcome(block).check()


@pytest.mark.parametrize("page", INLINE)
def test_commands_in_the_text(page, workspaces):
    blocks, commands = READ[page]
    workspaces.page(page, blocks).inline(commands).check()


SHAPES = """\
Text with `make demo` and ``tools/train.py --amp``.

1. In a list:

   ```bash
   echo one \\
       two
   ```

:::{note}
```{code-block} python
:caption: a

x = 1
```
:::

````{tip}
<!-- block: cluster -->
```console
$ echo first \\
> second
answer
$ echo third
```
````
<!-- block: output -->
```python
shown
```
"""


def test_blocks_are_found_with_their_lines(tmp_path):
    (tmp_path / "page.md").write_text(SHAPES)
    blocks, commands = read_page(tmp_path / "page.md", tmp_path)
    assert [(b.name, b.language, b.kind, b.first) for b in blocks] == [
        ("page.md:5", "bash", "run", 6),
        ("page.md:11", "python", "run", 14),
        ("page.md:20", "console", "cluster", 21),
    ]
    assert [b.script for b in blocks] == [
        "echo one \\\n    two",
        "x = 1",
        "echo first \\\nsecond\n\necho third",
    ]
    assert [(c.line, c.text) for c in commands] == [
        (1, "make demo"),
        (1, "tools/train.py --amp"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n<!-- block: imagnet -->\n```bash\nls\n```", 2),  # unknown mark
        ("<!-- block: cluster -->\n\ntext\n```bash\nls\n```", 1),  # of no block
        ("text\n<!-- block: cluster -->", 2),
        ("```sh\nls\n```", 1),  # a language that nothing runs
        ("text\n```bash\nls", 2),  # not closed
        ("```text\nloss 0.1\npython tools/train.py x.py\n```", 3),  # hidden
        ("```\n$ ls\n```", 2),
        ("```console\nls\n```", 1),  # nothing would run
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
        blocks.append(Block("broken.md", at, language, kind, code, at + 1))
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
    commands = [Command("text.md", i, text) for i, text in enumerate(texts, 1)]
    right = Command("text.md", 9, "tools/train.py CONFIG --resume --cfg-options a.b=c")
    outcome = workspaces.page("text.md", []).inline([*commands, right])
    for command, cause in zip(commands, texts.values(), strict=True):
        assert cause in outcome.output.split(f"{command.name}: ")[1]
    assert right.name not in outcome.output
