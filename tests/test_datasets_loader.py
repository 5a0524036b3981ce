"""The order of training: every image once an epoch, the same batch on any number of processes, made ahead in order."""

import multiprocessing
import os
from collections import Counter

import numpy as np
import pytest
import torch

from datasets.runtime.errors import InputError
from datasets.shards.encoded import EncodedImages
from datasets.shards.loader import epoch_order, starting_images, stream_steps
from imagpose.canvas.training import EMPTY, plan_batch
from imagpose.config import TrainGeneratorConfig
from imagpose.training.batches import StepReader
from tests.small_encoded import PEOPLE, encoded_artifact
from tests.test_imagpose_canvas import RandomImages


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> EncodedImages:
    return EncodedImages(encoded_artifact(tmp_path_factory.mktemp("encoded")))


def config(**fields) -> TrainGeneratorConfig:
    return TrainGeneratorConfig(**{"encoded": "nowhere", "batch_size": 6, **fields})


def shares(source, processes: int, steps: range, **fields) -> list[list]:
    """What each process gets, step by step."""
    readers = [
        StepReader(source=source, config=config(**fields), train_timesteps=1000, process=process, processes=processes)
        for process in range(processes)
    ]
    return [[reader(step) for step in steps] for reader in readers]


def test_every_image_starts_one_sample_an_epoch():
    for epoch in range(3):
        assert sorted(starting_images(50, 7, 50 * epoch, 50)) == list(range(50))
    assert not np.array_equal(epoch_order(50, 7, 0), epoch_order(50, 7, 1))
    assert not np.array_equal(epoch_order(50, 7, 0), epoch_order(50, 8, 0))


def test_a_batch_may_lie_across_epochs_and_hold_several():
    whole = starting_images(5, 0, 0, 40)
    assert all(sorted(whole[i : i + 5]) == list(range(5)) for i in range(0, 40, 5))
    pieces = [starting_images(5, 0, first, 8) for first in range(0, 40, 8)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_run_that_starts_in_the_middle_meets_what_an_undisturbed_one_met():
    assert np.array_equal(starting_images(1000, 3, 700, 900), starting_images(1000, 3, 0, 1600)[700:])


def test_people_are_met_in_proportion_to_their_images_without_exception():
    source = RandomImages()  # 1, 2, 3, 4 and 9 images: 19 canvases per epoch
    plans = [plan for step in range(19) for plan in plan_batch(source, config(batch_size=4), step)]  # four epochs
    met = Counter(int(source.pids[max(plan.slots)]) for plan in plans)
    assert met == {0: 4, 1: 8, 2: 12, 3: 16, 4: 36}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_processes_together_make_the_one_batch_of_a_step(images, processes, accumulated):
    (alone,) = shares(images, 1, range(3))
    several = shares(images, processes, range(3), gradient_accumulation=accumulated)
    for step, whole in enumerate(alone):
        parts = [part for process in several for part in process[step].parts]
        assert len(parts) == processes * accumulated
        numbers = torch.cat([numbers for numbers, _ in parts])
        assert sorted(numbers.tolist()) == list(range(6))
        for name, tensor in vars(whole.parts[0][1]).items():
            together = torch.cat([getattr(batch, name) for _, batch in parts])
            assert torch.equal(together, tensor[numbers]), name
        assert {process[step].total_weight for process in several} == {whole.total_weight}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_hand_over_the_same_steps_in_order(images, workers):
    reader = StepReader(source=images, config=config(), train_timesteps=1000, process=0, processes=1)
    before = torch.random.get_rng_state()
    found = list(stream_steps(reader, range(4, 11), workers))
    assert torch.equal(torch.random.get_rng_state(), before)
    for step, work in zip(range(4, 11), found, strict=True):
        for name, tensor in vars(reader(step).parts[0][1]).items():
            assert torch.equal(getattr(work.parts[0][1], name), tensor)


def test_a_workers_error_arrives_as_it_was_told():
    def fail(step: int) -> tuple[int, int]:
        if step == 2:
            raise InputError(f"step {step} cannot be read")
        return step, os.getpid()

    found = []
    with pytest.raises(InputError, match=r"^step 2 cannot be read$"):
        found.extend(stream_steps(fail, range(5), workers=2))
    stream = stream_steps(fail, range(2), workers=1)
    step, process = next(stream)
    assert step == 0 and process != os.getpid()


def test_a_worker_is_out_of_reach_of_the_groups_signals_but_not_of_the_loaders():
    stream = stream_steps(lambda step: (step, os.getpid()), range(9), workers=1)
    _, process = next(stream)
    assert os.getpgid(process) != os.getpgid(0)  # SIGTERM to the group is answered by the training alone
    (worker,) = (child for child in multiprocessing.active_children() if child.pid == process)
    worker.terminate()  # as the loader does with a worker that did not end in time
    worker.join(20)
    assert not worker.is_alive()


def test_a_subset_meets_nobody_else(tmp_path, images):
    wanted = [key for key in images.keys if not key.endswith("2")]
    subset = EncodedImages(images.directory, keys=wanted)
    rows = {key: row for row, key in enumerate(images.keys)}
    for step in range(10):
        for plan in plan_batch(subset, config(), step):
            for slot in (*plan.slots, plan.reference):
                if slot != EMPTY:
                    row = rows[subset.keys[slot]]
                    assert images.keys[row] in wanted
                    assert torch.equal(subset.latents([slot]), images.latents([row]))


def test_only_what_is_asked_for_is_read_from_the_disk(images, monkeypatch):
    read = []
    real = os.preadv

    def counted(descriptor, buffers, offset):
        read.append(sum(memoryview(buffer).nbytes for buffer in buffers))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    images.latents([0, 5, 3], flipped=[True, False, True])
    images.tokens([2])
    assert read == [2 * 4 * 8 * 4] * 3 + [2 * 5 * 20]


def test_the_reader_keeps_no_features_and_no_open_file(images, tmp_path):
    held = [value for value in vars(images).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) < 300 * len(images)
    latents = images.latents(range(len(images)))
    assert latents.shape == (sum(PEOPLE.values()), 4, 8, 4)
    folder = tmp_path / "moved"
    images.directory.rename(folder)
    with pytest.raises(InputError, match="cannot be read"):
        images.latents([0])
    folder.rename(images.directory)
    assert torch.equal(images.latents(range(len(images))), latents)


def test_one_split_can_be_opened_alone(tmp_path):
    both = encoded_artifact(tmp_path, splits=("train", "query"))
    assert len(EncodedImages(both)) == 2 * len(EncodedImages(both, split="query")) > 0
    assert set(EncodedImages(both, split="train").splits) == {"train"}
    assert len(EncodedImages(both, split="gallery")) == 0
