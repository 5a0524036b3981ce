"""docs/extending.md, walked: its modules, put together outside the repository, run to the report."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from datasets.runtime.manifests import manifest_of
from datasets.runtime.registry import EXTENSIONS

pytestmark = pytest.mark.timeout(900)  # whichever test comes first waits for the run of all stages

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "extending.md").read_text()


def pieces(file: str) -> str:
    """The blocks of the page that belong to a file, put together."""
    blocks = re.findall(rf"^```python\n(# {re.escape(file)}\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command in the reader's folder, with the reader's extension."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}", EXTENSIONS: "shop"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def lay_out_the_shop(folder: Path) -> None:
    """Rendered people under the names of the page: shop/train/visitor-12/cam3-000451.jpg."""
    sizes = "--train-identities 8 --test-identities 6 --images-per-identity 6 --distractors 0 --junk 0 --seed 7"
    arguments = [*sizes.split(), "--width", "32", "--height", "64", "--output", "people"]
    assert run(folder, "-m", "datasets", "miniature", *arguments).returncode == 0
    splits = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
    numbers = itertools.count()
    for old, split in splits.items():
        for image in sorted((folder / "people" / old).glob("*.jpg")):
            pid, camera = re.fullmatch(r"(\d+)_c(\d)s.*", image.name).groups()
            place = folder / "shop" / split / f"visitor-{int(pid)}" / f"cam{camera}-{next(numbers):06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.rename(place)


def save_encoder(folder: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)).save_pretrained(folder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """The reader's folder: pictures, the page's modules, an image encoder."""
    folder = tmp_path_factory.mktemp("reader")
    for file in ("shop.py", "shop_networks.py", "flip.py", "table.py"):
        (folder / file).write_text(pieces(file))
    lay_out_the_shop(folder)
    save_encoder(folder / "weights" / "registers")
    return folder


@pytest.fixture(scope="module")
def made(shop) -> dict[str, Any]:
    """The whole regeneration with everything that the page adds, and where its artifacts lie."""
    result = run(shop, str(REPOSITORY / "tests" / "extension_run.py"))
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def config_of(shop: Path, stage: str) -> dict[str, Any]:
    """The config of a stage's artifact; of the first where there are several."""
    return manifest_of(min((shop / "store" / stage).glob("*/")))["config"]


def test_an_added_layout_is_indexed_by_a_child_process(shop, made):
    images = pd.read_parquet(Path(made["index"]) / "images.parquet")
    assert config_of(shop, "index")["layout"] == "visitors"
    assert set(images.status) == {"ok"} and set(images.split) == {"train", "query", "gallery"}
    assert images.key.str.match(r"visitor-\d+-cam\d-\d{6}").all()


def test_an_added_pose_backend_finds_the_skeletons_and_scores_the_pictures(shop, made):
    poses = pd.read_parquet(next((shop / "store" / "extract-poses").glob("*/poses.parquet")))
    assert set(poses.backend) == {"standing"} and set(poses.status) == {"ok"}
    synthetic = pd.read_parquet(next((shop / "store" / "synthesize").glob("*/synthetic.parquet")))
    assert len(synthetic) and (synthetic.pose_score > 0).any()


def test_an_added_image_encoder_makes_the_tokens(shop, made):
    assert Path(config_of(shop, "encode")["image_encoder"]) == shop / "weights" / "registers"


def test_an_added_sampler_draws_the_pictures(shop, made):
    assert config_of(shop, "synthesize")["sampler"] == "dpm++3"


def test_an_added_backbone_is_trained(shop, made):
    assert config_of(shop, "train-reid")["network"]["backbone"] == "shop:small"


def test_an_added_arm_is_trained_as_it_says_and_described_in_the_report(shop, made):
    manifests = [manifest_of(folder)["config"] for folder in (shop / "store" / "train-reid").glob("*/")]
    weights = {config["arm"]: config["loss"]["synthetic_weight"] for config in manifests}
    assert weights == {"real": 1.0, "real+synthetic": 1.0, "real+half": 0.5, "flip": 1.0}
    page = (Path(made["report"]) / "report.html").read_text()
    assert "As real+synthetic, with a generated image counting half." in page


def test_another_generators_pictures_are_an_arm_and_make_nothing_else_anew(shop, made):
    results = pd.read_parquet(Path(made["benchmark"]) / "results.parquet")
    assert set(results.arm) == {"real", "real+synthetic", "real+half", "flip"}
    assert made["kept"] and len(list((shop / "store" / "synthesize").glob("*/"))) == 1


def test_the_added_preset_ends_in_the_report(shop, made):
    page = (Path(made["report"]) / "report.html").read_text()
    assert "--preset shop" in page and "flip" in page


def test_the_added_names_stand_in_the_help(shop):
    said = run(shop, "-m", "flows", "--help").stdout
    assert "shop" in said and "visitors of the shop with models of our own" in said
    assert "visitors" in run(shop, "-m", "flows", "regenerate", "--help").stdout


def test_the_table_of_the_page_describes_the_same_folder(shop):
    assert run(shop, "table.py").returncode == 0
    table = pd.read_csv(shop / "shop" / "images.csv")
    assert len(table) == len(list((shop / "shop").glob("*/*/*.jpg"))) and set(table.camid) <= set(range(1, 7))
    (shop / "shop" / "images.csv").unlink()


def test_the_built_in_generator_is_used_from_python_as_the_page_says(shop):
    block = next(
        block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if "IMAGPosePipeline" in block
    )
    me, other, *_ = sorted((shop / "shop" / "train").glob("*/*.jpg"))
    code = block.replace('"imagpose/builtin"', repr(str(REPOSITORY / "imagpose" / "builtin")))
    (shop / "me.jpg").write_bytes(me.read_bytes())
    (shop / "other.jpg").write_bytes(other.read_bytes())
    result = run(shop, "-c", code)
    assert result.returncode == 0, result.stderr
    assert Image.open(shop / "picture.png").size == (64, 128)


@pytest.mark.slow
def test_the_added_preset_runs_under_prefect_in_child_processes(shop, tmp_path):
    small = "--fractions 60 --train.steps 1 --train.batch-size 1 --synthesize.steps 2 --reid.schedule.steps 2"
    places = ["--root", "shop", "--store", str(tmp_path / "store"), "--output", str(tmp_path / "out")]
    result = run(shop, "-m", "flows", "regenerate", "--preset", "shop", "--device", "cpu", *small.split(), *places)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert (tmp_path / "out" / "report.html").is_file()
