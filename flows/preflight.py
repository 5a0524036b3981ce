"""What is checked before any work, and before Prefect or torch are imported: data, pose files, weights.

Raises `datasets.runtime.errors.InputError`, which the command prints in one line.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from datasets.poses.backends import OPENPOSE
from datasets.runtime.artifacts import try_lock
from datasets.runtime.errors import DatasetLayoutError, InputError, WeightsError
from datasets.runtime.remote.addresses import is_remote
from datasets.runtime.remote.copies import is_file
from datasets.runtime.remote.folders import files_below
from datasets.shards.image_encoders import NAMED_ENCODERS
from datasets.shards.saved_models import DIFFUSERS, TRANSFORMERS, has_weights, weights_problem
from datasets.sources.files import ImageSource, Row
from datasets.sources.layouts import LAYOUTS
from datasets.sources.listing import list_source
from flows.config import RegenerateConfig
from flows.process.hub_cache import backbone_problem, has_openpose
from flows.process.locks import visible_gpus
from flows.reid_arms import WHOLE_SET, foreign_folder, of_whole_set
from flows.settings import OtherPeopleSettings
from flows.test_time.stages import draws, draws_for_training, sees_others
from imagpose.config.published_unets import init_from_problem
from imagpose.metrics.published import check_published
from reid.training.pretrained import PACKAGE, weights_package

SD_DOWNLOAD = "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --local-dir {folder}"
"""Command that gets Stable Diffusion's weights."""
OPENPOSE_FILE = Path("weights/body_pose_model.pth")
OPENPOSE_DOWNLOAD = f"hf download lllyasviel/Annotators {OPENPOSE_FILE.name} --local-dir {OPENPOSE_FILE.parent}"
"""Command that gets OpenPose's weights."""
FEWEST_OTHERS = 4
"""People whom the trainings of the frozen models need: some to learn from, some to be measured on."""


MODEL_PROBLEMS: dict[str, Callable[[Path], str | None]] = {
    "vae": partial(weights_problem, stem=DIFFUSERS),
    "image_encoder": partial(weights_problem, stem=TRANSFORMERS),
    "generator": init_from_problem,
}
"""Setting -> why the folder that it names cannot be opened, or None."""


def check(config: RegenerateConfig, environment: Mapping[str, str] | None = None) -> None:
    """Refuse what cannot succeed, all of it at once.

    Args:
        config: the settings.
        environment: variables that the commands find beside this process's.

    Raises:
        InputError: no data, a missing pose file, a root of another layout, missing weights, GPUs on a CPU.
    """
    # As `flows.process.commands` starts them: offline, unless the site says otherwise.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    problems = [
        *data_problems(config),
        *other_people_problems(config),
        *synthetic_problems(config),
        *weight_problems(config),
        *reid_weight_problems(config, environment),
        *pose_weight_problems(config, environment),
        *folder_problems(config),
        *machine_problems(config),
    ]
    if problems:
        raise InputError("; ".join(problems))


def machine_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the GPUs and machines that are to work."""
    problems = []
    if config.gpus > 1 and config.device == "cpu":
        problems.append(f"gpus {config.gpus} with device 'cpu': leave one of the two out")
    elif config.ray is None and config.device != "cpu" and 0 < len(there := visible_gpus()) < config.gpus:
        problems.append(f"gpus {config.gpus}: only {len(there)} may be used here ({', '.join(there)}); give fewer")
    if config.nodes > 1 and config.ray is not None:
        problems.append(f"nodes {config.nodes} with ray: a cluster's task stays on one machine; leave one out")
    if config.ray is not None and importlib.util.find_spec("ray") is None:
        problems.append("ray is not installed: pip install -c constraints.txt -e '.[ray]', or leave 'ray' out")
    return problems


def data_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the data set and its keypoint files."""
    if config.root is None and config.miniature is None:
        return [
            f"preset '{config.preset}' works on your data: give --root FOLDER (the unpacked data set) and --poses FILE "
            "(the published keypoints; without, a network finds the skeletons)"
        ]
    if config.root is None:
        return ["--poses without --root: the rendered data set has keypoints of its own"] if config.poses else []
    problems = [source_problem(config, config.root)]
    problems += pose_file_problems("--poses", config.poses)
    if not config.poses and config.extract_poses is None:
        problems.append(
            "--poses is missing: give the keypoint CSV file of the images in --root, or --extract-poses.backend"
        )
    return [problem for problem in problems if problem]


