"""Clustering of clients by their distances into k groups, and the silhouette of each clustering."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as build_linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from fedlease.core.choices import Clustering, Linkage

__all__ = ["best_k", "cuts", "silhouette", "spectral"]

Labels = NDArray[np.intp]


def cuts(d: Tensor, ks: Iterable[int], linkage: Linkage, clustering: Clustering) -> dict[int, Labels]:
    """k -> label of every client, (N,). A k that ties make impossible is left out.

    Args:
        d: (N, N) distances in [0, 2].
        ks: numbers of groups, each in 1 .. N.
        linkage: distance between two clusters; one tree is cut for every k.
        clustering: ``hierarchical``, or ``spectral`` on the similarities 1 - d / 2.
    """
    matrix = d.numpy()
    found = {}
    if clustering == "hierarchical" and len(matrix) > 1:
        tree = build_linkage(squareform(matrix, checks=False), method=linkage)
    for k in ks:
        if k in (1, len(matrix)):
            labels = np.arange(len(matrix)) if k > 1 else np.zeros(len(matrix), dtype=np.intp)
        elif clustering == "hierarchical":
            labels = fcluster(tree, t=k, criterion="maxclust")
        else:
            labels = spectral(1 - matrix / 2, k)
        if len(set(labels.tolist())) == k:
            found[k] = labels
    return found


def silhouette(d: Tensor, labels: Labels) -> float:
    """Mean silhouette over the clients, in [-1, 1]; 2 to N - 1 groups."""
    # scikit-learn takes a second or two to load, and only allocation needs it.
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(d.numpy(), labels, metric="precomputed"))


def spectral(similar: NDArray[np.float64], k: int) -> Labels:
    """Labels of k spectral clusters from similarities (N, N) of at least 0, without any randomness."""
    from sklearn.cluster import SpectralClustering

    found = SpectralClustering(k, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    labels: Labels = found.fit_predict(similar)
    return labels


def best_k(silhouettes: Mapping[int, float]) -> int | None:
    """The k with the largest silhouette, the smaller on a tie; None without silhouettes."""
    best: int | None = None
    for k in sorted(silhouettes):
        # A gain within rounding is a tie.
        if best is None or silhouettes[k] > silhouettes[best] + 1e-12:
            best = k
    return best
