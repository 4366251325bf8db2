"""What makes a root of a gateway: its leaves, and what asks them."""

from typing import Any

from serving.gateway import wire
from serving.gateway.config import GatewayConfig
from serving.leaves import messages
from serving.leaves.client import GrpcLeaf
from serving.release.share import Share
from serving.search.fanout import FanOut
from serving.search.fanout_retrieval import FanOutRetrieval
from serving.search.forwarded_updates import ForwardedUpdates
from serving.search.gathering_leaf import GatheringLeaf
from serving.search.held import Held
from serving.search.replicated_leaf import Hedging, ReplicatedLeaf
from serving.security.tls import leaf_credentials, leaf_token
from serving.telemetry.fanout_metrics import FanOutMetrics
from serving.telemetry.query_metrics import MeteredRetrieval


class MeteredFanOutRetrieval(MeteredRetrieval, FanOutRetrieval):
    """A root's retrieval that counts what it does."""


class Root:
    """The leaves of a root, by its options. Belongs to an event loop. metrics: of the calls to them."""

    def __init__(self, config: GatewayConfig, interceptors: Any = ()) -> None:
        """interceptors: of the channels to leaves. Raises ConfigError for files that can't be used."""
        options = config.fan_out
        shares = [Share(number, len(options.leaves)) for number in range(len(options.leaves))]
        self.metrics = FanOutMetrics(shares)
        self._takes_updates = config.takes_updates
        self._poll_seconds = options.leaf_poll_seconds
        self._clients: list[GrpcLeaf] = []
        leaves = []
        for share, addresses in zip(shares, options.leaves, strict=True):
            clients = [
                GrpcLeaf(
                    address,
                    share,
                    # Each has its own, to see for itself that they have changed.
                    credentials=leaf_credentials(config.security),
                    token=leaf_token(config.security),
                    interceptors=interceptors,
                )
                for address in addresses.split(",")
            ]
            self._clients += clients
            names = [f"{share} at {address}" for address in addresses.split(",")]
            leaves.append(
                ReplicatedLeaf(
                    share,
                    list(zip(names, map(GatheringLeaf, clients), strict=True)),
                    seconds=options.leaf_seconds,
                    failures=options.leaf_failures,
                    pause=options.leaf_pause_seconds,
                    hedging=Hedging(options.hedge_percentile, options.hedge_share),
                    told=self.metrics.called,
                )
            )
        self.fan_out = FanOut(
            leaves,
            seconds=options.leaf_seconds,
            min_coverage=options.min_coverage,
            covered=self.metrics.covered,
        )
        self.metrics.watch(self.fan_out)

    def retrieval(self, *arguments: Any, **options: Any) -> MeteredFanOutRetrieval:
        """Returns what answers queries from the leaves. arguments, options: those of MeteredRetrieval."""
        return MeteredFanOutRetrieval(
            *arguments, **options, fan_out=self.fan_out, content_of=messages.content_of, finish=wire.item
        )

    def updates(self, held: Held) -> ForwardedUpdates:
        """Returns what takes updates, if they are taken, to the leaves."""
        return ForwardedUpdates(held, self.fan_out, allowed=self._takes_updates)

    async def watch(self) -> None:
        """Looks at the leaves until cancelled."""
        await self.fan_out.watch(self._poll_seconds)

    async def close(self) -> None:
        """Closes the channels."""
        for client in self._clients:
            await client.close()
