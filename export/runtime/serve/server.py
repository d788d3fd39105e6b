"""The listening end: accepts connections up to a number, and stops without dropping a request that was begun."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from export.runtime.errors import EnvironmentLacks, FactoryError, UsageError
from export.runtime.serve.connection import CHUNK, Answers, Connection, Limits, Shared

INSPECTING: Final = 2
_BACKLOG: Final = 256


class Server:
    """An HTTP service on one address; run it by ``serve``, or by ``start`` and ``stop`` inside a loop of one's own."""

    def __init__(self, answers: Answers, limits: Limits) -> None:
        self._inspecting = ThreadPoolExecutor(INSPECTING, thread_name_prefix="inspect")
        self._viewing = ThreadPoolExecutor(1, thread_name_prefix="view")
        self._shared = Shared(answers, limits, self._inspecting, self._viewing)
        self._open: dict[asyncio.Task[None], Connection] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port (for 0, the one that was free); raises FactoryError where that cannot be."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=CHUNK, backlog=_BACKLOG)
        except OSError as error:
            raise _not_listening(host, port, error) from error
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def stop(self) -> None:
        """Accept no more, answer what has begun, close everything."""
        self._shared.stopping = True
        for connection in self._open.values():
            connection.hasten()
        await asyncio.sleep(0)  # lets in who waits at the door
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(self._shared.limits.stopping_s)  # what was let in last is a connection by then
        if self._open:
            await asyncio.wait(self._open)  # each ends by its own limits
        self._inspecting.shutdown()
        self._viewing.shutdown()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, number, limit = asyncio.current_task(), len(self._open), self._shared.limits.connections
        connection = Connection(self._shared, reader, writer)
        if task is None or number >= 2 * limit:
            writer.transport.abort()
            return
        self._open[task] = connection
        try:
            await (connection.run() if number < limit else connection.turn_away())
        finally:
            del self._open[task]


def serve(answers: Answers, host: str, port: int, limits: Limits, ready: Callable[[int], None]) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code that a shell gives for it (143, 130).

    ``ready`` is called with the port once it listens. A second signal ends the process at once.
    Raises EnvironmentLacks for a port that is taken, UsageError for an address that this machine has not.
    """

    async def run() -> int:
        stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with _Signals(stopped):
            server = Server(answers, limits)
            ready(await server.start(host, port))
            number = await stopped
        await server.stop()
        return 128 + number

    return asyncio.run(run())


class _Signals:
    """Turns the first SIGTERM or SIGINT into a result, and gives the signals back behind it."""

    def __init__(self, stopped: asyncio.Future[int]) -> None:
        self._stopped = stopped
        self._loop = stopped.get_loop()

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._heard) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _: object) -> None:
        self._loop.call_soon_threadsafe(self._tell, number)

    def _tell(self, number: int) -> None:
        if not self._stopped.done():
            self._stopped.set_result(number)


def _not_listening(host: str, port: int, error: OSError) -> FactoryError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        fix = "Leave --host out to be reached from this machine alone, or name one of its addresses"
        return UsageError(f"cannot listen on {host}", expected="an address of this machine", found=host, fix=fix)
    taken = error.errno == errno.EADDRINUSE
    return EnvironmentLacks(
        f"cannot listen on port {port}",
        expected="a free port",
        found="another program's" if taken else error.strerror,
        fix="Name another by --port" + (", or end what listens there" if taken else ""),
    )
