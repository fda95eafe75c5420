"""Learning to imitate (after Behrouz et al., arXiv 2606.03979): a dream is begun, and who completes it as its teacher did is made likelier.

    r = γ · [all that was to be said is] + (1 − γ) · (1 − Lev / longer, 0 beyond half of the dream)
    loss = −mean_{B, G} A · mean_t log π(word_t),   A = r − mean_G r

The prefix ends after 1 … |d| − 1 words, each as likely; the paper does not give its law, nor γ, nor where the distance no longer counts. There a frozen model judges
whether both mean the same; here both are facts, and mean the same where they are the same. Letters: B dreams, G completions of each, n words of one.
"""
import jax
import jax.numpy as jnp
from flax import nnx

from sleepnet import decode
from sleepnet.methods.base import Problem
from sleepnet.methods.rl import advantages, rewards
from sleepnet.tasks.base import PAD


def reward(said_BxGxn: jax.Array, dream_Bxn: jax.Array, begun_B: jax.Array, gamma: float) -> jax.Array:
    """r of completions, [B, G] float32.

    Args:
      said_BxGxn: int32, whole dreams, PAD behind END; the first `begun_B` words of each are the dream's own and do not count.
      dream_Bxn: int32, as the teacher said it.
      begun_B: int32, from 0.
      gamma: γ, from 0 to 1.
    """
    behind = lambda words, begun: jnp.take_along_axis(jnp.pad(words, ((0, 0), (0, words.shape[-1]))), begun[:, None] + jnp.arange(words.shape[-1], dtype=jnp.int32)[None], axis=-1)
    B, G, n = said_BxGxn.shape
    rest = behind(dream_Bxn, begun_B)
    said = behind(said_BxGxn.reshape(B * G, n), jnp.repeat(begun_B, G)).reshape(B, G, n)
    length = lambda words: jnp.sum((words != PAD).astype(jnp.int32), axis=-1)
    near = rewards.levenshtein(said, length(said), rest, length(rest))
    apart = jnp.round((1 - near) * jnp.maximum(length(said), length(rest)[:, None]).astype(jnp.float32))
    near = jnp.where(apart <= jnp.ceil(length(dream_Bxn).astype(jnp.float32) / 2)[:, None], near, 0.0)
    return gamma * rewards.exact(said, rest) + (1 - gamma) * near


def completed(
    problem: Problem, params, key: jax.Array, words_Bxn: jax.Array, valid_Bxn: jax.Array, completions: int, gamma: float, law: decode.Law,
) -> tuple[dict[str, jax.Array], jax.Array]:  # fmt: skip
    """What the loss reads, rows first, and each row's mean reward, [B] float32. Dreams of fewer than two words are begun with none, and have no loss."""
    task, (B, n), G = problem.task, words_Bxn.shape, completions
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(B, dtype=jnp.uint32))
    length = jnp.sum(valid_Bxn.astype(jnp.int32), axis=1)
    begun = jax.vmap(lambda key, most: jax.random.randint(key, (), 1, jnp.maximum(most, 2), jnp.int32))(keys, length)
    place = jnp.arange(n, dtype=jnp.int32)[None]
    dream = jnp.where(valid_Bxn, words_Bxn, PAD)
    each = lambda values: jnp.repeat(values, G, axis=0)
    forced = each(jnp.where(place < begun[:, None], dream, decode.FREE))
    own = jax.vmap(lambda key, at: jax.random.fold_in(key, at))(each(keys), jnp.tile(jnp.arange(1, G + 1, dtype=jnp.uint32), B))
    asks = jnp.full((B * G,), task.ask, jnp.int32)
    said = decode.write(
        problem.graph, params, nnx.merge(problem.graph, params).init_state(B * G), asks, own, at=0, steps=n, law=law, stop=(task.end,), forced_BxT=forced
    )  # fmt: skip
    spoken, drawn = jnp.maximum(said.tokens, 0), said.valid & (place >= each(begun)[:, None])
    r = reward(spoken.reshape(B, G, n), dream, begun, gamma)
    better = advantages.group_normalised(r, jnp.broadcast_to((length > 1)[:, None], r.shape), scale="none")
    many = jnp.maximum(jnp.sum(drawn.astype(jnp.float32), axis=1), 1.0)
    weights = jnp.where(drawn, (better.reshape(-1) / many)[:, None], 0.0) / (B * G)
    read = jnp.concatenate([asks[:, None], spoken[:, :-1]], axis=1)
    by_row = lambda values: values.reshape(B, G, n)
    return {"imitated": by_row(read), "imitations": by_row(spoken), "imitation_weights": by_row(weights)}, jnp.mean(r, axis=1)


def loss(problem: Problem, params, batch) -> jax.Array:
    """This part's share: −Σ weights · log π, float32."""
    tokens, words, weights = (batch[key].reshape(-1, batch[key].shape[-1]) for key in ("imitated", "imitations", "imitation_weights"))
    logits = decode.read(problem.graph, params, nnx.merge(problem.graph, params).init_state(tokens.shape[0]), tokens, at=0)[0]
    said = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), words[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(weights != 0, weights * said, 0.0))
