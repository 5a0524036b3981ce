"""The table of a regeneration in sittings: ``python -m benchmarks.gpu.table pack | run | results | show``.

pack FLAGS  here: makes what comes from the data set, and lists what must travel in travel.txt of the store
run         there: makes what is missing, with the runs of the most wanted subsets first, until it is told to stop
results     there: lists in results.txt of the store what comes back
show        here, when that has come back: the table of the subsets whose runs are all there

Environment: STORE; of run: RUNS_PER_GPU, DEVICE, WORKERS; of results: RETURN_MIB. docs/gpu.md has the order of events.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.pool import Pool, StoppedError
from benchmarks.gpu.sitting import NotReadyError, Sitting
from benchmarks.gpu.travel import coming_back, going_there, write_list
from datasets.runtime.command_line import BAD_INPUT, parse_config
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.keys import artifact_key
from datasets.runtime.manifests import manifest_of
from flows.config import RegenerateConfig, complete
from flows.preflight import check
from flows.process.commands import CommandError, Guard, run_commands
from flows.process.locks import hold_gpus
from flows.stages import Resources, run_stages, stage_command, write_config
from reid.config import BenchmarkConfig

logger = logging.getLogger("sitting")

TRAVEL, RESULTS = "travel.txt", "results.txt"
"""In the store: files that go there, and that come back."""


def store() -> Path:
    """The store of this machine."""
    return Path(os.environ.get("STORE", "runs/store"))


def pack(flags: Sequence[str]) -> int:
    """Make what comes from the data set; write down what must travel."""
    config = parse_config(RegenerateConfig, ["--store", str(store()), *flags], "python -m benchmarks.gpu.table pack")
    check(config)
    resources = Resources.of(config)

    def make_data(configs: Sequence[StageConfig]) -> list[Path]:
        if configs[0].package == "datasets" and configs[0].stage != "encode":
            return run_stages(configs, config.store, resources=resources).folders
        return ready.make(configs)

    sitting, ready = Sitting(store(), config, make_data), Sitting(store(), config)
    ready.regeneration = sitting.regeneration
    _look(sitting, ready)
    sitting.write()
    found = list(dict.fromkeys([*sitting.complete, *ready.complete]))
    files = going_there(found, ready.missing, config.arms)
    write_list(sitting.store / TRAVEL, sitting.store, files)
    missing = (
        f"{ready.missing[0].stage} is the first stage that lacks something" if ready.missing else "nothing is missing"
    )
    logger.info("%d artifacts are ready, %s; %.1f MiB travel", len(found), missing, _mib(files))
    return 0


def _look(sitting: Sitting, ready: Sitting) -> None:
    """Ask for everything; what is there is collected in `complete`."""
    try:
        inputs = sitting.regeneration.make_material().inputs
    except NotReadyError:
        return
    for cell in sitting.cells():
        try:
            sitting.train(inputs, cell, ready.make)
        except NotReadyError:
            continue


def run() -> int:
    """Make what is missing until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    places, workers = int(os.environ.get("RUNS_PER_GPU", "6")), int(os.environ.get("WORKERS", str(os.cpu_count() or 1)))
    stopped = threading.Event()
    config = Sitting(store()).config.model_copy(
        update={"device": os.environ.get("DEVICE", "auto"), "runs_per_gpu": places, "workers": workers}
    )
    resources = Resources.of(config)
    makes = _Makes(store().absolute(), resources, stopped)
    sitting = Sitting(store(), make=makes.stage)
    sitting.config = sitting.regeneration.config = config.model_copy(update={"store": sitting.store})
    started = time.monotonic()
    inputs = sitting.regeneration.make_material().inputs
    logger.info("everything but the runs is ready after %.0f s", time.monotonic() - started)
    with hold_gpus(config.device, 1, logger.info, lambda: None) as (environment, locks):
        # a place has its share of the cores
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // places))}
        makes.guard = replace(makes.guard, environment={**threads, **environment}, keep_open=locks)
        pool = Pool(places, sitting.store, makes.one)
        failed = _train_all(sitting, inputs, pool, stopped)
    return 1 if failed else 0


