"""Kimi Delta Attention's rule: public op in api, oracle in reference, fast path beside it."""
