"""When stacks are closed: not while they are written to, and once."""

from collections import Counter

from tests.acceptance.rig import running


def test_a_stack_is_closed_once_when_it_has_been_quiet_and_not_after_every_section(rig, write):
    rig.settings["watch.stacks.close_after_s"] = 5
    with running(rig):
        sections = [write(grid) for grid in (1050, 1051)]
        rig.wait_until("applied", *(section.metafile for section in sections))
        sections += [write(grid) for grid in (1052, 1053)]
        rig.wait_until("complete", *(section.metafile for section in sections))
        closed = Counter(asked["path"] for asked in rig.requests() if asked["path"].endswith("/state/COMPLETE"))
    assert sorted(closed.values()) == [1, 1], closed


def test_section_data_that_another_writer_is_deriving_fail_no_montage(running_rig, write):
    text = "section data not aggregated for stack s, set stack state to COMPLETE to generate the aggregate collection"
    running_rig.tell_standin(match="GET .*sectionData", kind="status", status=400, text=text, times=4)
    section = write()
    running_rig.wait_until("complete", section.metafile)
