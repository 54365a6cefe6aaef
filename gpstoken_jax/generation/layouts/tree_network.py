"""A distribution over partitions: a network that goes through the squares, the largest first.

For each square that occurs, the network gives a probability to each of the eight patterns, knowing
the class, the patterns of all squares before it, and how many regions are still to be shared out;
patterns after which that number could not come out exactly have probability 0. The product over
the squares is the probability of the partition, given its class and its number of regions L. So
every partition that can be drawn is valid and has exactly L regions, every valid one can be drawn,
and the probabilities of all add up to 1.

Training maximises the probability of real partitions, all squares at once; sampling takes one
square after the other and keeps the keys and values of the attention.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gpstoken_jax.generation.layouts.split_tree import NUM_PATTERNS, SplitTree, Turn, walk
from gpstoken_jax.model.transformer import Block

Params = Any
_ABSENT = NUM_PATTERNS  # in place of the pattern of a square that does not occur


class TreeNetwork(nn.Module):
    """Log-probabilities of the patterns of squares.

    Attributes:
      tree: the squares.
      num_classes: real classes; the class ``num_classes`` is none.
      width: of the transformer.
      depth: blocks.
      num_heads: attention heads.
      dropout: share of a block's output that training drops.
    """

    tree: SplitTree
    num_classes: int
    width: int
    depth: int
    num_heads: int
    dropout: float = 0.0

    def setup(self) -> None:
        """Creates the layers."""
        self.place = nn.Dense(self.width)
        self.place_before = nn.Dense(self.width)
        self.above = nn.Embed(NUM_PATTERNS + 1, self.width)
        self.before = nn.Embed(NUM_PATTERNS + 1, self.width)
        self.label = nn.Embed(self.num_classes + 1, self.width)
        self.budget = nn.Sequential([nn.Dense(self.width), nn.gelu, nn.Dense(self.width)])
        options = {"causal": True, "dropout": self.dropout, "norm_eps": 1e-6}
        self.blocks = [Block(self.num_heads, **options) for _ in range(self.depth)]
        self.norm = nn.LayerNorm()
        # At the start, all allowed patterns are equally likely.
        self.head = nn.Dense(NUM_PATTERNS, kernel_init=nn.initializers.zeros)

    def __call__(
        self,
        patterns: Int[Array, "b q"],
        labels: Int[Array, "b"],
        num_regions: Int[Array, "b"],
        *,
        train: bool = False,
    ) -> Float[Array, "b q 8"]:
        """Of all squares of finished partitions, each knowing those before it.

        Args:
          patterns: as ``SplitTree.encode`` gives them.
          labels: 0 .. num_classes - 1, or num_classes for none.
          num_regions: L of each partition.
          train: with dropout, of the ``dropout`` random stream.

        Returns:
          log-probabilities; of squares that do not occur, to be left out of the sum.
        """
        tree = self.tree
        occurs = tree.occurs(patterns)
        seen = jnp.where(occurs, patterns, _ABSENT)
        before = jnp.concatenate([jnp.full_like(seen[:, :1], _ABSENT), seen[:, :-1]], axis=1)
        squares = np.arange(tree.num_squares)
        above = jnp.where(occurs & (squares > 0), patterns[:, tree.parent], _ABSENT)
        remaining, pending = tree.budget(patterns, num_regions)
        budget = _budget_features(remaining, pending, tree.capacity, tree.max_regions)
        x = self._embed(squares, before, above, budget) + self.label(labels)[:, None]
        for block in self.blocks:
            x, _ = block(x, train=train)
        allowed = tree.allowed(remaining, pending, jnp.asarray(tree.quarter_capacity))
        return _masked_log_softmax(self.head(self.norm(x)), allowed)

    def turn(
        self, turn: Turn, before: Int[Array, "b"], labels: Int[Array, "b"], caches: list
    ) -> tuple[list, Float[Array, "b 8"]]:
        """Of one square while a batch of partitions is drawn.

        Args:
          turn: what is known of it.
          before: the pattern of the square before it.
          labels: as above.
            caches: zeros at first, then as the last call gave them.

        Returns:
          caches and log-probabilities.
        """
        tree, square = self.tree, turn.square
        capacity = jnp.asarray(tree.capacity)[square]
        budget = _budget_features(turn.remaining, turn.pending, capacity, tree.max_regions)
        above = jnp.where(turn.occurs & (square > 0), turn.above, _ABSENT)
        x = (self._embed(square, before, above, budget) + self.label(labels))[:, None]
        filled = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block(x, None, cache, square)
            filled.append(cache)
        return filled, _masked_log_softmax(self.head(self.norm(x[:, 0])), turn.allowed)

    def _embed(self, square, before, above, budget):
        """Embeds the square, the patterns before and above it, and the budget."""
        places = jnp.asarray(_place_features(self.tree))
        place, place_before = places[square], places[jnp.maximum(square - 1, 0)]
        here = self.place(place) + self.place_before(place_before)
        return here + self.before(before) + self.above(above) + self.budget(budget)


def init_params(network: TreeNetwork, key: PRNGKeyArray) -> Params:
    """Random parameters, ``{"params": ...}``."""
    none = jnp.zeros((1, network.tree.num_squares), jnp.int32)
    return network.init(key, none, jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32))


def log_likelihood(
    network: TreeNetwork,
    params: Params,
    patterns: Int[Array, "b q"],
    labels: Int[Array, "b"],
    num_regions: Int[Array, "b"],
    **options: Any,
) -> Float[Array, "b"]:
    """Log-probability of each partition given its class and its number of regions, in nats.

    ``options`` are those of ``network.apply``.
    """
    log_probabilities = network.apply(params, patterns, labels, num_regions, **options)
    taken = jnp.take_along_axis(log_probabilities, patterns[..., None], axis=-1)[..., 0]
    return jnp.where(network.tree.occurs(patterns), taken, 0.0).sum(-1)


def draw(
    network: TreeNetwork,
    params: Params,
    keys: PRNGKeyArray,
    labels: Int[Array, "b"],
    num_regions: Int[Array, "b"],
    temperature: float = 1.0,
) -> Int[Array, "b q"]:
    """Patterns of one partition a key, from the network's distribution.

    Args:
      network: the network.
      params: its parameters.
      keys: [B], one a partition.
      labels: as the network takes them.
      num_regions: L of each, 1 to ``tree.max_regions``.
      temperature: divides the log-probabilities; below 1, likely patterns become likelier.
    """
    tree, batch = network.tree, len(labels)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (tree.num_squares, NUM_PATTERNS)))(keys)
    heads = network.num_heads
    empty = jnp.zeros((2, batch, tree.num_squares, heads, network.width // heads))

    def choose(state, turn):
        caches, before = state
        caches, log_probabilities = network.apply(
            params, turn, before, labels, caches, method="turn"
        )
        # The largest of the sums with Gumbel noise is a draw from the distribution.
        chosen = jnp.argmax(log_probabilities / temperature + noise[:, turn.square], axis=-1)
        return (caches, jnp.where(turn.occurs, chosen, _ABSENT)), chosen

    start = ([empty] * network.depth, jnp.full(batch, _ABSENT))
    return walk(tree, num_regions, choose, start)[1]


def _masked_log_softmax(logits: Array, allowed: Array) -> Array:
    return jax.nn.log_softmax(jnp.where(allowed, logits, -1e9), axis=-1)


def _place_features(tree: SplitTree) -> np.ndarray:
    """Place and size of each square, [Q, features]."""
    level = np.eye(tree.depth)[tree.level]
    centre = (tree.place + 0.5) / 2.0 ** tree.level[:, None]
    angles = np.pi * centre[:, :, None] * 2.0 ** np.arange(tree.depth)
    waves = [np.sin(angles), np.cos(angles)]
    parts = [level, *(wave.reshape(tree.num_squares, -1) for wave in waves)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _budget_features(remaining: Array, pending: Array, capacity: Array, most: int) -> Array:
    """Tokens left to share out, absolutely and against the most that can be, about 0 to 1."""
    remaining, pending = remaining.astype(jnp.float32), pending.astype(jnp.float32)
    room = jnp.maximum(pending + capacity, 1.0)
    share = remaining / room
    scale = np.log(float(most))
    parts = [share, jnp.sqrt(jnp.maximum(share, 0)), jnp.log1p(jnp.maximum(remaining, 0)) / scale]
    return jnp.stack([*parts, jnp.log(room) / scale], axis=-1)