def pose_file_problems(flag: str, paths: Sequence[Path]) -> list[str]:
    """What is wrong with published keypoints: CSV files, or folders of JSON.

    Args:
        flag: begins each problem.
        paths: the files.
    """
    problems = [csv_problem(flag, path) for path in paths if is_file(path)]
    problems += [
        f"{flag} {path} is not a file, nor a folder with one JSON file an image; give the published keypoint CSV"
        for path in paths
        if not (is_file(path) or has_json_files(path))
    ]
    return [problem for problem in problems if problem]


def has_json_files(path: Path) -> bool:
    """Whether a folder, here or at an address, holds a JSON file at any depth."""
    if is_remote(path):
        return any(name.endswith(".json") for name in files_below(path))
    return path.is_dir() and any(path.rglob("*.json"))


def synthetic_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the images of other generators, of each subset that is trained on."""
    from datasets.sources.folders.image_folders import synthetic_problem

    units = [(fraction, draw) for fraction in config.fractions for draw in range(config.draws)]
    places = {
        name: [foreign_folder(path, unit) for unit in units if unit[0] < WHOLE_SET or of_whole_set(config, name)]
        for name, path in config.synthetic.items()
    }
    found = [(name, synthetic_problem(folder)) for name, folders in places.items() for folder in dict.fromkeys(folders)]
    return [f"--synthetic {name}={problem}" for name, problem in found if problem]


def source_problem(config: RegenerateConfig, root: Path) -> str | None:
    """Why a data set is not of its layout, lacks a split or cannot be sliced that way, or None; looks at names only."""
    layout = LAYOUTS[config.layout]
    try:
        rows = [row for row in list_source(layout, root).listing.rows if not row["status"]]
    except DatasetLayoutError as error:
        return f"--root {error}"
    absent = [split for split in ("train", "query", "gallery") if split not in {row["split"] for row in rows}]
    if absent:
        return f"--root {root} has no {' and no '.join(absent)} images: {layout.split_hint or layout.expected}"
    people = {row["pid"] for row in rows if row["split"] == "train" and row["role"] == "person"}
    return slice_problem(config, root, len(people))


def other_people_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the other data sets that pretraining sees, and that lend poses."""
    problems = []
    others = config.pretrain and config.pretrain.people
    if others and others.root is None:
        problems.append(
            f"preset '{config.preset}' pretrains on other people: give --pretrain.people.root TABLE (photographs of "
            "people who are not in --root; docs/benchmark.md), or --pretrain null with arms that need none"
        )
    elif others:
        problems += data_set_problems("pretrain.people", others, config)
    lending = config.pose_bank and config.pose_bank.people
    if lending and lending.root is None:
        problems.append("--pose-bank.people.root is missing: give the data set whose people lend their poses")
    elif lending:
        problems += data_set_problems("pose_bank.people", lending, config)
    return problems


def data_set_problems(name: str, others: OtherPeopleSettings, config: RegenerateConfig) -> list[str]:
    """What is wrong with a data set of other people.

    Args:
        name: of the setting.
    """
    assert others.root is not None
    problems = pose_file_problems(f"{name}.poses:", others.poses)
    if not others.poses and config.extract_poses is None:
        problems.append(f"{name}.poses is missing: give their keypoint files, or --extract-poses.backend")
    layout = LAYOUTS[others.layout]
    try:
        with layout.open_source(others.root) as source:
            rows = [row for row in layout.list_images(source).rows if not row["status"] and row["split"] == "train"]
            files = real_files(source, rows)
    except DatasetLayoutError as error:
        return [*problems, f"{name}.root {error}"]
    if shared := files & own_files(config):
        problems.append(
            f"{name}.root {others.root} lists {len(shared)} files of --root {config.root} itself, for example "
            f"{min(shared)}; give images of other people"
        )
    people = {row["pid"] for row in rows if row["role"] == "person"}
    if len(people) < FEWEST_OTHERS:
        problems.append(f"{name}.root {others.root} has {len(people)} people in split train; it takes {FEWEST_OTHERS}")
    return problems


