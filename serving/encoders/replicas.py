"""The servers behind the encoder's address: how each is reached, and how gRPC takes them in turn."""

import asyncio
import json
import socket

_IPV4 = "ipv4:"
_DNS = "dns:"
# Where there are several: each in turn, but none that says that it is about to end, as our model server does.
_SPREAD = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "PredictionService"}}


def several(address: str) -> bool:
    """Returns whether the address may stand for several servers: dns:///NAME:PORT, or ipv4:HOST:PORT,HOST:PORT."""
    return address.startswith(_DNS) or "," in address


def channel_options(address: str) -> tuple[tuple[str, str | int], ...]:
    """Returns what a channel to the address needs beside what every channel has."""
    if not several(address):
        return ()
    return (
        ("grpc.service_config", json.dumps(_SPREAD)),
        # Servers come and go with every rollout; gRPC's own half minute is long for that.
        ("grpc.dns_min_time_between_resolutions_ms", 5000),
    )


def host_name(address: str) -> str:
    """Returns the name that the servers' certificates are for."""
    return address.rpartition("/")[2].rpartition(":")[0]


async def each(address: str) -> list[str]:
    """Returns the address of every server there is at the moment: none for a name that is not known (yet)."""
    if address.startswith(_IPV4):
        return [_IPV4 + one for one in address.removeprefix(_IPV4).split(",")]
    if not address.startswith(_DNS):
        return [address]
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    kinds = {socket.AF_INET: "ipv4:{}:{}", socket.AF_INET6: "ipv6:[{}]:{}"}
    return sorted({kinds[family].format(*where[:2]) for family, _, _, _, where in found if family in kinds})
