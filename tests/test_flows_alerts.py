"""What is told of a regeneration, and the automations that tell it; against a receiver of the test's own where slow."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import UUID

import pytest

from flows.__main__ import main
from flows.alerts import DATA_SHRANK, GAIN_FELL, Limits, alerts_of
from flows.server.automations import ALERTS, automation
from reid.config import HistoryEntry, RememberedGain
from tests.prefect_site import Site, wait_for


def week(value: float, images: int, half: float = 1.0) -> HistoryEntry:
    gain = RememberedGain(
        protocol="leak-free",
        fraction=20,
        arm="real+synthetic",
        baseline="real",
        before=30,
        after=30 + value,
        value=value,
        low=value - half,
        high=value + half,
    )
    headline = {"arm": "real+synthetic", "reference": "real", "protocol": "leak-free"}
    return HistoryEntry(
        benchmark=str(value), preset="market", counts={"training images": images}, gains=[gain], **headline
    )


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (week(5, 100), week(4, 100), []),
        (week(5, 100), week(2.5, 100), [GAIN_FELL]),
        (week(2, 100), week(9, 100), []),
        (week(5, 100), week(5, 94), [DATA_SHRANK]),
        (week(5, 100), week(5, 200), []),
        (week(5, 100), week(1, 10), [GAIN_FELL, DATA_SHRANK]),
    ],
)
def test_a_gain_that_fell_and_data_that_shrank_are_told_beyond_their_limits(before, after, told):
    assert [alert.event for alert in alerts_of([before, after])] == told
    assert alerts_of([before, after], Limits(gain_points=99, data_percent=99)) == []
    assert alerts_of([after]) == []


def test_a_fallen_gain_says_whether_the_intervals_allow_it():
    (alert,) = alerts_of([week(5, 100), week(2, 100)])
    assert "fell from +5.0 to +2.0 points, more than the intervals allow" in alert.text
    (alert,) = alerts_of([week(5, 100, half=9), week(2, 100, half=9)])
    assert "not more than the intervals allow" in alert.text


def test_every_automation_is_one_that_prefect_accepts():
    for name, (events, body) in ALERTS.items():
        made = automation(name, events, body, UUID(int=1))
        assert made.trigger.expect == set(events) and made.actions[0].type == "send-notification"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "give a receiver"), (["--webhook", "ftp://x"], "webhook"), (["--webhook", "http://x"], "PREFECT_API_URL")],
)
def test_alerts_without_a_receiver_or_a_server_are_refused_in_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["alerts", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


class Receiver(HTTPServer):
    """Takes what webhooks send."""

    def __init__(self) -> None:
        received: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        self.received = received
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_alert_reaches_a_receiver(tmp_path, repository: Path):
    site, receiver = Site(tmp_path, repository), Receiver()
    try:
        site.start_server()
        url = f"http://127.0.0.1:{receiver.server_port}/"
        command = [sys.executable, "-m", "flows", "alerts", "--webhook", url]
        for said in ("made", "replaced"):  # a second time changes nothing but the settings
            result = subprocess.run(command, cwd=site.clone, env=site.environment, capture_output=True, text=True)
            assert result.stdout.count(said) == len(ALERTS), result.stdout + result.stderr
        flow = site.post("flows/", {"name": "regenerate"}).json()["id"]
        for name, state in (("a", "FAILED"), ("b", "CRASHED")):
            body = {"flow_id": flow, "name": name, "state": {"type": "RUNNING"}}
            run = site.post("flow_runs/", body).json()["id"]
            site.post(f"flow_runs/{run}/set_state", {"state": {"type": state, "message": "no disk"}, "force": True})
        site.post("flow_runs/", {"flow_id": flow, "name": "c", "state": {"type": "SCHEDULED"}})
        for event in (GAIN_FELL, DATA_SHRANK):
            resource = {"prefect.resource.id": "imagpose-reid.preset.market"}
            payload = {"text": f"told of {event}", "report": "r"}
            body = {"event": event, "resource": resource, "payload": payload, "id": str(UUID(int=time.time_ns()))}
            site.post("events", [body | {"occurred": datetime.now(UTC).isoformat()}])
        wanted = (
            "is Failed: no disk",
            "is Crashed: no disk",
            "is Late",
            f"told of {GAIN_FELL}",
            f"told of {DATA_SHRANK}",
        )
        wait_for(lambda: all(any(text in got for got in receiver.received) for text in wanted), 240)
    finally:
        site.tear_down()
        receiver.shutdown()
