"""Extracting level 0 from an MRC file into a TIFF, since render-ws reads no MRC files."""

from handlers.container import Container
from handlers.errors import reading_fault
from handlers.images.digest import FileContent
from handlers.images.encode import PLAIN_TIFF
from handlers.images.mrc_section import read_section
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.kept_levels import digest_of
from handlers.stores.choose import store_of


def extract_level0(job: MipmapJob) -> FileContent:
    """Write level 0 of a job unless it already exists. Return the MRC file's identity and the digest of level 0.

    Raises
    ------
    Fault
        As `read_section` and `LevelStore.put`.
    """
    assert job.stack is not None
    page, content = read_section(job.stack, (job.width, job.height), container_here(job.root))
    if digest_of(job.level0) != content.digest:
        store = store_of(job.level0, job.container, job.sharing)
        store.put(0, job.level0, page, PLAIN_TIFF)
        store.sync([job.level0])
    return content


def container_here(directory: Container | None) -> Container | None:
    """Return a container as this machine resolves it; None stays None. Raises StorageFault."""
    if directory is None:
        return None
    try:
        return directory.here()
    except OSError as error:
        raise reading_fault(str(directory.path), "access the watched directory", error) from error
