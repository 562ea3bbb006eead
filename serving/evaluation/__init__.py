"""Evaluation of policies: replay on the reference plant, scores, reports, promotion. See docs/evaluation.md."""
