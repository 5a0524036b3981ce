"""Which stages run on what: the pipeline with a runner that only takes notes, and `run_stages` with a fake command."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.config import StageConfig
from datasets.runtime.keys import artifact_directory, artifact_key, describe_config
from datasets.runtime.manifests import is_complete
from datasets.shards.config import EncodeConfig
from datasets.sources.config import SelectSubsetsConfig
from datasets.store.records import read_records
from flows import direct, stages
from flows.config import RegenerateConfig
from flows.pipeline import Regeneration
from flows.process.commands import CommandError
from flows.runs import finished
from flows.stages import Resources, StageResult, run_stages, stage_command, with_absolute_paths
from imagpose.config import DistillConfig, SynthesizeConfig, TrainGeneratorConfig
from reid.config import BenchmarkConfig, NetworkConfig, ReportConfig, TrainReidConfig
from tests import small_sets


def finish(directory: Path, config: StageConfig, files: dict[str, str] | None = None) -> None:
    """Lay down a finished artifact without running its stage; nothing where it lies already."""
    if is_complete(directory):
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (files or {}).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    small_sets.finish(directory, config.stage, artifact_key(config))


class Notes:
    """A runner that makes empty artifacts and remembers what it was asked to make."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.calls: list[list[StageConfig]] = []

    def __call__(self, configs: list[StageConfig]) -> list[Path]:
        if configs:
            self.calls.append(list(configs))
        folders = [artifact_directory(config, self.store) for config in configs]
        for folder, config in zip(folders, configs, strict=True):
            finish(folder, config, {"config.json": "{}", "x-annotation-x.csv": "name:keypoints_y:keypoints_x\n"})
        return folders

    def of(self, kind: type[StageConfig]) -> list[StageConfig]:
        return [config for call in self.calls for config in call if type(config) is kind]


@pytest.fixture
def models(tmp_path) -> dict[str, Path]:
    for name in ("vae", "image_encoder", "generator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return {name: tmp_path / name for name in ("vae", "image_encoder", "generator")}


def test_demo_compares_real_with_augmented_on_every_fraction(tmp_path, models):
    run = Notes(tmp_path / "store")
    result = Regeneration(RegenerateConfig(preset="demo", **models), run).make()
    runs = [(config.fraction, config.arm) for config in run.of(TrainReidConfig)]
    assert runs == [(fraction, arm) for fraction in (20, 40, 60, 80) for arm in ("real", "real+synthetic")]
    assert [len(call) for call in run.calls if type(call[0]) is TrainReidConfig] == [8]  # one process for all of them
    (benchmark,), (report,) = run.of(BenchmarkConfig), run.of(ReportConfig)
    assert benchmark.runs == report.runs == result.runs
    assert result.report == artifact_directory(report, run.store)


def test_a_generator_sees_its_own_subset_and_feeds_its_own_set_only(tmp_path, models):
    run = Notes(tmp_path / "store")
    result = Regeneration(RegenerateConfig(preset="demo", draws=2, **models), run).make()
    subsets = {(c.fractions[0], c.draws - 1): artifact_directory(c, run.store) for c in run.of(SelectSubsetsConfig)}
    for config in run.of(TrainGeneratorConfig):
        assert config.subset == subsets[config.fraction, config.draw]
        assert config.init_from == models["generator"]
    for config in run.of(SynthesizeConfig):
        assert config.generator == result.generators[config.fraction, config.draw]
    for config in run.of(TrainReidConfig):
        wanted = [] if config.arm == "real" else [result.synthetic[config.fraction, config.draw]]
        assert config.synthetic == wanted


def test_another_fraction_or_draw_leaves_what_was_made_from_the_others_valid(tmp_path, models):
    first, more = Notes(tmp_path / "store"), Notes(tmp_path / "store")
    Regeneration(RegenerateConfig(preset="demo", fractions=[20, 60], **models), first).make()
    Regeneration(RegenerateConfig(preset="demo", fractions=[20, 40, 60], draws=2, **models), more).make()
    for kind in (TrainGeneratorConfig, SynthesizeConfig, TrainReidConfig):
        before, after = ({artifact_directory(c, run.store) for c in run.of(kind)} for run in (first, more))
        assert before < after and len(after) == 3 * len(before)


def test_students_of_the_generators_make_the_images_where_the_settings_say_so(tmp_path, models):
    run = Notes(tmp_path / "store")
    few_steps = {"sampler": "lcm", "steps": 4, "guidance": 1}
    settings = RegenerateConfig(preset="demo", distill={"steps": 7}, synthesize=few_steps, fractions=[20, 40], **models)
    result = Regeneration(settings, run).make()
    teachers = [artifact_directory(config, run.store) for config in run.of(TrainGeneratorConfig)]
    students = run.of(DistillConfig)
    assert [config.teacher for config in students] == teachers
    assert [(config.fraction, config.steps) for config in students] == [(20, 7), (40, 7)]
    folders = [artifact_directory(config, run.store) for config in students]
    assert list(result.generators.values()) == folders
    assert [config.generator for config in run.of(SynthesizeConfig)] == folders


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"synthesize": {"sampler": "lcm", "guidance": 1}}, "'lcm' without distill: .* go together"),
        ({"distill": {}}, "'ddim' with distill: .* go together"),
        ({"distill": {}, "synthesize": {"sampler": "lcm"}}, "synthesize.guidance 1.5 with distill"),
    ],
)
def test_a_students_sampler_and_its_distillation_go_together(fields, reason):
    with pytest.raises(ValueError, match=reason):
        RegenerateConfig(preset="demo", **fields)


