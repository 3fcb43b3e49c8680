"""The import of dask's library, which would set up logging by its configuration files."""


def import_distributed() -> None:
    """Import distributed, and leave the log as it is. Blocking.

    A facility's /etc/dask/*.yaml may have a section `logging`: it would replace the handlers of the whole process, or
    disable its loggers.
    """
    import dask.config

    section = dask.config.config.get("distributed") or {}
    section = {key: value for key, value in section.items() if key != "logging-file-config"}
    dask.config.config["distributed"] = {**section, "logging": {}}
    import distributed  # noqa: F401
