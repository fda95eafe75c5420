"""The gated hebbian rule: public op in api, oracle in reference, fast paths beside it."""
