"""The optimizer: problem data, QP assembly, solvers, exactness, independent replay, reasons. No I/O."""