class _Makes:
    """Makes artifacts by commands that end when the time is over."""

    def __init__(self, store: Path, resources: Resources, stopped: threading.Event) -> None:
        self.store, self.resources, self.stopped = store, resources, stopped
        self.guard = Guard(grace_seconds=resources.grace_seconds, still_wanted=self.still_wanted)

    def still_wanted(self) -> None:
        if self.stopped.is_set():
            raise StoppedError

    def stage(self, configs: Sequence[StageConfig]) -> list[Path]:
        begun = time.monotonic()
        found = run_stages(configs, self.store, resources=self.resources)
        logger.info("%s: %s, %.0f s", configs[0].stage, found, time.monotonic() - begun)
        return found.folders

    def one(self, config: StageConfig) -> None:
        name = f"{config.stage}-{artifact_key(config)}"
        command = stage_command(config, [write_config(config, self.store)], self.store, self.resources)
        begun = time.monotonic()
        run_commands([(command, self.store / "logs" / f"{name}.log")], logger.debug, self.guard)
        logger.info("%s: %.0f s", _words(config), time.monotonic() - begun)


def _words(config: StageConfig) -> str:
    names = ("fraction", "draw", "seed", "arm")
    return " ".join([config.stage, *(f"{name} {getattr(config, name)}" for name in names if hasattr(config, name))])


def _train_all(sitting: Sitting, inputs: object, pool: Pool, stopped: threading.Event) -> int:
    """The runs of all cells, a thread for each that waits for them; returns how many cells failed."""
    errors: list[BaseException] = []

    def train(priority: int, cell: tuple[tuple[int, int], int]) -> None:
        try:
            sitting.train(inputs, cell, pool.maker(priority))
            logger.info("all runs of %d %% draw %d seed %d are there", *cell[0], cell[1])
        except StoppedError:
            pass
        except (CommandError, InputError) as error:
            errors.append(error)
            logger.error("%s", error)

    threads = [
        threading.Thread(target=train, args=(priority, cell), daemon=True)
        for priority, cell in enumerate(sitting.cells())
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        logger.info("the time is over: what runs is stopped")
        stopped.set()
        pool.stop()
        for thread in threads:
            thread.join(timeout=15)
    return len(errors)


def results() -> int:
    """Write down what comes back: figures of everything that was made there, then whatever fits of what goes on."""
    root = store().absolute()
    arrived = root / TRAVEL
    came = set(arrived.read_text().splitlines()) if arrived.is_file() else set()
    files = coming_back(root, came, int(float(os.environ.get("RETURN_MIB", "55")) * 2**20))
    write_list(root / RESULTS, root, files)
    logger.info("%d files, %.1f MiB come back", len(files), _mib(files))
    return 0


def show() -> int:
    """The table of the subsets whose runs are all there, as far as the arms of one subset go."""
    sitting = Sitting(store())
    inputs = sitting.regeneration.make_material().inputs
    runs: list[Path] = []
    for cell in sitting.cells():
        name = "{} % draw {} seed {}".format(*cell[0], cell[1])
        try:
            runs += sitting.train(inputs, cell)
            logger.info("%s: complete", name)
        except NotReadyError as lacking:
            logger.info("%s: left out, lacks %s", name, ", ".join(getattr(c, "arm", c.stage) for c in lacking.missing))
    if not runs:
        raise InputError(f"no subset of {sitting.store} has all its runs yet; give it another sitting")
    config = complete(BenchmarkConfig, sitting.config.benchmark, runs=runs)
    (folder,) = run_stages([config], sitting.store).folders
    print((folder / "results.md").read_text())
    logger.info("%s: %d runs", folder, len(manifest_of(folder)["inputs"]))
    return 0


def _mib(files: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 2**20


ACTIONS: Mapping[str, Callable[[], int]] = {"run": run, "results": results, "show": show}


def main(arguments: Sequence[str]) -> int:
    """Do what the first argument says; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    action, flags = (arguments[0] if arguments else ""), list(arguments[1:])
    if action != "pack" and (action not in ACTIONS or flags):
        print(__doc__, file=sys.stderr)
        return BAD_INPUT
    try:
        return pack(flags) if action == "pack" else ACTIONS[action]()
    except KeyboardInterrupt:
        logger.info("stopped; the same command goes on from here")
        return 128 + signal.SIGINT
    except (InputError, NotReadyError, CommandError) as error:
        print(f"python -m benchmarks.gpu.table {action}: {error}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
