"""Which form of the softmax over a queue computes it here.

The forms agree to rounding, and which is fastest depends on the device and on how many
rows there are. Where that has been measured, on CPUs with AVX2 or AVX-512, a rule knows
it. Elsewhere a trial on a part of the queue tells at the first use of a size, and
overrules the rule where another form is clearly faster.

The rule stands first because a resumed run has to end with the bits of one that never
stopped, and a trial depends on what else the machine does: beside other jobs, oneDNN's
many small calls once took 72 ms in place of 4, and fused attention won. So

* the rule alone decides under torch's deterministic algorithms and with several ranks,
  which must agree;
* results of trials go into the checkpoint (``training_state``), and a resumed run goes
  on by them.
"""

import time
from collections.abc import Callable

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import Tensor

Form = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
NAMES = {
    "chunked": "The streaming pass in public ops",
    "fused": "Fused attention",
    "onednn": "The streaming pass by oneDNN",
}
_WORTH_IT = 2**26  # multiplications of one product: a CPU needs about a millisecond
_PART = 2**27  # of those that a trial makes on a CPU, per form and round
_ROWS = 512
_ROUNDS = 3
_CLEARLY = 1.25  # as many times as fast as the rule's form

_MEASURED = ("AVX2", "AVX512")

_chosen: dict[str, str] = {}
_told: set[str] = set()
_always = False


def try_always(wanted: bool) -> None:
    """Whether trials decide on measured CPUs, too, in this process; by default not."""
    global _always
    _always = wanted


def trials() -> dict[str, str]:
    """What the trials of this process chose, by the kind of problem: plain data."""
    return dict(_chosen)


def take_over(chosen: dict[str, str]) -> None:
    """Go on by the trials of the process that a checkpoint comes from."""
    _chosen.update(chosen)


def choose(forms: dict[str, Form], q: Tensor, queue: Tensor) -> str:
    """Name the form for B x N x D rows against B x K x D keys."""
    usual = usual_form(forms, q)
    if len(forms) == 1 or not _is_large(q, queue):
        return usual
    kind = kind_of(q, queue)
    if not _may_try(q):
        if kind not in _told:
            _told.add(kind)
            _tell(usual, f"{kind}; by a rule")
        return usual
    if kind not in _chosen:
        _chosen[kind] = _try(forms, usual, q, queue, kind)
    return _chosen[kind] if _chosen[kind] in forms else usual


def usual_form(forms: dict[str, Form], q: Tensor) -> str:
    """The form that measurements found best for such a device and number of rows.

    On a CPU, few rows are best left to fused attention. For 128 and more oneDNN is
    twice as fast as the others where it has AVX-512; with AVX2 alone the plain chunked
    form is.
    """
    if q.device.type == "cpu" and q.dtype == torch.float and q.shape[-2] >= 128:
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            return "chunked"
        if "onednn" in forms:
            return "onednn"
    return "fused" if "fused" in forms else "chunked"


def kind_of(q: Tensor, queue: Tensor) -> str:
    """What a trial is valid for; numbers of rows and keys count by powers of two."""
    batch, rows, dim = q.shape
    sizes = batch, _power_of_two(rows), _power_of_two(queue.shape[-2]), dim
    on = (
        torch.cuda.get_device_name(q.device)
        if q.is_cuda
        else f"{torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads"
    )
    dtype = str(q.dtype).removeprefix("torch.")
    return f"{on}, torch {torch.__version__}, {dtype}, {' x '.join(map(str, sizes))}"


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _is_large(q: Tensor, queue: Tensor) -> bool:
    return q.shape[:-1].numel() * queue.shape[-2] * q.shape[-1] >= _WORTH_IT


def _may_try(q: Tensor) -> bool:
    return (
        (_always or not _is_measured(q))
        and not torch.are_deterministic_algorithms_enabled()
        and get_world_size() == 1
        and not (q.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _is_measured(q: Tensor) -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return q.device.type == "cpu" and capability in _MEASURED


def _try(
    forms: dict[str, Form], usual: str, q: Tensor, queue: Tensor, kind: str
) -> str:
    """Time all forms in turn; the usual one unless another is clearly faster."""
    if not q.is_cuda:  # there, small problems show how long a launch takes
        q = q[:, :_ROWS].contiguous()
        keys = max(1024, _PART // q.numel())
        queue = queue[:, :keys].contiguous()
    seconds = dict.fromkeys(forms, float("inf"))
    for turn in range(1 + _ROUNDS):
        for name, form in forms.items():
            spent = _seconds(form, q, queue)
            if turn:  # the first call of an op prepares it
                seconds[name] = min(seconds[name], spent)
    best = min(forms, key=seconds.__getitem__)
    if seconds[usual] < _CLEARLY * seconds[best]:
        best = usual
    found = ", ".join(f"{name} {1000 * s:.2f} ms" for name, s in seconds.items())
    _tell(best, f"{kind}; in a trial: {found}")
    return best


def _tell(form: str, why: str) -> None:
    text = f"{NAMES[form]} computes the softmax over the queue ({why})."
    print_log(text, logger="current")


def _seconds(form: Form, q: Tensor, queue: Tensor) -> float:
    if q.is_cuda:
        torch.cuda.synchronize(q.device)
    start = time.perf_counter()
    form(q, queue, 1.0)
    if q.is_cuda:
        torch.cuda.synchronize(q.device)
    return time.perf_counter() - start
