"""Groups of texts by their vectors: clusters, what they are about, and a map of them. Needs no torch."""

from limbeck.cluster.clustering import Cluster, Clustering, cluster
from limbeck.cluster.layout import layout

__all__ = ["Cluster", "Clustering", "cluster", "layout"]
