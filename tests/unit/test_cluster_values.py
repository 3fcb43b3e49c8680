"""The workers of a dask scheduler as values: reasons for not being ready, versions, paths, proofs of access."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.container import Container
from handlers.errors import SettingsFault
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.report import FaultReport, MadeLevel, MipmapReport
from handlers.mipmaps.tile_jobs import tile_job
from handlers.place import parse_object
from handlers.sharing import AS_MADE
from handlers.workers.cluster import on_worker
from handlers.workers.cluster.access import ClusterAccess, WorkerPath
from handlers.workers.cluster.connection import Connection
from handlers.workers.cluster.path_map import HostPaths, of_host
from handlers.workers.cluster.shared_directories import Ground, begin_proof, conclude_proof, end_proof, ground_of, prove
from handlers.workers.cluster.versions import differences, refusal
from handlers.workers.crew import WORKERLESS_S, Crew, Member

SCHEDULER = "tcp://scheduler:8786"
WITHOUT_FILES = Member("node8", 2, 0, "does not see /data/a.tif", is_usable=False)


class TestReasons:
    def test_an_unavailable_scheduler_is_a_reason_with_the_number_of_waiting_tiles(self) -> None:
        crew = Crew((), 7, SCHEDULER, f"{SCHEDULER} does not answer")
        assert list(crew.reasons()) == [
            f"the dask scheduler cannot be used: {SCHEDULER} does not answer; tiles waiting: 7"
        ]

    def test_refused_workers_are_a_warning_and_a_reason_if_tiles_wait_and_no_other_worker_is_usable(self) -> None:
        crew = Crew((WITHOUT_FILES,), 3, SCHEDULER)
        assert list(crew.reasons()) == [
            f"no worker of the dask scheduler {SCHEDULER} can make tiles, as on node8: does not see /data/a.tif"
        ]
        with_usable = replace(crew, members=(WITHOUT_FILES, Member("node7", 2, 1)))
        assert list(with_usable.reasons()) == []
        assert list(with_usable.warnings()) == ["workers on node8 get no tiles: does not see /data/a.tif"]
        assert list(replace(crew, tiles=0).reasons()) == []

    def test_a_cluster_without_workers_is_a_reason_after_five_minutes(self) -> None:
        crew = Crew((), 3, SCHEDULER, without_worker_s=WORKERLESS_S)
        assert list(crew.reasons()) == []
        assert list(replace(crew, without_worker_s=600.0).reasons()) == [
            f"the dask scheduler {SCHEDULER} has had no worker for 10 min; tiles waiting: 3"
        ]


class TestVersions:
    def test_another_patch_version_of_python_is_no_difference(self) -> None:
        here = {"python": "3.12.1", "distributed": "2025.1.0", "temwatch": "0.1.0"}
        other_patch = {**here, "python": "3.12.9"}
        assert differences(here, {"python": "3.12.4", "distributed": "2025.1.0"}, {"node7": other_patch}) == ""
        assert refusal(here, other_patch) == ""

    def test_the_scheduler_needs_no_temwatch(self) -> None:
        here, other = {"temwatch": "0.2.0"}, {"temwatch": "0.1.0"}
        assert differences(here, other, {"node7": here}) == ""
        assert differences(here, {}, {"node7": other}) == "temwatch is 0.2.0 here, 0.1.0 on node7"

    def test_hosts_with_the_same_other_version_are_listed_together(self) -> None:
        here = {"distributed": "2025.1.0"}
        other = {"distributed": "2024.11.0"}
        hosts = {f"node{number}": other for number in range(5)}
        assert differences(here, here, hosts) == (
            "distributed is 2025.1.0 here, 2024.11.0 on node0, node1, node2 and 2 more"
        )


NAMES = st.lists(st.sampled_from(["a", "a2", "a.tif", "b", "2", "-a", "é"]), max_size=4)
DIRECTORIES = NAMES.map(lambda names: Path("/", *names))
FILES = NAMES.map(lambda names: Path("/", *names, "c"))
PHRASES = st.sampled_from(["{}: is odd", "'{}'", "({}),", "in {}", "{}.", "[{}; {}]"])


class TestPaths:
    PATHS = of_host(
        [WorkerPath("node*", Path("/data"), Path("/mnt/em")), WorkerPath("*", Path("/data/mips"), Path("/scratch"))],
        ["node7"],
    )

    def test_a_job_gets_the_paths_of_the_host_and_its_report_those_of_the_daemon(self) -> None:
        job = MipmapJob("t", Path("/data/a.tif"), ((1, Path("/data/mips/1/a.tif")),), 8, 8)
        there = self.PATHS.job_to_worker(job)
        assert (there.level0, there.outputs) == (Path("/mnt/em/a.tif"), ((1, Path("/scratch/1/a.tif")),))
        fault = FaultReport("ImageFault", "/mnt/em/a.tif", "differs from /scratch/1/a.tif", "look at /mnt/em/b.tif")
        made = MadeLevel(1, Path("/scratch/1/a.tif"), 4, 4, "L", 16)
        report = MipmapReport("t", (made,), fault=fault, notes=("/mnt/em/a.tif is odd",))
        here = self.PATHS.report_to_local(report)
        assert here.made[0].path == Path("/data/mips/1/a.tif")
        assert here.fault == FaultReport(
            "ImageFault", "/data/a.tif", "differs from /data/mips/1/a.tif", "look at /data/b.tif"
        )
        assert here.notes == ("/data/a.tif is odd",)

    @given(
        st.lists(st.tuples(FILES | DIRECTORIES.filter(lambda path: path != Path("/")), PHRASES)),
        st.lists(st.tuples(DIRECTORIES, DIRECTORIES), unique_by=(lambda pair: pair[0], lambda pair: pair[1])),
    )
    def test_in_a_text_each_path_is_replaced_as_a_whole_or_not_at_all(
        self, quoted: list[tuple[Path, str]], pairs: list[tuple[Path, Path]]
    ) -> None:
        paths = HostPaths(tuple(pairs))
        text = " ".join(words.format(path, path) for path, words in quoted)
        here = " ".join(words.format(paths.to_local(path), paths.to_local(path)) for path, words in quoted)
        assert paths.text_to_local(text) == here

    @pytest.mark.parametrize(
        "text",
        [
            "/mnt/em2/a.tif",
            "/mnt/em.old/a.tif",
            "/old/mnt/em/a.tif",
            "nas:/mnt/em/a.tif",
            "s3://bucket/mnt/em/a.tif",
            "http://render/mnt/em/a.tif",
        ],
    )
    def test_a_longer_path_that_contains_a_directory_of_the_host_is_not_changed(self, text: str) -> None:
        assert self.PATHS.text_to_local(text) == text

    def test_a_worker_resolves_a_watched_directory_only_if_it_has_another_path(self) -> None:
        job = MipmapJob("t", Path("/data/a.tif"), ((1, Path("/data/mips/1/a.tif")),), 8, 8)
        moved = replace(job, root=Container(Path("/data"), Path("/disk"), "daemon"))
        assert self.PATHS.job_to_worker(moved).root == Container(Path("/mnt/em"), Path("/mnt/em"), "")
        same = replace(job, root=Container(Path("/other"), Path("/disk"), "daemon"))
        assert self.PATHS.job_to_worker(same).root == same.root

    def test_a_path_that_maps_back_to_another_path_is_refused(self) -> None:
        with pytest.raises(
            SettingsFault, match=r"/mnt/em/a.tif maps to /mnt/em/a.tif .* which maps back to /data/a.tif"
        ):
            self.PATHS.to_worker(Path("/mnt/em/a.tif"))


class TestProof:
    def test_a_worker_with_the_same_files_proves_it_and_the_proof_leaves_no_files(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        proof = prove(task, "node7-1")
        assert proof.problem == ""
        assert conclude_proof(task, proof) == ""
        end_proof(task, proof)
        assert list((tmp_path / "mips").iterdir()) == []

    def task(self, tmp_path: Path):  # type: ignore[no-untyped-def]
        level0 = tmp_path / "a.tif"
        level0.write_bytes(b"image")
        return begin_proof(Ground(tmp_path, tmp_path / "mips"), level0, "token", AS_MADE)

    def test_another_file_with_the_same_name_is_detected(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        (tmp_path / "a.tif").write_bytes(b"other")
        assert prove(task, "node7-1").problem == f"sees another file than the daemon at {tmp_path}/a.tif"

    def test_a_worker_whose_files_do_not_reach_the_daemon_is_detected(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        proof = prove(task, "node7-1")
        assert proof.reply is not None
        proof.reply.unlink()
        assert "do not reach the daemon" in conclude_proof(task, proof)

    def test_a_directory_that_a_worker_cannot_write_is_named(self, tmp_path: Path) -> None:
        task = self.task(tmp_path)
        assert task.token is not None
        (tmp_path / "mips" / f"{task.token.name}-node7-1").mkdir()
        assert prove(task, "node7-1").problem == f"cannot write to {tmp_path}/mips: File exists"

    async def test_a_mount_that_does_not_answer_is_named_and_does_not_hold_up_the_worker(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = threading.Event()
        monkeypatch.setattr(on_worker, "PROOF_TIMEOUT_S", 0.05)
        monkeypatch.setattr(on_worker, "prove", lambda task, name: answer.wait(60))
        try:
            found = await on_worker.introduce((self.task(tmp_path),), (), SimpleNamespace(metrics={}))
        finally:
            answer.set()
        assert found.proofs[0].problem == f"{tmp_path} or {tmp_path}/mips has not answered for 0.05 s"

    def test_jobs_of_a_watch_share_a_ground_and_other_work_has_none(self) -> None:
        job = MipmapJob("t", Path("/data/a.tif"), ((1, Path("/mips/1/a.tif")),), 8, 8)
        assert ground_of(job) == Ground(Path("/data"), Path("/mips/1"))
        for place in (Path("/mips"), parse_object("s3://em/mips")):
            tile = Level0("t", Path("/data/tape/section7/a.tif"), None, 8, 8)
            job = tile_job(tile, MipmapPlan(place), Container(Path("/data"), Path("/data")))
            assert ground_of(job) == Ground(Path("/data"), place)
        assert ground_of(7) is None


def test_dask_gives_a_task_to_no_other_workers_even_if_all_of_its_own_are_lost() -> None:
    given: list[dict[str, object]] = []
    client = SimpleNamespace(submit=lambda *_, **options: given.append(options))
    Connection(client, SCHEDULER).submit(len, b"", "tile", frozenset({"tcp://b:1", "tcp://a:1"}))
    (options,) = given
    assert (options["workers"], options["allow_other_workers"]) == (["tcp://a:1", "tcp://b:1"], False)


class TestAccess:
    def test_tls_files_require_a_tls_address_and_a_tls_address_requires_its_files(self) -> None:
        assert list(ClusterAccess(SCHEDULER, key_file=Path("/key.pem")).problems()) == [
            ("dask_key_file", "is only valid with an address that begins with tls://")
        ]
        ((key, problem),) = ClusterAccess("tpc://scheduler:8786").problems()
        assert (key, problem.split(":")[0]) == ("dask_scheduler", "'tpc' is not a protocol of dask")
        assert list(ClusterAccess("scheduler:8786").problems()) == []
        assert [key for key, _ in ClusterAccess("tls://scheduler:8786").problems()] == [
            "dask_ca_file",
            "dask_certificate_file",
        ]
