"""One training on two machines: two torchrun agents on this host that meet at a rendezvous (docs/prefect.md)."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from datasets.runtime.config import StageConfig
from datasets.runtime.keys import artifact_directory, partial_directory
from datasets.runtime.manifests import is_complete
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.stages import Resources, run_stages
from imagpose.config import TrainGeneratorConfig
from tests.prefect_site import processes_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
AT_MOST = 1200.0


class ReachedError(Exception):
    """The generators' turn has come."""

    def __init__(self, trainings: list[TrainGeneratorConfig]) -> None:
        self.trainings = trainings


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> tuple[Path, list[TrainGeneratorConfig]]:
    """A store in which everything but the two generators of preset `smoke` is made, and their settings."""
    store = tmp_path_factory.mktemp("first") / "store"

    def run(configs: Sequence[StageConfig]) -> list[Path]:
        if configs and isinstance(configs[0], TrainGeneratorConfig):
            raise ReachedError(list(configs))
        return run_stages(configs, store).folders if configs else []

    with pytest.raises(ReachedError) as reached:
        Regeneration(RegenerateConfig(preset="smoke", device="cpu", store=store, train={"steps": 4}), run).make()
    return store, reached.value.trainings


class Machines:
    """The flow's machine, and a second one that runs the command which the flow's log shows."""

    def __init__(self, store: Path, trainings: list[TrainGeneratorConfig]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            resources = Resources(workers=2, nodes=2, rendezvous=f"127.0.0.1:{probe.getsockname()[1]}")
        self.lines: list[str] = []
        self.wanted = True
        self.problem: BaseException | None = None
        self.first = threading.Thread(target=self._train, args=(store, trainings, resources), daemon=True)
        self.first.start()
        said = wait_for(lambda: [line for line in self.lines if "on each of the 2 machines" in line], AT_MOST)
        self.second = subprocess.Popen(shlex.split(said[0].partition(": ")[2]))

    def _train(self, store: Path, trainings: list[TrainGeneratorConfig], resources: Resources) -> None:
        try:
            run_stages(
                trainings, store, resources=resources, on_line=self.lines.append, still_wanted=self._still_wanted
            )
        except KeyboardInterrupt as stopped:
            self.problem = stopped

    def _still_wanted(self) -> None:
        if not self.wanted:
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> int:
        """Until both are done; the second one's exit code."""
        try:
            self.first.join(seconds)
            return self.second.wait(seconds)
        finally:
            self.second.kill()


def losses(generator: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, (generator / "logs" / "train.jsonl").open())]


def test_two_machines_train_the_generators_that_one_trains(trainings, tmp_path):
    store, configs = trainings
    shutil.copytree(store, tmp_path / "store")
    alone = run_stages(configs, store).folders
    machines = Machines(tmp_path / "store", configs)
    assert machines.wait(AT_MOST) == 0 and machines.problem is None
    assert len(configs) == 2
    for config, by_one in zip(configs, alone, strict=True):
        by_two = artifact_directory(config, tmp_path / "store")
        assert is_complete(by_two)
        assert len(losses(by_two)) == len(losses(by_one))
        for (step, ours), (its_step, theirs) in zip(losses(by_two), losses(by_one), strict=True):
            assert step == its_step and ours == pytest.approx(theirs, rel=2e-4)


def test_cancelling_on_one_machine_saves_and_ends_both(trainings, tmp_path):
    store, (config, _) = trainings
    shutil.copytree(store, tmp_path / "store")
    long = config.model_copy(update={"steps": 100_000, "checkpoint_every": 3})
    states = partial_directory(artifact_directory(long, tmp_path / "store")) / ".scratch"
    machines = Machines(tmp_path / "store", [long])
    wait_for(lambda: list(states.glob("state-*.safetensors")), AT_MOST)
    machines.wanted, cancelled = False, time.monotonic()
    assert machines.wait(60) != 0 and isinstance(machines.problem, KeyboardInterrupt)
    wait_for(lambda: not processes_of(tmp_path / "store"), 15)
    assert time.monotonic() - cancelled < 30
    last = max(int(path.stem.rpartition("-")[2]) for path in states.glob("state-*.safetensors"))
    logs = (tmp_path / "store" / "logs").glob("*-imagpose-train-*")
    assert any(f"stopped at step {last}" in log.read_text() for log in logs)
