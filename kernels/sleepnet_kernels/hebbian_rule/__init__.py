"""The Hebbian rule without decay: linear attention: public op in api, oracle in reference; the fast paths are those of gated_hebbian_rule."""
