from __future__ import annotations

import torch

from onehead_cli.runtime.compute import threads_of_torch


def test_thread_count_is_put_back() -> None:
    before = torch.get_num_threads()
    with threads_of_torch(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