def own_files(config: RegenerateConfig) -> set[str]:
    """The files of the user's own data set; none where it is rendered, or is refused for another reason."""
    if config.root is None:
        return set()
    layout = LAYOUTS[config.layout]
    try:
        with layout.open_source(config.root) as source:
            return real_files(source, layout.list_images(source).rows)
    except DatasetLayoutError:
        return set()


def real_files(source: ImageSource, rows: Iterable[Row]) -> set[str]:
    """Where a data set's images lie, links followed: of two lists of the same files it is the same."""
    return {os.path.realpath(source.root / (source.prefix + row["path"])) for row in rows}


def slice_problem(config: RegenerateConfig, root: Path, people: int) -> str | None:
    """Why a slice cannot be cut from so many training identities, or leaves too few to pretrain on, or None."""
    if config.identities is None:
        return None
    if config.identities > people:
        return f"--identities {config.identities} is more than the {people} training identities of {root}"
    first = config.pretrain
    pretrained_outside = first is not None and first.population is None and first.people is None
    if pretrained_outside and people - config.identities < FEWEST_OTHERS:
        return (
            f"--identities {config.identities} of {people} leaves fewer than {FEWEST_OTHERS} people to pretrain "
            "the models on; give fewer, or 'null' for all without pretraining"
        )
    return None


def csv_problem(flag: str, path: Path) -> str | None:
    """Why a file is no published keypoint CSV, by its first line, or None."""
    from datasets.poses.csv_files import HEADER

    try:
        with path.open("rb") as file:
            first = file.readline(200).decode("utf-8-sig", "replace")
    except OSError as error:
        return f"{flag} {path} cannot be read ({error.strerror})"
    if first.strip(" \t\r\n,").replace(" ", "") == HEADER:
        return None
    return f"{flag} {path} does not begin with the header '{HEADER}'; give the published keypoint CSV"


def folder_problems(config: RegenerateConfig) -> list[str]:
    """Which of the folders that are written to cannot be."""
    folders = (("--store", config.store), ("--output", config.output_folder()))
    return [problem for flag, folder in folders if (problem := folder_problem(flag, folder)) is not None]


def folder_problem(flag: str, folder: Path) -> str | None:
    """Why a run cannot write and lock files in a folder, which is made; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            try_lock(file.fileno(), folder / "lock")
    except InputError as error:
        return f"{flag} {error}"
    except OSError as error:
        return f"{flag} {folder} cannot be written to ({error.strerror}); name a folder that can be"
    return None


def weight_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the models that training starts from; nothing where no picture is generated."""
    if not draws(config):
        return []
    problems, absent = [], {}
    for name, marker in (("vae", "config.json"), ("image_encoder", "config.json"), ("generator", "model_index.json")):
        folder = getattr(config, name)
        if folder is None:
            made = getattr(config.pretrain, name, None) is not None
            if name != "generator" and not (made and config.has_others()):
                way_out = (
                    "people to pretrain on (pretrain.people, pretrain.population, --identities)"
                    if made
                    else f"settings in pretrain.{name}"
                )
                problems.append(f"no {name}: give {_flag(name)} FOLDER, or {way_out}")
        elif not (folder / marker).is_file() or not has_weights(folder):
            absent[name] = folder
        elif (problem := MODEL_PROBLEMS[name](folder)) is not None:
            problems.append(f"{_flag(name)} {folder} {problem}")
    return [*problems, *_missing(config, absent), *loss_weight_problems(config)]


