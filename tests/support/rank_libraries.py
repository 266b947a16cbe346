"""What ranks are forked with: imported once, in one thread. See ``tests.support.ranks``."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
import peft  # noqa: F401
import torch
import transformers  # noqa: F401

torch.set_num_threads(1)
