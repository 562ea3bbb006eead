"""The lanes of core.lanes, by the name that this package's kernels know them."""

from core.lanes import (
    LANES,
    LANES_TYPE,
    LanesType,
    inverse,
    least,
    load,
    most,
    stage,
    store,
    whole_pass,
)

__all__ = ["LANES", "LANES_TYPE", "LanesType", "inverse", "least", "load", "most", "stage", "store", "whole_pass"]
