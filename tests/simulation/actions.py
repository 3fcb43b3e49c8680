"""Actions of a scenario, and how they are drawn from its seed."""

import json
import random
from dataclasses import asdict, dataclass
from typing import Any

from tests.simulation.sections import FEWER, VERSIONS


@dataclass(frozen=True, slots=True)
class Action:
    """One action, with its parameters."""

    at: float
    """Seconds after the start of the scenario."""
    kind: str
    """Name of the method of `Scenario` that performs it, without the underscore."""
    slot: int = 0
    """Index of the section."""
    version: int = 0
    """Version of the content that the section gets."""
    how: str = ""
    """Variant of the action."""
    seconds: float = 0.0
    """Duration, or a pause within the action."""
    number: int = 0
    """Index of a tile or of a stack, a number of requests or images, or a second version."""

    def __str__(self) -> str:
        values = {key: value for key, value in asdict(self).items() if value and key not in ("at", "kind")}
        return f"{self.at:7.2f} s  {self.kind} " + " ".join(f"{key}={value}" for key, value in values.items())

    def to_json(self) -> dict[str, Any]:
        """The action as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario, except for the order of its tasks."""

    slots: int
    """Number of sections."""
    settings: dict[str, Any]
    """Settings that differ from the defaults of the simulation."""
    actions: tuple[Action, ...]

    def only(self, chosen: list[int]) -> "Plan":
        """Return the plan with some of its actions, by their indices."""
        return Plan(self.slots, self.settings, tuple(self.actions[index] for index in chosen))

    def __str__(self) -> str:
        lines = [f"{index:3}  {action}" for index, action in enumerate(self.actions)]
        return "\n".join([f"sections {self.slots}, settings {json.dumps(self.settings)}", *lines])


_ARRIVALS = ("images first", "images first", "metafile first", "slow", "one late", "one cut")
_STEPS = ("ingest", "mipmaps", "apply")
_STACKS = 2
_FAULTS = ("500", "503", "504", "refuse", "stall", "slow", "late", "lost")
_REQUESTS = (
    ".",
    "^PUT .*resolvedTiles",
    "^PUT .*state/COMPLETE",
    "^PUT .*state/LOADING",
    "^GET .*tileBounds",
    "^GET .*resolvedTiles",
    "^DELETE ",
    "^POST ",
)


