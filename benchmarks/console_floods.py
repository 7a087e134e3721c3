"""Measure how long the operator's e-stop takes while strangers flood the page.

``python benchmarks/console_floods.py [PRESSES] [FLOOD ...]`` starts the page, floods it from
another process on the same machine, and presses the e-stop: as a stranger, over a connection of its
own for each press, from the flood's address and from another, and on a page that has logged in.  A time is that of the whole request, whose
answer comes after the press is on the session's bus.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from zprl.server_limits import raise_open_files
from zprl.session.processes.console.access import Access, Secrets

HELD, BUSY = 1300, 50
"""Connections of a flood that only holds them, and of one that sends without a pause."""
GAP_S = 0.02


# -- the page --------------------------------------------------------------------------------------


def serve(secrets: Secrets) -> None:
    """Serve the page as its process does."""
    from tests import console_scene
    from zprl.session import bus
    from zprl.session.input_publisher import InputPublisher
    from zprl.session.messages import Beat
    from zprl.session.processes.console.process import prefer_answers
    from zprl.session.processes.console.serve import Console
    from zprl.session.processes.console.snapshot import ConsoleState

    raise_open_files()
    prefer_answers()
    shown, publisher = ConsoleState(), InputPublisher(bus.Bus(bus.make_folder(), "console", {}))
    with Console(shown, publisher.publish, access=Access(secrets)) as console:
        print(console.url, flush=True)
        for beat in itertools.count():
            time.sleep(0.02)
            publisher.flush()
            if beat % 10 == 0:
                publisher.beat(Beat(pages=console.pages), stopped=beat > 10)
                shown.publish(console_scene.snapshot())


# -- the floods ------------------------------------------------------------------------------------


def request(
    port: int, path: str, body: str = "", more: str = "", kind: str = "application/json"
) -> bytes:
    origin = f"127.0.0.1:{port}"
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: {origin}\r\nOrigin: http://{origin}\r\n{more}"
    return f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def stop(port: int, nonce: str, more: str = "") -> bytes:
    return request(port, "/input", json.dumps({"kind": "estop", "nonce": nonce}), more)


async def answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def hold(port: int, first: bytes) -> None:
    """Open a connection, send the beginning of a request, and wait; open it again when it is closed."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            await reader.read()
            writer.close()
        except OSError:
            await asyncio.sleep(0.05)


def whole(port: int, name: str, word: str) -> bytes:
    """Return a request of a flood that sends whole ones; ``word`` is another one each time."""
    match name:
        case "estops" | "new lines":
            return stop(port, word)
        case "logins":
            return request(
                port, "/login", f"token={word}", kind="application/x-www-form-urlencoded"
            )
        case "bearers":
            return request(port, "/stream", more=f"Authorization: Bearer {word}\r\n")
    return request(port, "/stream")


async def repeat(port: int, name: str, number: int) -> None:
    """Send one request after the other."""
    count = itertools.count()
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(whole(port, name, f"flood-{number}-{next(count)}"))
                await answer(reader)
                if name == "new lines":
                    writer.close()
                    break
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.01)


async def flood(name: str, port: int) -> None:
    begun = {
        "idle connections": b"",
        "half headers": b"POST /input HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "half bodies": stop(port, "half-body")[:-5],
    }
    if name in begun:
        await asyncio.gather(*(hold(port, begun[name]) for _ in range(HELD)))
    await asyncio.gather(*(repeat(port, name, number) for number in range(BUSY)))


# -- the operator ----------------------------------------------------------------------------------


async def press(port: int, presses: int, cookie: str, address: str) -> tuple[list[float], int]:
    """Press the e-stop; returns the times [s] and how often it did not get through at once."""
    times, failed, line = [], 0, None
    for number in range(presses):
        began = time.perf_counter()
        while True:
            try:
                line = (
                    line
                    if line and cookie
                    else await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                )
                line[1].write(stop(port, f"press-{number:06}", cookie))
                assert await asyncio.wait_for(answer(line[0]), 5) == 200
                break
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                line, failed = None, failed + 1
        times.append(time.perf_counter() - began)
        if not cookie:
            line[1].close()
        await asyncio.sleep(GAP_S)
    return times, failed


def measure(name: str, presses: int) -> None:
    secrets = Secrets.make()
    me = [sys.executable, __file__]
    with tempfile.TemporaryFile() as log:
        page = subprocess.Popen(
            [*me, "serve", secrets.model_dump_json()], stdout=subprocess.PIPE, stderr=log, text=True
        )
        port = int(page.stdout.readline().rsplit(":", 1)[1].strip("/\n"))
        flooder = subprocess.Popen([*me, "flood", name, str(port)]) if name != "nothing" else None
        time.sleep(3)
        access = Access(secrets)
        cookie = f"Cookie: {access.cookie}={access.cookie_for('anna')}\r\n"
        for who, header, address in (
            ("flood's address", "", "127.0.0.1"),
            ("stranger", "", "127.0.0.2"),
            ("logged in", cookie, "127.0.0.1"),
        ):
            times, failed = asyncio.run(press(port, presses, header, address))
            p50, p99 = 1000 * np.percentile(times, [50, 99])
            print(
                f"{name:18} {who:15} p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  longest {1000 * max(times):6.1f} ms  again {failed}",
                flush=True,
            )
        memory = Path(f"/proc/{page.pid}/status").read_text().split("VmRSS:")[1].split()[0]
        for process in (flooder, page):
            if process is not None:
                process.kill()
                process.wait()
        size = log.seek(0, 2) + len(page.stdout.read())
        print(f"{'':18} log {size} bytes, memory {int(memory) // 1024} MB", flush=True)


FLOODS = (
    "nothing",
    "idle connections",
    "half headers",
    "half bodies",
    "streams",
    "estops",
    "new lines",
    "logins",
    "bearers",
)


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(Secrets.model_validate_json(sys.argv[2]))
    elif sys.argv[1:2] == ["flood"]:
        asyncio.run(flood(sys.argv[2], int(sys.argv[3])))
    else:
        presses = int(sys.argv[1]) if len(sys.argv) > 1 else 300
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        for name in sys.argv[2:] or FLOODS:
            measure(name, presses)


if __name__ == "__main__":
    main()
