"""Hostile images and metafiles take little memory and do not affect other montages."""

from pathlib import Path

from daemon.simulator.temca import write_section
from tests.acceptance.conftest import section_plan
from tests.acceptance.faults.cost import descendants, peak_mib
from tests.acceptance.rig import Rig
from tests.hostile_images import HOSTILE_IMAGES

MAX_MIB = 400
"""Limit of the peak memory of the daemon and of each worker. An idle daemon needs about 100 MiB."""


def test_hostile_input_fails_with_its_name_in_bounded_memory_and_other_montages_become_complete(rig: Rig) -> None:
    rig.settings |= {"watch.settle_s": 0.1, "watch.arrival_timeout_s": 3}
    hostile: dict[str, Path] = {}
    for number, make in enumerate(HOSTILE_IMAGES):
        section = write_section(section_plan(2000 + number), rig.acquisition / "hostile", pixels="flat")
        make(section.images[0])
        hostile[make.__name__] = section.metafile
    too_many_values = write_section(section_plan(2100), rig.acquisition / "hostile", pixels="flat").metafile
    lists = ",".join(["[]"] * 6_000_000)
    too_many_values.write_text(too_many_values.read_text().rstrip()[:-1] + f',{{"x":[{lists}]}}]')
    many_values = write_section(section_plan(3000), rig.acquisition / "good", pixels="flat").metafile
    many_values.write_text(many_values.read_text().rstrip()[:-1] + f',{{"x":[{lists[: len(lists) // 3]}]}}]')
    rig.start_standin()
    rig.start()
    rig.wait_until("failed", *hostile.values(), too_many_values, timeout_s=120)
    rig.wait_until("complete", many_values, timeout_s=60)
    for name, metafile in hostile.items():
        assert "should have" in rig.montage_of(metafile)["fault"]["problem"], name
    assert "at most 6,000,000 values" in rig.montage_of(too_many_values)["fault"]["problem"]
    daemon = rig.daemon.process.pid
    peaks = {pid: peak_mib(pid) for pid in (daemon, *descendants(daemon))}
    assert max(peaks.values()) < MAX_MIB, peaks
