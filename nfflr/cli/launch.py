"""Running a command in several processes, here or as one of a cluster's."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import errors


def launch(function: Callable[..., int], arguments: dict, processes: int | None) -> int:
    """Call ``function(**arguments)`` data-parallel and return its exit code.

    With ``processes`` above one they are started here (gloo on CPUs, nccl on GPUs). Otherwise, under torchrun
    or a SLURM step of several tasks, this process joins the others; else it runs alone.

    Raises:
        NFFLrError: what the first process that failed raised; the others are stopped.
    """
    if processes and processes > 1:
        return _spawn(function, arguments, processes)
    if not _is_one_of_several():
        return function(**arguments)
    import ignite.distributed as idist

    idist.initialize(_backend())
    try:
        return function(**arguments)
    finally:
        idist.finalize()


def _is_one_of_several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _backend() -> str:
    import torch

    return "nccl" if torch.cuda.is_available() else "gloo"


def _spawn(function: Callable[..., int], arguments: dict, processes: int) -> int:
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

    with tempfile.TemporaryDirectory() as folder:
        failure = Path(folder, "failure.json")
        settings = (processes, Path(folder), function, arguments)
        started = start_processes(_worker, settings, nprocs=processes, join=False, start_method="spawn")
        try:
            while not started.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            if failure.is_file():
                kind, message = json.loads(failure.read_text())
                raise getattr(errors, kind)(message) from error
            if isinstance(error, ProcessRaisedException):
                raise
            raise errors.ResourceError(
                f"process {error.error_index}: ended with code {error.exit_code}; see the messages above"
            ) from error
        finally:
            for process in started.processes:  # an interrupt may have reached this process alone
                process.terminate()
                process.join()
    return 0


def _worker(rank: int, processes: int, folder: Path, function: Callable[..., int], arguments: dict) -> None:
    import ignite.distributed as idist
    import torch

    # This process is ours: its threads, and an environment from which ignite takes its place.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    os.environ.pop("SLURM_JOB_ID", None)  # the job's ranks are not these
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    meeting = f"file://{folder}/rendezvous"  # no port that two runs could want
    idist.initialize(_backend(), init_method=meeting, world_size=processes, rank=rank)
    try:
        code = function(**arguments)
    except errors.NFFLrError as error:
        _tell(folder, rank, error)
        code = error.exit_code
    if code:
        sys.stdout.flush()
        os._exit(code)  # the others may wait for this one in a collective; the parent ends them
    idist.finalize()


def _tell(folder: Path, rank: int, error: errors.NFFLrError) -> None:
    """Leave the message of the first process that fails, whole whenever the parent looks."""
    own = folder / f"failure-{rank}.json"
    own.write_text(json.dumps([type(error).__name__, str(error)]))
    with suppress(FileExistsError):
        os.link(own, folder / "failure.json")
