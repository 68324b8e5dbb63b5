"""Records of options of the heads: what is imported here, a `type` can name."""

# ruff: noqa: F401
from vidgraph.models.baselines import (
    ConvLSTMOptions,
    EvidenceOptions,
    MeanLSTMOptions,
    PooledOptions,
)
from vidgraph.models.probes import (
    AttentiveProbeOptions,
    StatisticsOptions,
    TemporalTransformerOptions,
)
from vidgraph.models.rstg_heads import RSTGHeadOptions
from vidgraph.models.strg import STRGOptions
from vidgraph.models.two_stream import SegmentsOptions
