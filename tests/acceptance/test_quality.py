"""Quality control: a held montage, the decision of an operator, and a daemon that is killed in between."""

import json

from tests.acceptance.rig import Rig, temwatch, wait_for


def test_a_held_montage_continues_when_the_command_passes_it_even_after_kill_9(rig: Rig, write):
    rig.settings |= {"watch.qc.hold": True, "watch.qc.min_focus": 99.0}
    rig.start_standin()
    rig.start()
    section = write()
    rig.wait_until("applied", section.metafile)
    row = wait_for(
        lambda: (found := rig.montage_of(section.metafile))["waiting_for"] and found,
        60,
        "the montage waits for a person",
    )
    assert (row["waiting_for"], row["verdict"]) == ("a person: its quality verdict keeps its stacks open", "fail")
    assert "a person" in temwatch("status", "--config", str(rig.config())).stdout

    said = temwatch(
        "verdict", str(row["id"]), "fail", "--by", "Anna", "--note", "blurred", "--config", str(rig.config())
    )
    assert (said.returncode, said.stdout) == (0, f"fail: {section.metafile}\n")
    missing = temwatch("verdict", "77", "pass", "--config", str(rig.config()))
    assert (missing.returncode, "no such montage" in missing.stdout) == (1, True)
    rig.daemon.kill()
    # Without a daemon the command writes the journal itself.
    said = temwatch("verdict", str(row["id"]), "re-image", "--by", "Anna", "--config", str(rig.config()))
    assert (said.returncode, said.stdout) == (0, f"re-image: {section.metafile}\n")
    rig.start()
    quality = rig.montage(row["id"])["quality"]
    assert (quality["verdict"], quality["computed"], quality["override"]["by"]) == ("re-image", "fail", "Anna")
    assert rig.montage_of(section.metafile)["state"] == "applied"

    said = temwatch("verdict", str(row["id"]), "pass", "--note", "good enough", "--config", str(rig.config()))
    assert (said.returncode, said.stdout) == (0, f"pass: {section.metafile}\n")
    rig.wait_until("complete", section.metafile)
    lines = [
        json.loads(line)
        for line in temwatch("log", str(row["id"]), "--json", "--config", str(rig.config())).stdout.splitlines()
    ]
    decided = [line for line in lines if line.get("decision")]
    assert [(line["decision"], line.get("note")) for line in decided] == [
        ("fail", "blurred"),
        ("re-image", ""),
        ("pass", "good enough"),
    ]


def test_a_replay_without_a_daemon_reports_a_held_montage_and_ends(rig: Rig, write):
    rig.settings |= {"watch.qc.hold": True, "watch.qc.min_focus": 99.0}
    rig.start_standin()
    section = write()
    said = temwatch("replay", str(section.metafile), "--config", str(rig.config()))
    assert said.returncode == 1
    assert f"applied     {section.metafile}: a person: its quality verdict keeps its stacks open" in said.stdout
