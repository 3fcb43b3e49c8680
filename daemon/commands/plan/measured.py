"""Read the costs that `python -m benchmarks sustained` measured on the user's machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.commands.plan.costs import COSTS, Constant, Costs
from daemon.commands.plan.load import Facility, worker_cpu_s
from handlers.errors import SettingsFault
from handlers.regular_file import NotRegular, read_regular

MAX_BYTES = 16 * 2**20
HINT = "python -m benchmarks sustained writes such a file"


class _Facts(BaseModel):
    """The part of the file that is used."""

    model_config = ConfigDict(strict=True, frozen=True)

    cpu_s_per_tile: Mapping[str, float]
    megapixels: float = Field(gt=0, le=1e5)
    cores: int = Field(gt=0, le=100_000)
    own_share: float = Field(ge=0, le=1.5)
    idle_share: float = Field(ge=0, le=1.5)
    capacity_tiles_per_s: float = Field(gt=0, le=1e6)


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)

    facts: _Facts


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run of the whole daemon: 8-bit tiles, six levels, tif, images and levels on the same machine."""

    megapixels: float
    """Megapixels of a tile."""
    daemon_s: float
    """CPU of the daemon's own process for a tile, seconds."""
    workers_s: float
    """CPU of the workers for a tile, seconds."""
    others_s: float
    """CPU for a tile of the other processes, seconds: the stand-in for render-ws and the benchmark."""
    cores: float
    """Cores that other programs did not use."""
    tiles_per_s: float

    @property
    def facility(self) -> Facility:
        """A facility with square tiles of this size."""
        side = round(math.sqrt(self.megapixels * 1e6))
        return Facility(width=side, height=side)

    def costs(self, known: Costs = COSTS) -> Costs:
        """Return the known costs with the daemon's and the workers' costs of this run."""
        source = "the measured run that was given"
        scale = self.workers_s / worker_cpu_s(self.facility, known)
        return replace(
            known,
            daemon=Constant(1e3 * self.daemon_s, known.daemon.unit, known.daemon.meaning, source),
            workers=Constant(scale, known.workers.unit, known.workers.meaning, source),
        )

    def expected_tiles_per_s(self, costs: Costs) -> float:
        """Return the rate on this run's cores according to the costs, including the other processes."""
        return self.cores / (worker_cpu_s(self.facility, costs) + costs.daemon.value / 1e3 + self.others_s)


def read_run(path: Path) -> MeasuredRun:
    """Read a measured run. Raises SettingsFault."""
    subject = f"--measured {path}"
    try:
        content, status = read_regular(path, MAX_BYTES)
    except (OSError, NotRegular, ValueError) as error:
        problem = getattr(error, "problem", None) or getattr(error, "strerror", None) or str(error)
        raise SettingsFault(subject, f"cannot be read: {problem}", HINT) from None
    if status.st_size > MAX_BYTES:
        raise SettingsFault(subject, f"has {status.st_size} bytes, expected at most {MAX_BYTES}", HINT)
    try:
        facts = _Result.model_validate_json(content).facts
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsFault(subject, f"is not a measured run: {where}: {first['msg']}", HINT) from None
    return _run_of(facts, subject)


def _run_of(facts: _Facts, subject: str) -> MeasuredRun:
    cpu_s = {name: value for name, value in facts.cpu_s_per_tile.items() if not name.startswith("writing")}
    daemon_s, workers_s = cpu_s.pop("daemon", 0.0), cpu_s.pop("workers", 0.0)
    others_s = sum(cpu_s.values())
    cores = facts.cores * (facts.own_share + facts.idle_share)
    if not (0 < daemon_s < 1e3 and 0 < workers_s < 1e3 and 0 <= others_s < 1e3 and cores > 0):
        problem = "is not a measured run: CPU of the daemon and of the workers is expected above 0 s and below 1000 s"
        raise SettingsFault(subject, problem, HINT)
    return MeasuredRun(facts.megapixels, daemon_s, workers_s, others_s, cores, facts.capacity_tiles_per_s)
