"""The delta rule without decay: public op in api, oracle in reference; the fast paths are those of gated_delta_rule."""
