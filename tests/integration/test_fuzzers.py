"""The fuzzers: some inputs of each pass, and planted faults are found."""

import importlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import Fault
from tests.fuzz.__main__ import FUZZERS, fuzz, main
from tests.fuzz.fuzzer import Fuzzer, Run, run
from tests.fuzz.planted import OpenCheck, crash, draw_number, end, fail, fail_at_large_numbers, hang, take_memory

INPUTS = 40
INPUTS_FOR_A_FINDING = 500
"""Inputs within which a planted fault is found."""


def try_some(fuzzer: Fuzzer, place: Path, inputs: int = INPUTS) -> None:
    with fuzzer.open_check(place) as check:
        for seed in range(inputs):
            check(fuzzer.draw(random.Random(seed)))


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged images
@pytest.mark.parametrize("name", FUZZERS)
def test_some_inputs_of_each_fuzzer_pass(name, tmp_path):
    try_some(FUZZERS[name], tmp_path)


@pytest.mark.parametrize("name", FUZZERS)
def test_the_same_seed_draws_the_same_input(name):
    draw = FUZZERS[name].draw
    drawn = [draw(random.Random(seed)) for seed in range(INPUTS)]
    assert drawn == [draw(random.Random(seed)) for seed in range(INPUTS)]
    assert len(set(drawn)) > INPUTS / 2


PLANTED = {
    "images": "handlers.mipmaps.make.open_level0",
    "served": "handlers.images.served_level0.fetch_level0",
    "metafiles": "handlers.acquisition.formats.pytemca.parse_metafile",
    "answers": "handlers.render.layer_responses._checked",
    "requests": "daemon.web.parameters.states_of",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUZZERS)
def test_an_unexpected_exception_in_place_of_a_refusal_is_found(name, tmp_path, monkeypatch):
    def planted(*arguments: Any, **options: Any) -> Any:
        raise KeyError("planted")

    def fails_where_refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return real(*arguments, **options)
            except (Fault, ValueError):
                raise KeyError("planted") from None

        return call

    module, _, function = PLANTED[name].rpartition(".")
    real = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(PLANTED[name], planted if name == "requests" else fails_where_refused(real))
    with pytest.raises((KeyError, AssertionError)):
        try_some(FUZZERS[name], tmp_path, INPUTS_FOR_A_FINDING)


@pytest.mark.parametrize("check", [crash, fail, take_memory, hang, end])
def test_every_kind_of_failure_is_a_finding(check):
    outcome = run(Fuzzer("planted", draw_number, OpenCheck(check)), Run(7, 5, None, timeout_s=1.0))
    assert outcome.exit_code != 0
    assert (outcome.tried, outcome.last) == (1, ("planted-7", draw_number(random.Random(7))))


def test_a_finding_is_printed_and_kept_and_can_be_tried_again(tmp_path, capfd):
    fuzzer, output = Fuzzer("planted", draw_number, OpenCheck(fail_at_large_numbers)), tmp_path / "output"
    thousand = Run(0, 1000, None)
    assert not fuzz(fuzzer, thousand, output)
    (kept,) = output.glob("planted-*.input")
    seed = int(kept.stem.rpartition("-")[2])
    assert kept.read_bytes() == draw_number(random.Random(seed))
    assert f"seed    {seed}\n" in (printed := capfd.readouterr().out)
    assert f"input   {kept}\n" in printed
    assert (output / "seeds").read_text().endswith(" planted 0\n")
    assert not fuzz(fuzzer, replace(thousand, first_seed=seed, count=1), output)
    assert not fuzz(fuzzer, Run(0, 0, None, (kept,)), output)
    assert f"{kept.stem}\n" in capfd.readouterr().out


@pytest.mark.slow
def test_the_command_tries_one_seed_and_ends_with_0(tmp_path, capfd):
    assert main(["metafiles", "--seed", "7", "--output", str(tmp_path)]) == 0
    assert "metafiles: from seed 7 on\nmetafiles: tried 1, no finding\n" in capfd.readouterr().out


def test_a_run_ends_after_its_time():
    outcome = run(Fuzzer("planted", draw_number, OpenCheck(len)), Run(0, None, 0.05))
    assert outcome.exit_code == 0
    assert outcome.tried > 0