def test_the_papers_protocol_trains_one_generator_on_everything_and_says_so(tmp_path, models):
    run = Notes(tmp_path / "store")
    Regeneration(RegenerateConfig(preset="demo", protocol="paper", **models), run).make()
    (generator,) = run.of(TrainGeneratorConfig)
    assert generator.subset is None
    assert {config.protocol for config in run.of(TrainReidConfig)} == {"paper"}


def test_the_whole_training_split_needs_no_synthesis(tmp_path, models):
    run = Notes(tmp_path / "store")
    Regeneration(RegenerateConfig(preset="demo", fractions=[20, 100], **models), run).make()
    assert [config.fraction for config in run.of(SynthesizeConfig)] == [20]
    assert [(c.fraction, c.arm) for c in run.of(TrainReidConfig)] == [
        (20, "real"),
        (20, "real+synthetic"),
        (100, "real"),
    ]


@pytest.mark.parametrize("arms", [["real", "real-long"], ["real", "real-pretrained"]])
def test_arms_of_real_images_alone_need_no_models_and_no_features(tmp_path, models, arms):
    run = Notes(tmp_path / "store")
    (tmp_path / "a.csv").touch()
    settings = {"root": tmp_path, "poses": [tmp_path / "a.csv"], "identities": 5, "arms": arms, **models}
    settings["benchmark"] = {"baseline": "real", "controls": [], "comparisons": []}
    result = Regeneration(RegenerateConfig(preset="market-small", **settings), run).make()
    others = [call[0].outside_slice for call in run.calls if call[0].stage == "index"]
    assert others == ([False, True] if "real-pretrained" in arms else [False])
    assert {config.arm for config in run.of(TrainReidConfig)} >= set(arms)
    for stage in (TrainGeneratorConfig, EncodeConfig, SynthesizeConfig):
        assert run.of(stage) == []
    assert result.generators == result.synthetic == {}


def test_pidms_schedule_goes_on_from_the_real_run_of_the_same_seed(tmp_path, models):
    run = Notes(tmp_path / "store")
    arms = ["real", "real-then-synthetic"]
    Regeneration(RegenerateConfig(preset="demo", fractions=[20], seeds=[0, 1], arms=arms, **models), run).make()
    real = {
        config.seed: artifact_directory(config, run.store) for config in run.of(TrainReidConfig) if config.arm == "real"
    }
    second = [config for config in run.of(TrainReidConfig) if config.arm == "real-then-synthetic"]
    assert {config.seed: config.init_from for config in second} == real


def test_arms_of_other_poses_train_on_sets_of_their_own_and_the_bank_is_of_other_people(tmp_path, models):
    arms = ["real", "real+synthetic", "real+foreign-poses", "real+rare-poses"]
    run = Notes(tmp_path / "store")
    settings = {"preset": "study", "fractions": [20], "draws": 1, "seeds": [0], "arms": arms, "benchmark": {}, **models}
    settings["benchmark"] = {"baseline": "real", "controls": [], "comparisons": []}
    Regeneration(RegenerateConfig(**settings), run).make()
    sets = {artifact_directory(c, run.store): c for c in run.of(SynthesizeConfig)}
    trained = {config.arm: sets[config.synthetic[0]] for config in run.of(TrainReidConfig) if config.synthetic}
    assert {arm: config.pose_policy for arm, config in trained.items()} == {
        "real+synthetic": "random",
        "real+foreign-poses": "random",
        "real+rare-poses": "rare-viewpoint",
    }
    found = [artifact_directory(config, run.store) for config in run.of(ExtractPosesConfig)]
    banks = {arm: config.pose_bank for arm, config in trained.items()}
    assert banks == {"real+synthetic": None, "real+foreign-poses": found[1], "real+rare-poses": None}


