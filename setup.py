"""Packaging of sleepnet: the library in sleepnet/ and its kernels in kernels/sleepnet_kernels/."""
from pathlib import Path

from setuptools import find_packages, setup

TEST = ["pytest>=8", "pytest-xdist>=3.5", "cellpylib==2.4.0", "networkx>=3", "sympy>=1.12"]

setup(
    name="sleepnet",
    version="0.1.0",
    description="Language models that sleep: hybrids that fold a full context window into fast weights offline.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["sleepnet", "sleepnet.*"]) + find_packages("kernels"),
    package_dir={"sleepnet_kernels": "kernels/sleepnet_kernels"},
    package_data={
        "sleepnet.models": ["checkpoints/*/*"],
        "sleepnet.hf": ["goldens/*/*"],
        "sleepnet_kernels": ["*/README.md", "*.json"],
    },
    # Upper bounds: every one of these has broken its users with a minor release before.
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.6,<0.14",
        "optax>=0.2.5,<0.4",
        "orbax-checkpoint>=0.11.20,<0.14",
        "einops>=0.8,<0.10",
        "tensorflow-datasets>=4.9.9,<5",
        "ml-collections>=1.0,<2",
        "absl-py>=2.1,<3",
        "grain>=0.2.12,<0.4",
        "matplotlib>=3.8,<4",
        "numpy>=2.0,<3",
        "rich>=13,<16",
        "safetensors>=0.5,<1",
        "scipy>=1.14,<2",
        "tensorboardX>=2.6,<3",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "aot-tpu": ["jax==0.10.2", "libtpu==0.0.42.*"],
        "aot-cuda": ["jax==0.10.2", "jax-cuda12-plugin==0.10.2", "jax-cuda12-pjrt==0.10.2", "nvidia-cuda-nvcc-cu12>=12.9,<13"],
        "cuda": ["jax[cuda12]>=0.10,<0.13"],
        "hf": ["tokenizers>=0.20,<1", "jinja2>=3.1,<4"],
        "test": TEST,
    },
)
