"""What a regeneration writes into its store about itself: which artifacts it uses, and whether it has finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.runtime.config import StageConfig
from datasets.runtime.keys import artifact_key_and_inputs
from datasets.runtime.manifests import local_path
from datasets.store.records import RunRecord, now, read_records, write_record
from flows.config import RegenerateConfig
from flows.runs.overrides import variant


class RunNotes:
    """Keeps a run's record in its store; a run that is resumed continues its own.

    Args:
        config: the regeneration's settings.
        run: its id.
        lock: the lock that it holds.
    """

    def __init__(self, config: RegenerateConfig, run: str, lock: Path) -> None:
        self.store = config.store.absolute()
        known = next((record for record in read_records(self.store) if record.run == run), None)
        record = known or RunRecord(
            run=run,
            preset=config.preset,
            variant=variant(config),
            started=now(),
            used=now(),
            lock=lock.name,
        )
        self.record = write_record(record.model_copy(update={"finished": False, "used": now()}), self.store)

    def uses(self, configs: Sequence[StageConfig]) -> list[Path]:
        """Note what the run is about to look for or to make; returns the folders that it is made from."""
        keys = [artifact_key_and_inputs(config) for config in configs]
        names = [f"{config.stage}/{key}" for config, (key, _) in zip(configs, keys, strict=True)]
        artifacts = list(dict.fromkeys([*self.record.artifacts, *names]))
        self.record = write_record(self.record.model_copy(update={"artifacts": artifacts, "used": now()}), self.store)
        return [local_path(item["path"]) for _, inputs in keys for item in inputs.values()]

    def finish(self, report: Path, pages: Path) -> None:
        """Note that the run is complete.

        Args:
            report: the report's artifact.
            pages: the folder that keeps a copy of it.
        """
        update = {"finished": True, "report": f"{report.parent.name}/{report.name}", "pages": pages, "used": now()}
        self.record = write_record(self.record.model_copy(update=update), self.store)