def test_a_pose_bank_can_be_a_population_of_its_own(tmp_path, models):
    run = Notes(tmp_path / "store")
    arms = {"arms": ["real", "real+foreign-poses"], "fractions": [20]}
    with pytest.raises(ValueError, match=r"needs another data set's skeletons: give pose_bank.people"):
        RegenerateConfig(preset="demo", **arms)
    config = RegenerateConfig(preset="demo", **arms, pose_bank={"population": {"seed": 77}}, **models)
    Regeneration(config, run).make()
    assert [c.seed for c in run.of(MiniatureConfig)] == [1501, 77]
    (synthetic,) = run.of(SynthesizeConfig)
    assert synthetic.pose_bank == artifact_directory(run.of(ExtractPosesConfig)[1], run.store)


def test_a_slices_models_are_adapted_on_people_outside_it(tmp_path, models):
    run = Notes(tmp_path / "store")
    config = RegenerateConfig(preset="market-small", root=tmp_path, poses=[tmp_path / "a.csv"], identities=5, **models)
    (tmp_path / "a.csv").touch()
    Regeneration(config, run).make()
    base, *subset_generators = run.of(TrainGeneratorConfig)
    assert base.subset is None and base.init_from == models["generator"]
    outside, inside = run.of(EncodeConfig)
    assert base.encoded == artifact_directory(outside, run.store) != artifact_directory(inside, run.store)
    assert {config.init_from for config in subset_generators} == {artifact_directory(base, run.store)}
    assert [call[0].outside_slice for call in run.calls if call[0].stage == "index"] == [False, True]


def test_what_several_steps_make_is_told_apart_by_what_it_is_for(tmp_path, models):
    config = RegenerateConfig(preset="market-small", root=tmp_path, poses=[tmp_path / "a.csv"], identities=5, **models)
    (tmp_path / "a.csv").touch()
    notes, purposes = Notes(tmp_path / "store"), []

    def make(configs):
        purposes.extend((stage.stage, regeneration.purpose) for stage in configs)
        return notes(configs)

    regeneration = Regeneration(config, make)
    regeneration.make()
    for stage in ("index", "import-poses", "write-shards", "encode", "train-imagpose"):
        assert {(stage, ""), (stage, "other people")} <= set(purposes), stage
    assert ("write-shards", "test images") in purposes and ("report", "") in purposes


def test_a_second_regeneration_asks_for_the_same_artifacts(tmp_path, models):
    first, second = Notes(tmp_path / "store"), Notes(tmp_path / "store")
    config = RegenerateConfig(preset="demo", **models)
    Regeneration(config, first).make()
    Regeneration(config.model_copy(update={"workers": 9, "device": "cpu"}), second).make()
    assert [[artifact_key(c) for c in call] for call in first.calls] == [
        [artifact_key(c) for c in call] for call in second.calls
    ]


def test_several_artifacts_are_made_by_one_command_and_complete_ones_are_left_alone(tmp_path, monkeypatch):
    started: list[list[str]] = []

    def fake_commands(commands, on_line, guard):
        ((command, _log),) = commands
        started.append(command)
        for file in [word for before, word in itertools.pairwise(command) if before == "--config"]:
            config = MiniatureConfig.model_validate_json(Path(file).read_text())
            finish(artifact_directory(config, tmp_path), config)

    monkeypatch.setattr(stages, "run_commands", fake_commands)
    configs = [MiniatureConfig(seed=seed) for seed in (1, 2)]
    assert len(run_stages(configs[:1], tmp_path).made) == 1
    result = run_stages(configs, tmp_path)
    assert (len(result.made), len(result.folders)) == (1, 2)
    assert str(run_stages(configs, tmp_path)) == "2 already complete"
    assert len(started) == 2
    assert started[0][:4] == [sys.executable, "-m", "datasets", "miniature"]


