"""Sittings on a GPU machine: what travels is enough, the wanted runs come first, results come back in time."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from benchmarks.gpu.choose_training import choose, speed_and_start
from benchmarks.gpu.pool import Pool, StoppedError
from benchmarks.gpu.sitting import HERE, NotReadyError, Sitting
from benchmarks.gpu.travel import coming_back, going_there, write_list
from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from flows.config import RegenerateConfig
from flows.process.commands import PROJECT
from imagpose.training.check_model import rounding
from reid.config import TrainReidConfig
from tests.small_sets import finish

SCRIPTS = PROJECT / "benchmarks" / "gpu"


class NumberConfig(StageConfig):
    stage: ClassVar[str] = "number"
    package: ClassVar[str] = "tests"
    number: int


def make_number(config: NumberConfig, store: Path) -> Path:
    return build(config, lambda config, folder: {"number": config.number}, store=store)


def artifact(store: Path, stage: str, name: str, files: dict[str, bytes], **recorded) -> Path:
    folder = store / stage / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return finish(folder, stage, **recorded)


# --- the pool


def test_the_most_wanted_run_is_begun_first_and_each_only_once(tmp_path):
    begun, gate = [], threading.Event()

    def make(config):
        gate.wait(10)
        begun.append(config.number)
        make_number(config, tmp_path)

    pool = Pool(1, tmp_path, make)
    pool.submit(0, NumberConfig(number=0))  # takes the only place
    time.sleep(0.1)
    later = [pool.submit(priority, NumberConfig(number=priority)) for priority in (3, 1, 2, 1)]
    assert later[1] is later[3]
    gate.set()
    folders = [future.result(10) for future in later]
    assert begun == [0, 1, 2, 3]
    assert pool.maker(5)([NumberConfig(number=2)]) == [folders[2]]


def test_a_stopped_pool_begins_nothing_and_tells_who_waits(tmp_path):
    begun, gate = threading.Event(), threading.Event()

    def make(config):
        begun.set()
        gate.wait(10)
        make_number(config, tmp_path)

    pool = Pool(1, tmp_path, make)
    running, waiting = pool.submit(0, NumberConfig(number=0)), pool.submit(1, NumberConfig(number=1))
    assert begun.wait(10)
    pool.stop()
    with pytest.raises(StoppedError):
        waiting.result(10)
    with pytest.raises(StoppedError):
        pool.maker(2)([NumberConfig(number=2)])
    gate.set()
    assert running.result(10).is_dir()


def test_a_run_that_fails_is_told_to_who_asked_for_it_and_the_place_goes_on(tmp_path):
    def make(config):
        if config.number == 1:
            raise InputError("one is refused")
        make_number(config, tmp_path)

    pool = Pool(1, tmp_path, make)
    with pytest.raises(InputError, match="one is refused"):
        pool.maker(0)([NumberConfig(number=1)])
    assert len(pool.maker(1)([NumberConfig(number=2), NumberConfig(number=3)])) == 2


# --- what travels


@pytest.fixture
def store(tmp_path):
    """Artifacts of every kind that a regeneration has before its runs."""
    big = b"x" * 100
    artifact(tmp_path, "write-shards", "a", {"train-00000.tar": big, "index.json": b"{}"})
    artifact(tmp_path, "encode", "b", {"train-00000.tar": big, "index.json": b"{}"})
    artifact(tmp_path, "train-imagpose", "c", {"weights.safetensors": big, "model_index.json": b"{}"})
    artifact(tmp_path, "synthesize", "d", {"synthetic-00000.tar": big, "synthetic.parquet": b"p"})
    for name, arm in (("e", "pretraining"), ("f", "real"), ("g", "real-long")):
        files = {"model.safetensors": big, "metrics.json": b"{}", "ranked.parquet": b"p", "per_query.parquet": b"p"}
        artifact(tmp_path, "train-reid", name, files, config={"arm": arm})
    return tmp_path


def names(store, files):
    return {str(file.relative_to(store)) for file in files if file.name != "manifest.json"}


def test_what_runs_read_travels_whole_and_the_rest_in_name_only(store):
    found = sorted(path.parent for path in store.glob("*/*/manifest.json"))
    run = TrainReidConfig(shards=store / "write-shards/a", test_shards=store / "write-shards/a")
    files = going_there(found, [run], ["real", "real+synthetic"])
    assert {file.parent for file in files} == set(found)
    assert names(store, files) == {
        "write-shards/a/train-00000.tar",
        "write-shards/a/index.json",
        "encode/b/index.json",
        "train-imagpose/c/model_index.json",
        "synthesize/d/synthetic-00000.tar",
        "synthesize/d/synthetic.parquet",
        "train-reid/e/model.safetensors",
        "train-reid/e/metrics.json",
        "train-reid/e/ranked.parquet",
        "train-reid/e/per_query.parquet",
        "train-reid/f/metrics.json",
        "train-reid/f/per_query.parquet",
        "train-reid/g/metrics.json",
        "train-reid/g/per_query.parquet",
    }
    assert "train-reid/f/model.safetensors" in names(store, going_there(found, [run], ["real", "real-then-synthetic"]))


def test_encoded_images_that_are_read_are_made_again_and_the_base_travels(store):
    found = sorted(path.parent for path in store.glob("*/*/manifest.json"))
    encoded, base = store / "encode/b", store / "train-imagpose/c"
    from imagpose.config import TrainGeneratorConfig

    files = names(store, going_there(found, [TrainGeneratorConfig(encoded=encoded, init_from=base)], ["real"]))
    assert "train-imagpose/c/weights.safetensors" in files
    assert not any(name.startswith("encode/") for name in files)


def test_what_is_here_in_name_only_but_read_stays_here(store, caplog):
    (store / "synthesize/d/synthetic-00000.tar").unlink()
    run = TrainReidConfig(shards=store / "write-shards/a", test_shards=store / "write-shards/a")
    assert going_there([store / "synthesize/d"], [run], ["real"]) == []
    assert "here in name only" in caplog.text


def test_weights_of_students_come_back_as_those_of_generators_do(store):
    artifact(store, "distill-imagpose", "h", {"weights.safetensors": b"x" * 100, "model_index.json": b"{}"})
    everything = names(store, coming_back(store, set(), 1 << 20))
    assert {"train-imagpose/c/weights.safetensors", "distill-imagpose/h/weights.safetensors"} <= everything


def test_figures_come_back_first_then_what_other_runs_start_from_as_far_as_it_fits(store):
    came = {"write-shards/a/manifest.json", "encode/b/manifest.json"}
    everything = names(store, coming_back(store, came, 1 << 20))
    assert not any(name.startswith(("write-shards", "encode")) for name in everything)
    assert {"train-reid/e/model.safetensors", "synthesize/d/synthetic-00000.tar"} <= everything
    assert "train-reid/g/metrics.json" in everything
    assert "train-reid/g/model.safetensors" not in everything
    thin = coming_back(store, came, 0)
    assert {file.suffix for file in thin} <= {".json", ".parquet"}
    little = sum(file.stat().st_size for file in thin) + 110
    assert "train-reid/e/model.safetensors" in names(store, coming_back(store, came, little))
    assert "synthesize/d/synthetic-00000.tar" not in names(store, coming_back(store, came, little))


def test_a_list_names_files_below_the_store_for_tar(store):
    (store / "sitting.json").write_text("{}")
    write_list(store / "travel.txt", store, [store / "encode/b/index.json", store / "encode/b/.scratch/state"])
    assert (store / "travel.txt").read_text() == "encode/b/index.json\nsitting.json\n"


# --- a regeneration that goes on elsewhere


def test_settings_travel_without_this_machines_place_of_the_project(tmp_path):
    config = RegenerateConfig.model_validate({"preset": "demo", "seeds": [3, 4]})
    Sitting(tmp_path, config).write()
    assert str(PROJECT) not in (tmp_path / "sitting.json").read_text()
    assert f"{HERE}/imagpose/builtin/vae" in (tmp_path / "sitting.json").read_text()
    there = Sitting(tmp_path).config
    assert there.vae == PROJECT / "imagpose" / "builtin" / "vae"
    assert there.resolved() == config.resolved()
    with pytest.raises(InputError, match="pack a regeneration first"):
        Sitting(tmp_path / "elsewhere")


def test_few_images_of_the_first_draw_and_seed_come_first(tmp_path):
    settings = {"preset": "market-lite-256", "draws": 2, "seeds": [5, 6]}
    cells = Sitting(tmp_path, RegenerateConfig.model_validate(settings)).cells()
    assert cells[:6] == [((20, 0), 5), ((100, 0), 5), ((40, 0), 5), ((60, 0), 5), ((80, 0), 5), ((20, 1), 5)]
    assert cells[10] == ((20, 0), 6)


def test_nothing_is_made_where_nothing_may_be(tmp_path):
    settings = {"preset": "smoke", "store": tmp_path}
    with pytest.raises(NotReadyError, match="1 artifacts of stage miniature are missing"):
        Sitting(tmp_path, RegenerateConfig.model_validate(settings)).regeneration.make_material()


# --- the scripts


def shell(code: str, folder: Path, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "OUT": str(folder / "out"), "LOAD": str(folder / "load"), **variables}
    done = subprocess.run(["bash", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_that_come_on_several_trips_are_put_together_by_the_last(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "file").write_bytes(bytes(range(256)) * 40)
    shell(
        "mkdir travel && tar -c -C store . | gzip -1 | split --bytes 100 - travel/store.tar.gz.part- && cd travel && "
        "sha256sum store* > parts.sha256 && mkdir ../second && mv *-ab ../second",
        tmp_path,
    )
    assert "not all parts have come" in shell(f". {SCRIPTS}/unpack.sh", tmp_path)
    shell("rm travel/*part* && mv second/* travel/", tmp_path)
    assert "the store has arrived" in shell(f". {SCRIPTS}/unpack.sh", tmp_path)
    assert (tmp_path / "load" / "store" / "file").read_bytes() == (tmp_path / "store" / "file").read_bytes()


@pytest.mark.parametrize("ending", ["exit", "kill -TERM $$"])
def test_a_sitting_ends_in_time_and_what_it_has_comes_back(tmp_path, ending):
    began = time.monotonic()
    code = f"""(
        . {SCRIPTS}/environment.sh
        step 100 quick echo it ran
        step "$(left)" slow sleep 60
        step 100 late echo too late
        results() {{ bring results "$STORE" kept; }}
        echo 1 > "$STORE/kept"
        {ending}
    ) || true"""
    said = shell(code.replace("$$", "$BASHPID"), tmp_path, SECONDS_IN_ALL="7", PYTHON="true")
    assert time.monotonic() - began < 30
    assert "quick: exit 0" in said
    assert "slow: exit 124" in said
    assert "late: no time left" in said
    archives = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert archives == ["logs.tar.gz.part-1", "results.tar.gz.part-1"]
    listed = subprocess.run(["tar", "-tzf", tmp_path / "out" / archives[0]], capture_output=True, text=True).stdout
    assert "./quick.txt" in listed


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_bash(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def write_log(folder: Path, *rows: tuple[int, float]) -> None:
    (folder / "logs").mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 1.0, "seconds": seconds}) for step, seconds in rows]
    (folder / "logs" / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))


def chosen(store: Path, seconds: float, name: str = "try") -> tuple[int, str, str, int] | None:
    choice = choose(store, name, seconds)
    return choice and (choice[0].batch, choice[0].precision, choice[0].way, choice[1])


def test_the_smallest_batch_that_is_nearly_as_fast_is_trained_with(tmp_path):
    assert choose(tmp_path, "try", 100) is None
    for batch, speed in ((64, 8.0), (256, 3.8), (1024, 1.0)):
        write_log(tmp_path / f"try-{batch}-bf16-plain", *[(step, 5 + step / speed) for step in (20, 40, 60, 80)])
    # a tenth of the time is left over, and five seconds pass before the first step
    assert chosen(tmp_path, 100) == (256, "bf16", "plain", 323)


def test_compiling_is_chosen_only_where_the_time_that_is_left_pays_for_it(tmp_path):
    write_log(tmp_path / "try-64-bf16-plain.partial", *[(step, 2 + step / 10) for step in (20, 40, 60, 80)])
    write_log(tmp_path / "try-64-fp32-plain", *[(step, 2 + step / 12) for step in (20, 40, 60, 80)])
    write_log(tmp_path / "try-64-fp32-compiled.partial", *[(step, 60 + step / 20) for step in (20, 40, 60, 80)])
    assert chosen(tmp_path, 100) == (64, "fp32", "plain", pytest.approx(1056, abs=1))
    assert chosen(tmp_path, 1000) == (64, "fp32", "compiled", pytest.approx(16800, abs=1))
    assert chosen(tmp_path, 50, "other") is None


def test_a_training_is_timed_without_its_start_and_though_the_clock_stopped_it(tmp_path):
    write_log(tmp_path / "try-8-fp32-plain.partial", (20, 30.0), (40, 30.5), (60, 32.5), (70, 33.5))
    assert speed_and_start(tmp_path / "try-8-fp32-plain.partial") == (10, 28)
    write_log(tmp_path / "try-16-fp32-plain", (3, 6.0))
    assert speed_and_start(tmp_path / "try-16-fp32-plain") == (0.5, 0)
    (tmp_path / "try-32-fp32-plain.partial").mkdir()
    assert speed_and_start(tmp_path / "try-32-fp32-plain.partial") is None
    assert chosen(tmp_path, 1000) == (8, "fp32", "plain", 8720)


def test_a_vaes_log_which_ends_with_its_quality_is_read_too(tmp_path):
    folder = tmp_path / "vae-64-bf16-plain"
    write_log(folder, (50, 5.0), (100, 10.0))
    with (folder / "logs" / "train.jsonl").open("a") as log:
        log.write('{"step": 100, "held_out": {"psnr": 30.0}}\n')
    assert chosen(tmp_path, 100, "vae") == (64, "bf16", "plain", 900)


def test_a_gpu_may_round_where_a_cpu_may_not():
    assert rounding(torch.device("cpu"), torch.float32) == 0
    assert 0 < rounding(torch.device("cuda"), torch.float32) < rounding(torch.device("cuda"), torch.bfloat16) < 0.1
