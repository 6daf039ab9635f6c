"""The paper's equations as plain loops over Python numbers: slow, obvious, and sharing nothing with ``src``."""

import math
from collections.abc import Mapping, Sequence


def distance(b_i: Mapping[str, Sequence[float]], b_j: Mapping[str, Sequence[float]]) -> float:
    """d(i, j) = 1/|L| sum over modules of (1 - cos); 0 between two zero vectors, 1 between zero and non-zero."""
    total = 0.0
    for module in b_i:
        u, v = list(map(float, b_i[module])), list(map(float, b_j[module]))
        norm_u, norm_v = math.hypot(*u), math.hypot(*v)
        if norm_u == 0 and norm_v == 0:
            continue
        if norm_u == 0 or norm_v == 0:
            total += 1.0
            continue
        dot = 0.0
        for x, y in zip(u, v, strict=True):
            dot += (x / norm_u) * (y / norm_v)
        total += 1 - dot
    return total / len(b_i)


def average_linkage(d: Sequence[Sequence[float]], k: int) -> list[set[int]]:
    """Merges the two clusters with the smallest mean pairwise distance until k are left."""
    clusters = [{i} for i in range(len(d))]
    while len(clusters) > k:
        best = None
        for a in range(len(clusters)):
            for b in range(a + 1, len(clusters)):
                pairs = [d[i][j] for i in clusters[a] for j in clusters[b]]
                mean = sum(pairs) / len(pairs)
                if best is None or mean < best[0]:
                    best = (mean, a, b)
        assert best is not None
        _, a, b = best
        clusters[a] |= clusters.pop(b)
    return clusters


def silhouette(d: Sequence[Sequence[float]], clusters: Sequence[set[int]]) -> float:
    """Mean over points of (b - a) / max(a, b); 0 for a point that is alone in its cluster."""
    total = 0.0
    for cluster in clusters:
        for i in cluster:
            if len(cluster) == 1:
                continue
            a = sum(d[i][j] for j in cluster if j != i) / (len(cluster) - 1)
            b = min(sum(d[i][j] for j in other) / len(other) for other in clusters if other is not cluster)
            if max(a, b) > 0:
                total += (b - a) / max(a, b)
    return total / len(d)


def weights(
    logits: Sequence[float], own: int, num_experts: int, *, renormalise: bool = True, top_k: int | None = None
) -> list[float]:
    """One token: softmax over 2M - 1 slots, the ``top_k`` largest kept (lower slot first), summed per expert."""
    top = max(logits)
    raw = [math.exp(logit - top) for logit in logits]
    p = [value / sum(raw) for value in raw]
    kept = sorted(range(len(logits)), key=lambda slot: (-logits[slot], slot))[: top_k or num_experts]
    others = [expert for expert in range(num_experts) if expert != own]
    result = [0.0] * num_experts
    for slot in kept:
        expert = own if slot < num_experts else others[slot - num_experts]
        result[expert] += p[slot]
    if renormalise:
        # From the logits of the kept slots alone, so that kept values that underflow in p still share weight 1.
        top = max(logits[slot] for slot in kept)
        scale = sum(math.exp(logits[slot] - top) for slot in kept)
        result = [0.0] * num_experts
        for slot in kept:
            expert = own if slot < num_experts else others[slot - num_experts]
            result[expert] += math.exp(logits[slot] - top) / scale
    return result
