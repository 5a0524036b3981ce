"""Which arm trains on what, for how long, and from where: with a runner that only lays down empty artifacts."""

import pytest

from datasets.runtime.keys import artifact_directory, artifact_key
from flows.config import RegenerateConfig
from flows.reid_arms import ReidInputs, train_arms
from reid.arms import ARMS, Arm
from reid.config import CheckIdentityConfig, TrainReidConfig, cheap_augmentation
from tests import small_sets

LIGHT = Arm(
    name="real+light-synthetic",
    text="Half the weight.",
    tells="whether they should count less",
    trains_on="synthetic",
    recipe=lambda settings: settings.model_copy(
        update={"loss": settings.loss.model_copy(update={"synthetic_weight": 0.5})}
    ),
)
UNITS = [(20, 0), (100, 0)]


def finish(folder, stage, key="k"):
    folder.mkdir(parents=True, exist_ok=True)
    return small_sets.finish(folder, stage, key)


class Notes:
    def __init__(self, store):
        self.store, self.calls = store, []

    def __call__(self, configs):
        self.calls.append(list(configs))
        return [
            finish(artifact_directory(config, self.store), config.stage, artifact_key(config)) for config in configs
        ]

    def of(self, kind):
        return [config for call in self.calls for config in call if type(config) is kind]


@pytest.fixture
def inputs(tmp_path):
    def folder(name):
        return finish(tmp_path / name, name, name)

    return ReidInputs(
        folder("shards"),
        folder("test"),
        {unit: folder(f"subset-{unit[0]}-{unit[1]}") for unit in UNITS},
        {
            kind: {(20, 0): folder(kind.replace(" ", "-"))}
            for kind in ("synthetic", "reconstructions", "foreign poses", "rare poses")
        },
        folder("others"),
    )


def config_of(**changes):
    values = {"preset": "market-small", "identities": 40, "root": ".", "poses": ["p.csv"], "seeds": [0, 1]}
    return RegenerateConfig(**values | changes)


def made(tmp_path, inputs, **changes):
    notes = Notes(tmp_path / "store")
    folders = train_arms(config_of(**changes), inputs, UNITS, notes)
    runs = {(run.fraction, run.arm, run.seed): run for run in notes.of(TrainReidConfig) if run.arm != "pretraining"}
    return notes, runs, folders


def test_every_arm_runs_on_its_own_data_and_the_full_set_has_no_synthetic_arm(tmp_path, inputs):
    _, runs, folders = made(tmp_path, inputs, arms=list(ARMS))
    assert {arm for fraction, arm, _ in runs if fraction == 20} == set(ARMS)
    full = {arm for fraction, arm, _ in runs if fraction == 100}
    assert full == {"real", "real-long", "cheap-augmentation", "real-pretrained"}
    assert len(folders) == len(runs) == 2 * (len(ARMS) + 4)
    synthetic = {arm: [path.name for path in runs[20, arm, 0].synthetic] for arm in ARMS}
    assert synthetic.pop("reconstruction") == ["reconstructions"]
    assert synthetic.pop("real+foreign-poses") == ["foreign-poses"]
    assert synthetic.pop("real+rare-poses") == ["rare-poses"]
    assert {arm for arm, names in synthetic.items() if names == ["synthetic"]} == {
        "real+synthetic",
        "real-then-synthetic",
        "real+checked",
        "pretrained+synthetic",
    }
    recipe = config_of().reid.augmentation
    assert runs[20, "cheap-augmentation", 0].augmentation == cheap_augmentation(recipe) != recipe


def test_all_arms_but_real_take_equally_many_steps_in_all(tmp_path, inputs):
    _, runs, _ = made(tmp_path, inputs, arms=list(ARMS), long=2.5)
    times = {arm: runs[20, arm, 0].schedule.times for arm in ARMS}
    assert times.pop("real") == 1
    assert times.pop("real-then-synthetic") == 1.5  # after the 1 of 'real', from which it is initialized
    assert set(times.values()) == {2.5}


@pytest.mark.parametrize(
    ("arms", "ratio"),
    [(["real", "real+synthetic"], 1), (["real", "real-long"], 2), (["real", "real-then-synthetic"], 2)],
)
def test_without_a_long_arm_everything_is_as_long_as_real(arms, ratio):
    assert config_of(arms=arms).steps_ratio() == ratio


