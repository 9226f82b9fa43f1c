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
    import ignite.distributed as idist
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    with tempfile.TemporaryDirectory() as folder:
        failure = Path(folder, "failure.json")
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        try:
            idist.spawn(
                _backend(),
                _worker,
                (function, arguments, failure, threads),
                {},
                nproc_per_node=processes,
                init_method=f"file://{folder}/rendezvous",  # no port that two runs could want
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            if failure.is_file():
                kind, message = json.loads(failure.read_text())
                raise getattr(errors, kind)(message) from error
            if isinstance(error, ProcessRaisedException):
                raise
            raise errors.ResourceError(
                f"process {error.error_index}: ended with code {error.exit_code}; see the messages above"
            ) from error
    return 0


def _worker(rank: int, function: Callable[..., int], arguments: dict, failure: Path, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)  # this process is ours
    try:
        code = function(**arguments)
    except errors.NFFLrError as error:
        with suppress(FileExistsError), open(failure, "x") as file:  # the first to fail says why
            json.dump([type(error).__name__, str(error)], file)
        code = error.exit_code
    if code:
        sys.stdout.flush()
        os._exit(code)  # the others may wait for this one in a collective; the parent ends them
