"""A name server for one name, as a headless Service has it: the addresses of the pods there are."""

import asyncio
import struct
from typing import Any

_HEADER = struct.Struct(">6H")
_A, _IN = 1, 1
_ANSWER, _NO_ERROR = 0x8000, 0x0400


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for A records with `addresses`, and other questions with nothing. Belongs to a loop."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked = 0
        self._transport: Any = None

    async def start(self) -> int:
        """Returns its UDP port."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    async def stop(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        number, flags = _HEADER.unpack_from(data)[:2]
        end = data.index(b"\0", _HEADER.size) + 5
        (kind,) = struct.unpack_from(">H", data, end - 4)
        found = self.addresses if kind == _A else []
        self.asked += kind == _A
        answer = _HEADER.pack(number, _ANSWER | _NO_ERROR | (flags & 0x0100), 1, len(found), 0, 0)
        answer += data[_HEADER.size : end]
        for address in found:
            # The name is that of the question; nothing is to be kept.
            answer += struct.pack(">HHHIH", 0xC000 | _HEADER.size, _A, _IN, 0, 4) + bytes(map(int, address.split(".")))
        self._transport.sendto(answer, addr)
