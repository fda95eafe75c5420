"""The gated delta rule with momentum: public op in api, oracle in reference, fast path beside it."""
