"""Several processes that are one run: how they join, what they must agree on, how they leave.

Every machine of a pod starts the same command. `join` makes one run of them before a device is
touched; from then on "host" is a process, numbered from 0, and host 0 is the one that prints and
writes. A process alone joins nobody, and everything here does nothing.

Hosts talk through the key-value store of JAX's coordination service, which host 0 keeps; JAX has
no public name for its client. What devices compute together goes through collectives: the
interconnect on TPUs, gloo on CPUs.
"""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed as jax_distributed
from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm
from jax.sharding import Mesh

import tgvlm_jax
from tgvlm_jax import mesh as mesh_lib
from tgvlm_jax.data import storage
from tgvlm_jax.schema import Experiment
from tgvlm_jax.train import checkpoint
from tgvlm_jax.types import InputError

FAILED = 75
"""Exit status of a host that another one left alone or that hangs: the same command goes on."""
MISUSED = 2

_JOIN_SECONDS = 300
_SLACK = 60  # JAX waits longer than we do, because it aborts instead of saying what is wrong
_SILENT_SECONDS = 120  # until JAX takes a process for dead that the watchdog has not missed
_SHUTDOWN_SECONDS = 60  # that hosts which are done wait for the others
_FOREVER = 2**31 - 1  # milliseconds; that hosts wait for each other in vain the watchdog finds out
_MAY_DIFFER = ("data.shards", "data.threads", "data.prefetch")
_turns = itertools.count()
_hooks: list[Any] = []  # what C code calls must not be collected


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = _JOIN_SECONDS,
) -> None:
    """Joins the processes of a run; to be called before anything touches a device.

    With no arguments TPU metadata (several slices too) or SLURM say who they are; where neither
    is there, or knows of one process only, nothing happens.

    Args:
        coordinator: host:port at which process 0 is met. processes: how many there are.
        process_id: which one this is, from 0. timeout: seconds to wait for the others.

    Raises:
        InputError: arguments that do not fit each other, or nobody answers at the coordinator.
    """
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    if any(value is not None for value in given.values()):
        _check_arguments(given)
    elif not _surrounded():
        return
    if processes == 1:
        return
    # It would swallow SIGTERM, which the loop wants to see.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator is not None and process_id:
        _await(coordinator, timeout)
    patience = threading.Timer(timeout, _alone, [coordinator, processes, timeout])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=timeout + _SLACK,
            heartbeat_timeout_seconds=_SILENT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, OSError):  # a TPU that nobody's metadata describes
        if coordinator is not None:
            raise
    finally:
        patience.cancel()
    if joined():
        _speak_last()


def joined() -> bool:
    """Whether this process is one of several."""
    state = jax_distributed.global_state
    return state.client is not None and state.num_processes > 1


def host() -> int:
    """Number of this process."""
    return jax_distributed.global_state.process_id


def count() -> int:
    """How many processes there are."""
    return jax_distributed.global_state.num_processes


def client() -> Any:
    """The key-value store that all hosts see."""
    return jax_distributed.global_state.client


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Lets a host that fails leave at once: JAX would wait for the others, and they for it."""
    try:
        yield
    except Exception as error:
        if not joined():
            raise
        leave(status(error), explain(error))


def leave(status: int, message: str) -> None:
    """Says why and ends this process, whatever its other threads wait for."""
    print(f"tgvlm: error: {message}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


def status(error: BaseException) -> int:
    """The exit status after an error; where the person's input is wrong, again would not help."""
    return MISUSED if isinstance(error, InputError | OSError | FloatingPointError) else FAILED


def explain(error: BaseException) -> str:
    """An error as a line; what nobody has foreseen is printed whole, too."""
    text = " ".join(str(error).split())
    known = status(error) == MISUSED
    if not known or os.environ.get("TGVLM_TRACEBACK") == "1":
        traceback.print_exception(error)
    return text if known else f"{type(error).__name__}: {text[:300]}"


def gather(value: Any) -> list[Any]:
    """What every host says, by its number: JSON, bit for bit. All of them call it, in one order."""
    if not joined():
        return [value]
    store, turn = client(), next(_turns)
    where = f"tgvlm/gather/{turn}"
    store.key_value_set(f"{where}/{host():06}", json.dumps(value))
    store.wait_at_barrier(where, _FOREVER)
    found = sorted(store.key_value_dir_get(f"{where}/"))
    if host() == 0 and turn:  # everyone is here, so everyone has read what was said before
        store.key_value_delete(f"tgvlm/gather/{turn - 1}/")
    return [json.loads(text) for _, text in found]


def mean(figures: dict[str, float]) -> dict[str, float]:
    """Means over hosts of figures that each has for its own part."""
    said = gather(figures)
    return {name: sum(one[name] for one in said) / len(said) for name in figures}


def agree(experiment: Experiment) -> None:
    """Raises InputError where hosts were not given the same experiment, code and shards."""
    if joined():
        compare(gather(facts(experiment)))


