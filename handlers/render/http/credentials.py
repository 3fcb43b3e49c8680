"""The login that a client sends, and its renewal after the files with the secrets have been replaced."""

import asyncio

from handlers.render.http.access import Access, Login, read_login


class Credentials:
    """Login of one client.

    Parameters
    ----------
    authorization : value of the header Authorization from the address of render-ws.
    """

    def __init__(self, access: Access, authorization: str | None) -> None:
        self.access = access
        self._authorization = authorization
        self._turn = asyncio.Lock()
        self.now = Login()
        """The login to send; empty before `read`."""

    async def read(self) -> None:
        """Read the files. Raises SettingsFault."""
        self.now = await asyncio.to_thread(read_login, self.access, self._authorization)

    async def renewed(self, refused: Login) -> Login | None:
        """Return the login that replaces a refused login; None if no file has changed since it was read.

        Raises SettingsFault if a file has changed and cannot be used.
        """
        async with self._turn:
            if self.now is refused:
                if not await self.has_changed():
                    return None
                await self.read()
            return self.now

    async def has_changed(self) -> bool:
        """Whether a file has changed since it was read."""
        return await asyncio.to_thread(self.access.stamps) != self.now.stamps
