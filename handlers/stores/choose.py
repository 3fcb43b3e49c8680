"""Choosing the store for a place."""

from handlers.container import Container
from handlers.place import Bucket, ObjectPlace, Place
from handlers.sharing import AS_MADE, Sharing
from handlers.stores.level_store import LevelStore


def store_of(place: Place, container: Container | None = None, sharing: Sharing = AS_MADE) -> LevelStore:
    """Return the store of a place. Opens nothing.

    Parameters
    ----------
    container, sharing : see `DirectoryStore`; an object store has neither.
    """
    if isinstance(place, ObjectPlace):
        return object_store(place.bucket)
    from handlers.stores.directory import DirectoryStore

    return DirectoryStore(container, sharing)


def object_store(bucket: Bucket) -> LevelStore:
    """Return the store of a bucket. Opens nothing."""
    from handlers.stores.bucket import BucketStore  # imported only if levels are in an object store

    return BucketStore(bucket)