def facts(experiment: Experiment) -> dict[str, str]:
    """What must be the same on all hosts."""
    found = {"jax": jax.__version__, "tgvlm": tgvlm_jax.__version__}
    manifest = storage.at(experiment.data.shards) / "manifest.json"
    if manifest.is_file():
        found["what data.shards holds"] = str(uuid.uuid5(uuid.NAMESPACE_OID, manifest.read_text()))
    found |= {key: repr(value) for key, value in checkpoint.flat(experiment).items()}
    return {key: text for key, text in found.items() if not key.startswith(_MAY_DIFFER)}


def compare(said: Sequence[dict[str, str]]) -> None:
    """Raises InputError where hosts, in their order, did not say the same."""
    first = said[0]
    for number, other in enumerate(said):
        keys = [key for key in first | other if first.get(key) != other.get(key)]
        if keys:
            key = keys[0]
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise InputError(
                f"host {number} has {key}={other.get(key)}, host 0 has {first.get(key)}{more}; "
                "start the same command on every host, with the same files"
            )


def check_shared(folder: Path) -> None:
    """Raises InputError where a folder is not one and the same for all hosts."""
    if not joined():
        return
    name = gather(f".shared.{uuid.uuid4()}")[0]
    if host() == 0:
        (folder / name).touch()
    gather(None)
    there, patience = False, time.monotonic() + 10
    while not there and time.monotonic() < patience:  # network disks show new files late
        there = (folder / name).exists()
        if not there:
            time.sleep(0.2)
    lack = [number for number, sees in enumerate(gather(there)) if not sees]
    if host() == 0:
        (folder / name).unlink()
    if lack:
        raise InputError(
            f"--workdir {folder}: host {lack[0]} does not see what host 0 writes there; give a "
            "folder on a disk or in a bucket that all hosts share"
        )


def check_mesh(mesh: Mesh | None, *, batch_size: int) -> None:
    """Raises InputError where a mesh leaves devices out, hosts cannot read rows of their own, or
    processes on CPUs would wait for each other.
    """
    if not joined():
        return
    used = 1 if mesh is None else mesh.size
    if mesh is None or used != jax.device_count():
        raise InputError(
            f"the mesh takes {used} of the {jax.device_count()} devices of {jax.process_count()} "
            "hosts; every host must have part of it: set mesh.fsdp=-1 to take them all"
        )
    ring = mesh.shape["cp"]
    if ring > 1 and mesh.devices.flat[0].platform == "cpu":
        raise InputError(
            f"mesh.cp={ring}: not over several processes on CPUs, where XLA starts the collectives "
            "of the ring and those around it in any order, so that hosts may wait for each other "
            "for ever; use mesh.fsdp and mesh.tp"
        )
    owned = [mesh_lib.own_rows(mesh, batch_size, host=n) for n in range(jax.process_count())]
    if not rows_fit(owned, batch_size):
        raise InputError(
            f"data.batch_size={batch_size} does not divide over {jax.process_count()} hosts on a "
            "mesh whose rows cross them: let mesh.tp x mesh.cp divide the devices of a host, or be "
            "a multiple of them"
        )


def rows_fit(owned: Sequence[tuple[int, ...]], count: int) -> bool:
    """Whether hosts own equally many of `count` rows, and any two of them the same or others."""
    even = all(len(rows) * len(set(owned)) == count for rows in owned)
    return even and len(set().union(*owned)) == count


def _check_arguments(given: Mapping[str, Any]) -> None:
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} missing: --coordinator, --processes and --process_id go "
            "together"
        )
    address, count, number = given.values()
    if count < 1 or not 0 <= number < count:
        raise InputError(f"--process_id {number}: with --processes {count} from 0 to {count - 1}")
    name, _, port = address.rpartition(":")
    if not name or not port.isdecimal():
        raise InputError(f"--coordinator {address}: give host:port, such as 10.0.0.2:8476")


def _surrounded() -> bool:
    """Whether something has started this process that knows of others."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        running_on_tpu = False
    else:
        running_on_tpu = bool(running_in_cloud_tpu_vm)
    return running_on_tpu or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def _await(address: str, timeout: float) -> None:
    """Waits until somebody listens there."""
    end = time.monotonic() + timeout
    while not _answers(address):
        if time.monotonic() > end:
            raise InputError(
                f"--coordinator {address}: nobody answers there for {timeout} s; process 0 does, "
                "once it has started: see its log, and whether this machine can reach it"
            )
        time.sleep(0.5)


def _answers(address: str) -> bool:
    name, _, port = address.rpartition(":")
    try:
        with socket.create_connection((name.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


def _alone(coordinator: str | None, processes: int | None, timeout: float) -> None:
    count = "the other" if processes is None else f"all {processes}"
    where = coordinator or jax_distributed.global_state.coordinator_address or "the coordinator"
    leave(FAILED, f"{count} processes did not meet at {where} in {timeout} s; see their logs")


def _speak_last() -> None:
    """Says what happened where JAX would only abort: it does when host 0 is no longer there.

    JAX calls abort() in a thread of its own, as soon as the coordination service does not answer;
    the callback that it has in place of that cannot be given a function of Python.
    """
    state = jax_distributed.global_state
    address = state.coordinator_address or ""

    def aborted(_: int) -> None:
        if host() and not _answers(address):
            leave(FAILED, f"host 0 ({address}) is gone, and with it what hosts meet at")
        leave(FAILED, f"host {host()} was ended by an error that stands above")

    hook = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _hooks.append(hook)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), hook)
