"""Behind bench_kernels.py: what a rule costs at least (`floors`), other projects' rules (`peers`), compilers' figures (`static`)."""
