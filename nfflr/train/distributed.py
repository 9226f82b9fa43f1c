"""Training in several processes, here or as one of a cluster's: how they start, and sums over them.

Ranks share each batch, and a gradient is that of the loss of the whole batch: every rank adds its part of it
(ignite.distributed carries the numbers), where averaging gradients of unequal parts would be another loss.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import ignite.distributed as idist
import torch
from torch.distributed import DistError
from torch.multiprocessing import ProcessExitedException, start_processes

from .. import errors

T = TypeVar("T")
TORCHRUN = "TORCHELASTIC_RUN_ID"  # set for its processes
PATIENCE = 30  # s; for the step that is going on and the state after it
BY_CODE = {cls.exit_code: cls for cls in errors.NFFLrError.__subclasses__()}


def is_first() -> bool:
    """Whether this process writes the files."""
    return idist.get_rank() == 0


def share(items: list) -> list:
    """This rank's part of a list, every world-size-th item; parts may differ in length by one."""
    return items[idist.get_rank() :: idist.get_world_size()]


def total(values: torch.Tensor) -> torch.Tensor:
    """Sum over ranks of a tensor of any shape."""
    return cast(torch.Tensor, idist.all_reduce(values)) if idist.get_world_size() > 1 else values


def gathered(item: T) -> list[T]:
    """One picklable object of each rank, by rank; only processes of this run exchange them."""
    return cast(list[T], idist.all_gather(item)) if idist.get_world_size() > 1 else [item]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over ranks; a parameter without a gradient on any rank keeps none."""
    if idist.get_world_size() == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    counts = flat.new_tensor([float(p.grad is not None) for p in parameters])
    both = total(torch.cat([flat, counts]))
    sums = both[: len(flat)].split([p.numel() for p in parameters])
    for parameter, values, has in zip(parameters, sums, both[len(flat) :].tolist(), strict=True):
        # Joined they have the highest precision among them; a gradient has its parameter's.
        parameter.grad = values.view_as(parameter).to(parameter, copy=True) if has else None


def launch(function: Callable[..., int], arguments: dict, processes: int | None) -> int:
    """Call ``function(**arguments)`` data-parallel and return its exit code.

    With ``processes`` above one they are started here (gloo on CPUs, nccl on GPUs). Otherwise, under torchrun
    or a SLURM step of several tasks, this process joins the others; else it runs alone.

    Raises:
        NFFLrError: the error of the first process that failed; the others are stopped.
    """
    if processes and processes > 1:
        return _spawn(function, arguments, processes)
    if TORCHRUN not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return function(**arguments)
    if TORCHRUN in os.environ:
        os.environ.pop("SLURM_JOB_ID", None)  # tasks are launchers then, and ranks are torchrun's
    idist.initialize(_backend(_processes_here()))
    try:
        return function(**arguments)
    finally:
        idist.finalize()


def _processes_here() -> int:
    """Processes on this machine; SLURM writes ``4(x2),3`` for machines of 4, 4 and 3."""
    counts = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_STEP_TASKS_PER_NODE") or "1"
    return max(int(count.partition("(")[0]) for count in counts.split(","))


def _backend(processes: int) -> str:
    """nccl where each process of this machine can have a GPU."""
    return "nccl" if torch.cuda.device_count() >= processes else "gloo"


def _spawn(function: Callable[..., int], arguments: dict, processes: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        failure = Path(folder, "failure.json")
        settings = (processes, Path(folder), function, arguments)
        started = start_processes(_worker, settings, nprocs=processes, join=False, start_method="spawn")
        try:
            while not started.join():
                pass
        except ProcessExitedException as error:
            _raise_failure(failure, error)
            raise errors.ResourceError(
                f"process {error.error_index}: ended with code {error.exit_code}; see the messages above"
            ) from error
        except KeyboardInterrupt as error:
            _end(started.processes)  # the interrupt may have reached this process alone
            _raise_failure(failure, error)
            raise
        finally:
            _end(started.processes)
    return 0


def _end(processes: Sequence) -> None:
    """End processes; the first one may save before it goes, for which it needs the others."""
    processes[0].terminate()
    processes[0].join(PATIENCE)
    for process in processes:
        process.kill()
        process.join()


def _raise_failure(failure: Path, cause: BaseException) -> None:
    """Raise the error of the first process that failed, if it left one."""
    if not failure.is_file():
        return
    message, code = json.loads(failure.read_text())
    if code > 128:
        raise errors.StoppedError(message, code - 128) from cause
    raise BY_CODE.get(code, errors.NFFLrError)(message) from cause


def _worker(rank: int, processes: int, folder: Path, function: Callable[..., int], arguments: dict) -> None:
    # This process is ours: its threads, which the function may raise, and an environment from which ignite
    # takes its place.
    torch.set_num_threads(1)
    os.environ.pop("SLURM_JOB_ID", None)  # the job's ranks are not these
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    meeting = f"file://{folder}/rendezvous"  # no port that two runs could want
    idist.initialize(_backend(processes), init_method=meeting, world_size=processes, rank=rank)
    try:
        code = function(**arguments)
    except errors.StoppedError as error:  # the parent raises it again
        code = error.exit_code
        _write_failure(folder, rank, str(error), code)
    except Exception as error:
        nfflr_error = errors.as_nfflr_error(_of_a_lost_process(error) or error)
        code = nfflr_error.exit_code
        _write_failure(folder, rank, str(nfflr_error), code)
    if code:
        sys.stdout.flush()
        os._exit(code)  # the others may wait for this one in a collective; the parent ends them
    idist.finalize()


def _of_a_lost_process(error: BaseException) -> errors.ResourceError | None:
    """The meaning of a failure to reach another rank; gloo raises plain errors that carry its name."""
    if isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return errors.ResourceError(
            "another process of the run: ended; see its message, or whether it was killed"
        )
    return None


def _write_failure(folder: Path, rank: int, message: str, code: int) -> None:
    """Leave the message of the first process that fails, whole whenever the parent looks."""
    own = folder / f"failure-{rank}.json"
    own.write_text(json.dumps([message, code]))
    with suppress(FileExistsError):
        os.link(own, folder / "failure.json")
