"""The causal depthwise convolution: public op in api, oracle in reference, fast paths beside it."""
