"""Training on several devices or hosts, by `tf.distribute`."""

from typing import Any

import tensorflow as tf

STRATEGIES = {
    "": tf.distribute.get_strategy,
    # All GPUs of this host.
    "mirrored": tf.distribute.MirroredStrategy,
    # All hosts that TF_CONFIG names; the same run_fn runs on each.
    "multi_worker": tf.distribute.MultiWorkerMirroredStrategy,
}


def open_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy `training.strategy` names; `multi_worker` waits for the other hosts."""
    return STRATEGIES[name]()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes what all have trained."""
    resolver: Any = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().jobs:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0))