def loss_weight_problems(config: RegenerateConfig) -> list[str]:
    """What is wrong with the published networks that losses and measures of the trainings ask for."""
    pretrain = config.pretrain if config.has_others() else None
    problems = []
    for flag, settings, names in (
        ("--pretrain.vae", pretrain and pretrain.vae, ("vgg16", "alexnet")),
        ("--pretrain.generator", pretrain and pretrain.generator, ("vgg16",)),
        ("--train", config.train, ("vgg16",)),
    ):
        for name in names:
            path = getattr(settings, name) if settings else None
            if path is None:
                continue
            try:
                check_published(name, path, f"{flag}.{name}")
            except WeightsError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{flag}.{name} {path} cannot be read ({error.strerror})")
    return problems


def reid_weight_problems(config: RegenerateConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is wrong with the weights that the re-ID networks start from."""
    network = config.reid.network
    try:
        if network.weights == PACKAGE:
            weights_package(network.backbone).find()
    except InputError as error:
        return [str(error)]
    if isinstance(network.weights, Path) and not network.weights.is_file():
        return [f"--reid.network.weights {network.weights} is not a file"]
    if network.weights == "hub" and config.ray is None:  # each node has caches of its own
        problem = backbone_problem(network.backbone, environment)
        return [] if problem is None else [problem]
    return []


def pose_weight_problems(config: RegenerateConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is wrong with the weights of the networks that find skeletons, in real images and in synthetic ones."""
    extract, further, synthesize = config.extract_poses, config.completes_poses(), config.synthesize
    wanted = []
    if extract is not None and (not config.poses or _others_by_network(config)):
        published = "give published keypoints (--poses FILE; of other people in their own settings)"
        wanted.append(("--extract-poses.weights", extract.backend, extract.weights, published))
    if further is not None:
        without = "give --test-time.complete-poses null"
        wanted.append(("--test-time.complete-poses.weights", further.backend, further.weights, without))
    if synthesize.pose_backend is not None and draws_for_training(config):
        unscored = "leave the synthetic images unscored by --synthesize.pose-backend null"
        wanted.append(("--synthesize.pose-weights", synthesize.pose_backend, synthesize.pose_weights, unscored))
    cached = config.ray is not None or has_openpose(environment)
    return [
        f"{flag} {weights or OPENPOSE_FILE} is not a file; get it by '{OPENPOSE_DOWNLOAD}', or {otherwise}"
        for flag, backend, weights, otherwise in wanted
        if (not weights.is_file() if weights is not None else backend == OPENPOSE.name and not cached)
    ]


def _others_by_network(config: RegenerateConfig) -> bool:
    """Whether the network finds skeletons of other people, whatever the data set's own come from."""
    used = [config.pretrain if sees_others(config) else None, config.pose_bank]
    return any(
        item is not None and (item.population is not None or (item.people is not None and not item.people.poses))
        for item in used
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _missing(config: RegenerateConfig, absent: dict[str, Path]) -> list[str]:
    """One sentence on weights that can be downloaded, with the commands, and one for each other folder."""
    published, commands, problems = [], [], []
    downloads = {name: encoder.download(Path("{folder}")) for name, encoder in NAMED_ENCODERS.items()}
    downloads["stable-diffusion-v1-5"] = SD_DOWNLOAD
    for name, folder in absent.items():
        part = next((part for part in downloads if part in folder.parts), None)
        if part is None:
            problems.append(f"{_flag(name)} {folder} holds no saved model (no config, or no .safetensors file)")
            continue
        target = Path(*folder.parts[: folder.parts.index(part) + 1])
        published.append(f"{name} in {folder}")
        commands.append(downloads[part].format(folder=target))
    if published:
        problems.append(
            f"preset '{config.preset}' needs weights that are not there ({', '.join(published)}); get them by "
            f"'{' and '.join(dict.fromkeys(commands))}', or give {', '.join(map(_flag, absent))}"
        )
    return problems
