"""Reports of a FAILED montage: the HTTP answers, the status, the metrics and the log agree."""

import json
import re
import subprocess

import pytest

from tests.acceptance.rig import Rig, fetch, temwatch, wait_for


def test_web_status_metrics_and_log_agree_about_a_failed_montage(rig: Rig, write):
    section = rig.start_with_failed_montage(write)
    row = rig.montage_of(section.metafile)
    url = f"{rig.url}/api/montages/{row['id']}"
    # The state changes before the attempt ends.
    wait_for(lambda: all(attempt["ended_at"] for attempt in fetch(url)["attempts"]), 60, "its attempts end")
    web = fetch(url)
    fault = web["fault"]
    assert (fault["kind"], web["failed_in"]) == ("ZFault", "noticed")
    assert fault["problem"]
    assert fault["hint"]
    failed = [event for event in web["events"] if event["event"] == "failed"][-1]
    assert failed["detail"]["fault"] == fault
    assert failed["detail"]["attempt"] == web["attempt"]
    ended = [attempt for attempt in web["attempts"] if attempt["outcome"] == "failed"]
    assert len(ended) == web["attempt"] >= 1

    config = str(rig.config())
    status = json.loads(temwatch("status", "--json", "--config", config).stdout)
    (listed,) = status["montages"]
    assert listed == row
    assert {key: web[key] for key in row} == row
    text = temwatch("status", "--config", config).stdout
    attempts = f"after {web['attempt']} attempt"
    for part in (str(section.metafile), fault["problem"], fault["hint"], fault["kind"], "in step settle", attempts):
        assert part in text

    metrics = fetch(f"{rig.url}/metrics")
    (count,) = re.findall(r'temwatch_montages\{state="failed",watch="daemon"\} (\S+)', metrics)
    assert float(count) == 1 == status["counts"]["daemon"]["failed"]

    said = [json.loads(line) for line in rig.daemon.lines() if '"montage.failed"' in line]
    assert len(said) == 1
    assert {key: said[0][key] for key in ("kind", "subject", "problem", "hint")} == fault
    assert (said[0]["montage"], said[0]["failed_in"], said[0]["attempt"]) == (row["id"], "noticed", web["attempt"])
    assert said[0]["metafile"] == str(section.metafile)

    assert rig.daemon.stop() == 0
    stopped = json.loads(temwatch("status", "--json", "--config", config).stdout)
    assert stopped["montages"] == [row]


@pytest.mark.parametrize("daemon", ["runs", "stopped"])
def test_a_dismissed_montage_does_not_count_as_failed_and_can_be_replayed(rig: Rig, write, daemon):
    section = rig.start_with_failed_montage(write)
    montage_id = rig.montage_of(section.metafile)["id"]
    if daemon == "stopped":
        assert rig.daemon.stop() == 0
    done = dismiss(rig, montage_id, 99, "--reason", "a test of the beam")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (
        1,
        [f"dismissed   {section.metafile}", "refused     montage 99: no such montage; `temwatch status` shows ids"],
        "",
    )
    if daemon == "stopped":
        rig.start()
    assert re.search(r'temwatch_montages\{state="failed",watch="daemon"\} 0', fetch(f"{rig.url}/metrics"))
    row = rig.montage_of(section.metafile)
    assert (row["state"], row["waiting_for"], row["fault"]["kind"]) == ("dismissed", "a test of the beam", "ZFault")
    (rig.root / "z.csv").write_text("grid,z\n1050,7\n")
    selection = [str(section.metafile)] if daemon == "runs" else ["--state", "dismissed"]
    done = temwatch("replay", *selection, "--config", str(rig.config()))
    assert (done.returncode, done.stderr) == (0, "")
    assert rig.montage_of(section.metafile)["state"] == "complete"


def test_a_dismissal_without_a_reason_is_refused(rig: Rig):
    rig.render_url = "http://127.0.0.1:1/render-ws/v1"
    done = dismiss(rig, 1, "--reason", " ")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("--reason: ")


def dismiss(rig: Rig, *arguments: object) -> subprocess.CompletedProcess[str]:
    return temwatch("dismiss", *map(str, arguments), "--config", str(rig.config()))
