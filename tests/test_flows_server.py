"""A server, a worker and deployments as docs/prefect.md has them: runs, refusals, kills, cancelling, growing data.

Slow: every test is at least one regeneration by the preset `smoke` in child processes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from datasets.runtime.manifests import MANIFEST
from tests.prefect_site import Site, processes_of, wait_for
from tests.small_sets import jpeg, market_files, pose_lines, write_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
AT_MOST = 1500.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"), Path(__file__).resolve().parent.parent)
    try:
        site.set_up()
        yield site
    finally:
        site.tear_down()


def smoke(folder: Path, **fields: object) -> dict[str, object]:
    return {"preset": "smoke", "device": "cpu", "store": str(folder / "store"), "output": str(folder / "out"), **fields}


def manifests(store: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.glob(f"*/*/{MANIFEST}")}


def finish(site: Site, run: str) -> str:
    return wait_for(lambda: site.state(run) in FINAL and site.state(run), AT_MOST)


def test_the_documented_sequence_ends_completed_with_its_artifacts(site):
    said = site.call("deployment", "run", "regenerate/smoke", "--watch")
    assert "Completed" in said
    assert site.artifact("results-smoke")["type"] == "markdown" and "Rank-1" in site.artifact("results-smoke")["data"]
    rows = site.table("rank-1-smoke")
    assert {"arm", "fraction", "Rank-1", "mAP"} <= set(rows[0]) and len(rows) >= 4
    assert "report.html" in site.artifact("report-smoke")["data"]
    assert site.artifact("samples-40-0-smoke")["data"].startswith("data:image/png;base64,")
    assert any(
        row["stage"] == "datasets write-shards" and "images" in row["counts"] for row in site.table("stages-smoke")
    )
    assert (site.clone / "runs" / "smoke" / "report.html").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": 0},
        {"train": {"steps": "many"}},
        {"no_such_field": 1},
        {"preset": "nonsense"},
        {"fractions": [20, 20]},
        {"arms": ["real-then-synthetic"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_value_is_refused_at_submission(site, wrong):
    answer = site.submit("regenerate/smoke", {"preset": "smoke", **wrong})
    assert answer.status_code in (409, 422)
    assert next(iter(wrong)).split("_")[0] in answer.text or "valid" in answer.text.lower()
    said = site.call("deployment", "run", "regenerate/smoke", "-p", f"config={json.dumps(wrong)}", code=1)
    assert "regenerate" in said or "valid" in said.lower()


def test_a_schedule_made_on_the_server_survives_another_deployment_and_creates_runs(site):
    """SQLAlchemy 2.1 makes schedules that are active and create nothing; see docs/dependencies.md."""
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert site.post("flow_runs/count", planned).json() == 0  # there is none by default
    name, deployment = "regenerate/smoke", site.deployment("regenerate/smoke")
    site.call("deployment", "schedule", "create", name, "--cron", "0 5 1 1 *", "--timezone", "UTC")
    try:
        site.call("--no-prompt", "deploy", "--all")
        (schedule,) = site.get(f"deployments/{deployment}/schedules")
        assert schedule["active"] and schedule["schedule"]["cron"] == "0 5 1 1 *"
        wait_for(lambda: site.post("flow_runs/count", planned).json(), 180)
    finally:
        for schedule in site.get(f"deployments/{deployment}/schedules"):
            site.call("deployment", "schedule", "delete", name, schedule["id"], "--accept-yes")


@pytest.mark.parametrize("stage", ["datasets encode", "imagpose train ", "reid train"])
def test_a_killed_worker_costs_at_most_the_unit_in_hand(site, tmp_path, stage):
    store = tmp_path / "store"
    first = site.run("regenerate/smoke", smoke(tmp_path))
    wait_for(lambda: processes_of(store, f"-m {stage}"), AT_MOST)
    engines = psutil.Process(site.processes["worker"].pid).children()
    done = manifests(store)
    site.kill("worker")
    for engine in engines:  # as a machine that loses power does
        engine.kill()
    wait_for(lambda: not processes_of(store), 15)
    site.start_worker()
    again = site.run("regenerate/smoke", smoke(tmp_path))
    assert finish(site, again) == "COMPLETED"
    assert site.state(first) == "CRASHED"
    assert done and done.items() <= manifests(store).items()
    assert not list(store.glob("*/*.partial"))


def test_a_killed_server_costs_at_most_the_unit_in_hand(site, tmp_path):
    store = tmp_path / "store"
    first = site.run("regenerate/smoke", smoke(tmp_path))
    wait_for(lambda: processes_of(store, "-m imagpose train "), AT_MOST)
    done = manifests(store)
    site.kill("server")
    site.start_server()
    finish(site, first)
    again = site.run("regenerate/smoke", smoke(tmp_path))
    assert finish(site, again) == "COMPLETED"
    assert done.items() <= manifests(store).items()


def test_cancelling_ends_the_tree_and_the_next_run_goes_on_from_the_last_checkpoint(site, tmp_path):
    store = tmp_path / "store"
    long = smoke(tmp_path, fractions=[40], train={"steps": 100_000, "checkpoint_every": 5})
    run = site.run("regenerate/smoke", long)
    wait_for(lambda: list(store.glob("train-imagpose/*.partial/**/*.safetensors")), AT_MOST)
    site.call("flow-run", "cancel", run)
    wait_for(lambda: not processes_of(store), 15)
    assert finish(site, run) == "CANCELLED"
    again = site.run("regenerate/smoke", long)
    logs = store / "logs"
    wait_for(lambda: any("resuming from step" in path.read_text() for path in logs.glob("*imagpose-train-*")), AT_MOST)
    site.post(f"flow_runs/{again}/set_state", {"state": {"type": "PAUSED", "name": "Suspended"}, "force": True})
    wait_for(lambda: not processes_of(store), 20)  # nobody signals a suspended run: it looks by itself
    assert site.state(again) == "PAUSED"


def test_a_data_set_that_grows_re_makes_only_what_its_new_images_touch(site, tmp_path):
    sizes = {"identities": 12, "images": 5, "test_identities": 4}
    files = market_files(**sizes)
    root = write_files(tmp_path / "Market-1501", files)
    poses = tmp_path / "poses.csv"
    settings = smoke(
        tmp_path,
        root=str(root),
        poses=[str(poses)],
        miniature=None,
        continue_training="warm-start",
        fractions=[40],
        protocol="paper",
    )
    poses.write_text("\n".join(pose_lines(files)) + "\n")
    assert finish(site, site.run("regenerate/smoke", settings)) == "COMPLETED"
    before = set(manifests(tmp_path / "store"))
    more = [f"bounding_box_train/{pid:04d}_c3s1_{frame:06d}_01.jpg" for pid in (2, 9) for frame in range(900, 925)]
    others = [name for name in market_files(identities=17, images=5) if "bounding_box_train" in name]
    names = more[::2] + [name for name in others if name not in files]
    new = {name: jpeg(1000 + number) for number, name in enumerate(names)}
    assert len(new) == 50
    write_files(root, new)
    poses.write_text("\n".join([*pose_lines(files), *pose_lines(new, seed=1)[1:]]) + "\n")  # the old ones as they were
    assert finish(site, site.run("regenerate/smoke", settings)) == "COMPLETED"
    rows = site.table("stages-smoke")
    for stage in ("datasets write-shards", "datasets encode"):  # the other people's are complete: no counts
        counts = [row["counts"] for row in rows if row["stage"] == stage and row["counts"]]
        assert any(re.search(r"\b[1-9][\d,]* shards reused", text) for text in counts), (stage, rows)
    made = [Path(path).parent for path in set(manifests(tmp_path / "store")) - before]
    (generator,) = [folder for folder in made if folder.parent.name == "train-imagpose"]
    first = [Path(path).parent for path in before if "/train-imagpose/" in path]
    assert json.loads((generator / MANIFEST).read_text())["inputs"]["init_from"]["path"] in map(str, first)
