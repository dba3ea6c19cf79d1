"""What ranks agree on, and what they say of one that is gone."""

import contextlib
import os
import re
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mmssl_ext.engine.resilience import agreement, ranks
from mmssl_ext.engine.resilience.agreement import agree, naming_lost_ranks, share
from mmssl_ext.run.tool import run_tool
from tests.distributed import run_ranks, wait_for, workers
from tests.machine import free_port

TIMEOUT = 3.0


def agree_on_rank(rank, codes):
    """Codes over time; returns what was agreed on, and one shared value."""
    with naming_lost_ranks("."):
        found = [agree(code) for code in codes[rank]]
        return found, share(lambda: f"by rank {rank}")


def test_the_largest_code_of_all_ranks_counts():
    codes = [[0, 0, 1, 2, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    expected = [max(column) for column in zip(*codes, strict=True)]
    assert run_ranks(agree_on_rank, 3, codes) == [(expected, "by rank 0")] * 3
    assert agree_on_rank(1, codes) == (codes[1], "by rank 1")  # one process alone


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "waits": lambda: time.sleep(1000),
    "raises": lambda: 1 / 0,
}


def leave_on_rank(rank):
    start = time.monotonic()
    with naming_lost_ranks("."):
        time.sleep(1.5 * rank)
    return time.monotonic() - start


def test_a_rank_that_is_done_waits_for_the_others():
    """One that left early would be missed by those that have still to agree."""
    assert min(run_ranks(leave_on_rank, 2)) > 1.4


def train_on_rank(rank, victim, fault, folder, where):
    """Steps in which all ranks agree and reduce; one rank meets its fault in step 5."""
    agreement._POLL, agreement._ANSWER = 0.1, 2.0

    @run_tool
    def main():
        # A group that would wait for long, as NCCL's: it is not what finds out.
        timeout = timedelta(seconds=TIMEOUT if where == "backward" else 500)
        dist.init_process_group("gloo", timeout=timeout)
        with naming_lost_ranks(folder, TIMEOUT):
            print("begins", flush=True)
            for step in range(10):
                if rank == victim and step == 5:
                    FAULTS[fault]()
                if where == "agree":
                    assert agree(0) == 0
                else:
                    dist.all_reduce(torch.ones(4))  # as DDP in the backward pass
            print("went through")

    return main()


CASES = [  # rank, what happens to it, where the others wait, store of rank 0's, words
    (1, "killed", "agree", False, "is gone: it was killed"),
    (1, "stopped", "agree", False, "does not answer: it is stopped or hangs"),
    (1, "waits", "agree", False, "did not come within 3 s"),
    (1, "raises", "agree", False, "stopped by ZeroDivisionError: division by zero"),
    (1, "killed", "backward", False, "is gone: it was killed"),
    (2, "stopped", "backward", False, "does not answer: it is stopped or hangs"),
    (2, "raises", "backward", True, "stopped by ZeroDivisionError: division by zero"),
    (0, "raises", "agree", True, "stopped by ZeroDivisionError: division by zero"),
    (0, "killed", "agree", True, ", which has the store, is gone: it was killed"),
    (0, "stopped", "backward", True, ", which has the store, does not answer"),
]


def test_a_store_that_is_slow_to_connect_is_waited_for(monkeypatch):
    """Longer than for an answer later on, as where many ranks start at once."""

    def store(**options):
        return dist.TCPStore("127.0.0.1", port, wait_for_workers=False, **options)

    port = free_port()
    first = store(is_master=True)
    known = store(is_master=False)
    del first  # nobody listens any more, until there is a second
    find = "torch.distributed.distributed_c10d._get_default_store"
    monkeypatch.setattr(find, lambda: known)
    monkeypatch.setattr(agreement, "_ANSWER", 0.3)
    held = []
    later = threading.Timer(1.0, lambda: held.append(store(is_master=True)))
    later.start()
    own, _ = agreement._own_store("prefix", 60.0)
    later.join()
    own.set("a", "b")
    assert own.check(["a"]) and own.get("a") == b"b"
    start = time.monotonic()
    with pytest.raises(RuntimeError):  # a call is told soon
        own.get("never there")
    assert time.monotonic() - start < 20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All cases: they wait most of the time, so one starts where the last has begun."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "last_checkpoint").write_text("run/epoch_3.pth")
    found = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for case in CASES:
            victim, fault, where, own_store, _ = case
            place = folder / "-".join(map(str, case[:4]))
            arguments = (3, place, victim, fault, str(folder), where)
            context = workers(train_on_rank, *arguments, own_store=own_store)
            running[case] = stack.enter_context(context)
            while not all("begins" in x.text or x.code for x in running[case]):
                time.sleep(0.02)
        for case, started in running.items():
            others = [x for rank, x in enumerate(started) if rank != case[0]]
            wait_for(others, 60)
            pid = started[case[0]].process.pid
            found[case] = pid, [(x.code, x.text) for x in others]
    return found


@pytest.mark.alone
@pytest.mark.fault("R28")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:4])))
def test_the_others_leave_and_one_names_the_rank_that_is_gone(outcomes, case):
    victim, _, _, _, words = case
    pid, others = outcomes[case]
    assert [code for code, _ in others] == [5, 5], others
    lines = [line for _, text in others for line in text.splitlines()]
    said = [line for line in lines if line.startswith("Error: ")]
    assert len(said) == 1 or "store" in words  # no store, no way to choose one
    assert f"Rank {victim} (host " in said[0] and f", process {pid})" in said[0]
    assert words in said[0]
    assert "last checkpoint is run/epoch_3.pth; start again with --resume" in said[0]
    assert len(re.findall(r"Rank \d+ \(", said[0])) == 1  # nobody else is suspected
    assert not any("Traceback" in text or "went through" in text for _, text in others)