class _Draw:
    """Draws actions."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.slots = rng.randint(1, 4)
        self._slot = 0
        self._weights = self._draw_weights()

    def _draw_weights(self) -> dict[str, float]:
        """Draw the weight of each kind of action, so that kinds are frequent, rare or absent in a scenario."""
        usual = {
            "arrive": 6.0,
            "rewrite": 5.0,
            "back_and_forth": 3.0,
            "copy_again": 3.0,
            "rename": 2.5,
            "rename_file": 1.5,
            "move_away": 1.5,
            "delete": 1.5,
            "touch": 1.0,
            "rewrite_images": 1.0,
            "unmount": 1.0,
            "duplicate": 1.0,
            "arrive_damaged": 2.5,
            "fail_requests": 3.0,
            "go_down": 2.0,
            "lock": 1.5,
            "delete_tile": 1.5,
            "close": 1.0,
            "delete_stack": 0.7,
            "fill_disk": 2.0,
            "stop": 1.5,
            "crash": 2.5,
            "kill_workers": 0.7,
            "replay": 2.0,
            "reload": 0.7,
            "hold_journal": 0.7,
        }
        return {kind: weight * self._rng.choice((0, 0.5, 1, 1, 3)) for kind, weight in usual.items()}

    def action(self, at: float) -> Action:
        """Draw an action at a time."""
        kinds, weights = zip(*self._weights.items(), strict=True)
        if not any(weights):
            weights = (1.0,) * len(kinds)
        kind = self._rng.choices(kinds, weights)[0]
        if self._rng.random() < 0.4:
            self._slot = self._rng.randrange(self.slots)
        slot = self._slot
        return getattr(self, f"_{kind}", self._plain)(at, kind, slot)

    def _seconds(self, *bounds: float) -> float:
        """Draw seconds up to one of the bounds, rounded to 0.01."""
        return round(self._rng.random() * self._rng.choice(bounds), 2)

    def _plain(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot)

    def _arrive(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(_ARRIVALS)
        return Action(at, kind, slot, self._version(), how, self._seconds(1, 6, 6, 60))

    def _rewrite(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(("in place", "replaced", "slow"))
        return Action(at, kind, slot, self._version(), how, self._seconds(0.5, 3))

    def _back_and_forth(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(("in place", "replaced"))
        return Action(at, kind, slot, self._version(), how, self._seconds(0.3, 2, 8), self._version())

    def _copy_again(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot, how=self._rng.choice(("in place", "replaced")))

    def _rewrite_images(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(("in place", "replaced"))
        return Action(at, kind, slot, self._version(), how, number=self._rng.choice((1, 3)))

    def _unmount(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, how=self._rng.choice(("acquisition", "mipmaps")), seconds=self._seconds(2, 15))

    def _move_away(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot, seconds=self._seconds(1, 5, 80))

    def _duplicate(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(("beside", "elsewhere", "link"))
        return Action(at, kind, slot, how=how, seconds=self._rng.choice((0.0, self._seconds(3, 30))))

    def _delete(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot, how=self._rng.choice(("metafile", "all")))

    def _arrive_damaged(self, at: float, kind: str, slot: int) -> Action:
        how = self._rng.choice(("missing", "cut", "other size"))
        return Action(at, kind, slot, self._version(), how, self._seconds(10, 100, 200), self._rng.randrange(2))

    def _fail_requests(self, at: float, kind: str, slot: int) -> Action:
        how = f"{self._rng.choice(_FAULTS)} {self._rng.choice(_REQUESTS)}"
        return Action(at, kind, 0, 0, how, self._seconds(1, 6, 30), self._rng.choice((1, 1, 2, 5, 0)))

    def _go_down(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, seconds=self._seconds(1, 10, 60))

    def _lock(self, at: float, kind: str, slot: int) -> Action:
        seconds = self._rng.choice((0.0, self._seconds(3, 20)))
        return Action(at, kind, seconds=seconds, number=self._rng.randrange(_STACKS))

    def _delete_tile(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot, how=self._rng.choice(("0", "1")), number=self._rng.randrange(_STACKS))

    def _close(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, number=self._rng.randrange(_STACKS))

    def _delete_stack(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, number=self._rng.randrange(_STACKS))

    def _fill_disk(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, seconds=self._rng.choice((1.5, 4.0, self._seconds(20))))

    def _stop(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, seconds=self._seconds(0.5, 5))

    def _crash(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, seconds=self._seconds(0.5, 5))

    def _replay(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, slot, how=self._rng.choice(_STEPS), number=self._rng.randrange(2))

    def _reload(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, how=self._rng.choice(("settle_s", "close_after_s")), seconds=self._seconds(2, 20))

    def _hold_journal(self, at: float, kind: str, slot: int) -> Action:
        return Action(at, kind, seconds=self._seconds(1, 8))

    def _version(self) -> int:
        return self._rng.choice((*range(VERSIONS), FEWER))


def draw(seed: int) -> Plan:
    """Draw the plan of a scenario."""
    rng = random.Random(f"plan {seed}")
    draw_one = _Draw(rng)
    settings = {
        "settle_s": rng.choice((0.2, 0.5, 2.0)),
        "arrival_timeout_s": rng.choice((15.0, 60.0)),
        "stacks.close_after_s": rng.choice((0.0, 1.0, 1.0, 5.0)),
        "stacks.close_at_latest_s": rng.choice((0.0, 0.5, 3.0, 900.0)),
        "stacks.in_place": rng.random() < 0.15,
        "mipmaps.apply": "path_builder" if rng.random() < 0.15 else "tiles",
    }
    at, actions = 0.5, []
    for slot in range(draw_one.slots):
        if rng.random() < 0.8:
            actions.append(Action(round(at, 2), "arrive", slot, rng.randrange(VERSIONS), "images first"))
            at += rng.random() * rng.choice((0.1, 3.0))
    for _ in range(rng.randint(2, 12)):
        at += rng.random() * rng.choice((0.1, 1.0, 1.0, 4.0, 20.0))
        actions.append(draw_one.action(round(at, 2)))
    return Plan(draw_one.slots, settings, tuple(actions))