def test_arms_that_go_on_do_so_from_the_run_of_the_same_seed(tmp_path, inputs):
    arms = ["real", "real-then-synthetic", "real-pretrained", "real+checked", "pretrained+synthetic"]
    notes, runs, _ = made(tmp_path, inputs, arms=arms, pretrain={"reid_steps": 777})
    pretrainings = {run.seed: run for run in notes.of(TrainReidConfig) if run.arm == "pretraining"}
    assert {run.shards.name for run in pretrainings.values()} == {"others"} and set(pretrainings) == {0, 1}
    assert {(run.schedule.steps, run.schedule.times) for run in pretrainings.values()} == {(777, 1)}
    checks = {check.run: check for check in notes.of(CheckIdentityConfig)}
    for seed in (0, 1):
        real = artifact_directory(runs[20, "real", seed], notes.store)
        assert runs[20, "real-then-synthetic", seed].init_from == real
        pretraining = artifact_directory(pretrainings[seed], notes.store)
        assert runs[20, "real-pretrained", seed].init_from == pretraining
        assert runs[20, "pretrained+synthetic", seed].init_from == pretraining
        assert runs[20, "real+checked", seed].identity_check == [artifact_directory(checks[real], notes.store)]
    assert {(check.fraction, check.draw) for check in checks.values()} == {(20, 0)}


def test_other_generators_are_arms_of_their_own(tmp_path, inputs):
    for fraction in (20, 100):
        finish(tmp_path / f"pidm-{fraction}", "foreign", str(fraction))
    foreign = {"pidm": tmp_path / "pidm-{fraction}"}
    _, runs, _ = made(tmp_path, inputs, arms=["real", "real-long"], synthetic=foreign)
    assert runs[20, "pidm", 0].synthetic == [tmp_path / "pidm-20"]
    assert runs[100, "pidm", 1].synthetic == [tmp_path / "pidm-100"]
    assert runs[20, "pidm", 0].schedule.times == 2
    with pytest.raises(ValueError, match="is an arm of ours"):
        config_of(synthetic={"reconstruction": tmp_path})


def test_arms_that_cannot_be_made_are_refused_at_once():
    with pytest.raises(ValueError, match=r"real\+checked' is initialized from arm 'real'"):
        config_of(arms=["real+checked"])
    with pytest.raises(ValueError, match="needs the people whom the generator's base has seen"):
        config_of(preset="demo", identities=None, arms=["real", "real-pretrained"])
    with pytest.raises(ValueError, match="long 1 makes arm 'real-long' as long as 'real'"):
        config_of(arms=["real", "real-long"], long=1)
    with pytest.raises(ValueError, match="distinct"):
        config_of(arms=["real", "real"])


@pytest.fixture
def light_arm():
    ARMS.register(LIGHT)
    yield LIGHT.name
    del ARMS._items[LIGHT.name]


def test_an_arm_from_outside_trains_as_it_declares(tmp_path, inputs, light_arm):
    with pytest.raises(ValueError, match="is no arm; known: 'real'"):
        config_of(arms=["real", "zoo"])
    _, runs, _ = made(tmp_path, inputs, arms=["real", "real+synthetic", light_arm], seeds=[0])
    light, usual = runs[20, light_arm, 0], runs[20, "real+synthetic", 0]
    assert light.loss.synthetic_weight == 0.5 != usual.loss.synthetic_weight
    assert (light.synthetic, light.schedule) == (usual.synthetic, usual.schedule)
    assert (100, light_arm, 0) not in runs


def test_a_declared_comparison_of_an_unknown_arm_is_refused_before_anything_is_made():
    comparisons = [{"arm": "real+synthetic", "over": "real-lnog"}]
    benchmark = {"comparisons": comparisons, "controls": ["real-lnog"]}
    with pytest.raises(ValueError, match=r"benchmark.comparisons: 'real-lnog' is no arm; known: real, real-long"):
        config_of(benchmark=benchmark)


def test_the_whole_set_runs_only_the_arms_that_are_named_for_it(inputs, tmp_path):
    arms = {"arms": ["real", "real-long"], "fractions": [20, 100], "store": tmp_path}
    for chosen, expected in ((None, {"real", "real-long"}), (["real"], {"real"})):
        notes = Notes(tmp_path / "store")
        config = RegenerateConfig(preset="demo", arms_of_whole_set=chosen, **arms)
        train_arms(config, inputs, UNITS, notes)
        assert {run.arm for run in notes.of(TrainReidConfig) if run.fraction == 100} == expected