def stuck_on_rank(rank, folder):
    """Rank 0 waits where no error of a peer reaches it, rank 1 fails meanwhile."""
    agreement._POLL, agreement._ANSWER, agreement._LEAVE = 0.1, 2.0, 1.0

    @run_tool
    def main():
        dist.init_process_group("gloo")
        with naming_lost_ranks(folder, 500):
            if rank == 1:
                raise ZeroDivisionError("boom")
            time.sleep(500)  # as a GPU that waits for the rank which is gone

    return main()


@pytest.mark.fault("R28")
def test_a_rank_that_cannot_leave_by_itself_is_made_to(tmp_path):
    with workers(stuck_on_rank, 2, tmp_path, str(tmp_path)) as (first, second):
        wait_for([first, second], 30)
        assert (first.code, second.code) == (5, 1)
        assert "stopped by ZeroDivisionError: boom" in first.text


def fine_on_rank(rank, folder):
    """Two runs one after the other over the same connections, the first ends badly."""
    agreement._POLL = 0.05

    @run_tool
    def main():
        dist.init_process_group("gloo")
        for attempt in range(3):
            try:
                with naming_lost_ranks(folder, 10):
                    assert agree(rank) == 1
                    if attempt == 0:
                        raise KeyError("all ranks alike")
            except KeyError:
                assert attempt == 0
            time.sleep(0.2 * rank)
        print("went through")

    return main()


def test_runs_after_one_another_do_not_hear_old_alarms(tmp_path):
    with workers(fine_on_rank, 2, tmp_path, str(tmp_path)) as started:
        wait_for(started, 60)
        assert [(x.code, x.text) for x in started] == [(0, "went through\n")] * 2


def lonely_on_rank(rank):
    from mmengine.config import Config

    dist_cfg = {"backend": "gloo", "timeout": 2.0}
    cfg = Config({"launcher": "pytorch", "env_cfg": {"dist_cfg": dist_cfg}})
    os.environ["WORLD_SIZE"] = "2"
    return run_tool(lambda: ranks.start_ranks(cfg))()


def test_a_rank_that_never_starts_is_said_in_a_sentence(tmp_path, monkeypatch):
    with workers(lonely_on_rank, 1, tmp_path) as (only,):
        wait_for([only], 60)
        assert only.code == 5
        assert "Error: The 2 ranks did not find one another at 127.0.0.1:" in only.text
        assert "Traceback" not in only.text