def test_small_networks_are_trained_side_by_side_on_a_cpu_and_on_one_gpu_as_many_as_requested(tmp_path, monkeypatch):
    calls = []

    def fake_commands(commands, on_line, guard):
        calls.append((len(commands), guard.environment))
        for command, _log in commands:
            for file in [word for before, word in itertools.pairwise(command) if before == "--config"]:
                config = TrainGeneratorConfig.model_validate_json(Path(file).read_text())
                finish(artifact_directory(config, tmp_path / "store"), config)

    encoded = tmp_path / "encoded"
    finish(encoded, MiniatureConfig())
    monkeypatch.setattr(stages, "run_commands", fake_commands)
    monkeypatch.setattr(stages.os, "cpu_count", lambda: 4)
    for device, shared in (("cpu", 1), ("cuda", 1), ("cuda", 3)):
        resources = Resources(workers=2, runs_per_gpu=shared)
        configs = [
            TrainGeneratorConfig(encoded=encoded, seed=len(calls) * 9 + seed, device=device) for seed in range(3)
        ]
        assert len(run_stages(configs, tmp_path / "store", resources=resources).made) == 3
    assert calls == [(2, {"OMP_NUM_THREADS": "2"}), (1, {}), (3, {"OMP_NUM_THREADS": "1"})]


def test_a_failing_command_stops_the_stage_with_its_own_words(tmp_path):
    config = MiniatureConfig.model_construct(**{**MiniatureConfig().model_dump(), "train_identities": 1})
    with pytest.raises(CommandError, match="train_identities") as raised:
        run_stages([config], tmp_path, on_line=lambda line: None)
    assert raised.value.exit_code == 2
    assert not artifact_directory(config, tmp_path).exists()


def test_generator_training_spreads_over_gpus_by_torchrun(tmp_path):
    generator = TrainGeneratorConfig(encoded=tmp_path)
    command = stage_command(generator, [tmp_path / "a.json"], tmp_path, Resources(gpus=4))
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    assert "torch.distributed.run" not in stage_command(generator, [tmp_path / "a.json"], tmp_path)
    assert "torch.distributed.run" not in stage_command(MiniatureConfig(), [], tmp_path, Resources(gpus=4))


def test_where_a_store_lies_does_not_count(tmp_path):
    assert "store" not in describe_config(RegenerateConfig(preset="demo"))


def test_relative_paths_count_from_where_the_flow_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ImportPosesConfig(images=Path("index"), csv=[Path("a.csv"), Path("b.csv")])
    found = with_absolute_paths(config)
    assert (found.images, found.csv) == (tmp_path / "index", [tmp_path / "a.csv", tmp_path / "b.csv"])
    network = NetworkConfig(weights=Path("weights.safetensors"))
    run = with_absolute_paths(TrainReidConfig(shards=Path("s"), test_shards=Path("t"), network=network))
    assert isinstance(run, TrainReidConfig)
    assert (run.shards, run.network.weights) == (tmp_path / "s", tmp_path / "weights.safetensors")
    assert config.images == Path("index")


def test_a_regeneration_runs_without_prefect_and_copies_its_results(tmp_path, monkeypatch):
    def fake_stages(configs, store, *, resources):
        folders = [artifact_directory(config, store) for config in configs]
        for folder, config in zip(folders, configs, strict=True):
            finish(folder, config, {"report.html": "<p>", "results.txt": "a table"})
        return StageResult(folders, folders)

    monkeypatch.setattr(direct, "run_stages", fake_stages)
    monkeypatch.setattr(finished, "remember", lambda *_: [])  # reads a real table
    config = RegenerateConfig(preset="demo", store=tmp_path / "store", output=tmp_path / "out")
    result = direct.regenerate_directly(config)
    assert result["latest"] == str(tmp_path / "out/report.html")
    assert Path(result["report"]).parent == (tmp_path / "out/latest").resolve()
    (record,) = read_records(config.store)
    assert record.finished and record.report.startswith("report/")
    assert Path(result["table"]).read_text() == "a table"


def test_a_direct_regeneration_imports_no_prefect():
    code = (
        "import sys; from flows.__main__ import prepare; prepare('direct', ['--preset', 'demo']); import flows.direct; "
        "assert not [name for name in sys.modules if name.split('.')[0] in ('prefect', 'torch')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
