"""Laws of tokenised rows: packed, read like lists, padded on either side."""

from typing import Any

import numpy as np
import pytest
import torch

from fedlease.tasks.encoded import Encoded, Packed, on_device

ROWS = [[5, 6, 7], [], [9, 2**31 - 1]]


def test_packed_rows_read_like_the_lists_they_were_made_of_and_take_four_bytes_a_token() -> None:
    packed = Packed.of(ROWS)
    assert [packed[row] for row in range(3)] == ROWS and packed[-1] == ROWS[-1]
    assert (len(packed), packed.tokens.nbytes, len(packed.take(range(2))), packed.take(range(2))[0]) == (
        3,
        5 * 4,
        2,
        ROWS[0],
    )
    with pytest.raises(IndexError):
        packed[3]
    with pytest.raises(OverflowError):
        Packed.of([[2**31]])


@pytest.mark.parametrize(("left", "second"), [(True, [[3, 9, 8], [0, 1, 1]]), (False, [[9, 8, 3], [1, 1, 0]])])
def test_a_batch_is_padded_on_the_side_that_the_tokenizer_pads(left: bool, second: list[list[int]]) -> None:
    rows = Encoded.of({"input_ids": [[5, 6, 7], [9, 8]], "token_type_ids": [[0, 1, 1], [1, 1]]}, [0, 1], 3, left=left)
    batch = rows.pad([0, 1], torch.device("cpu"))
    assert (rows.lengths, len(rows), rows.first(1).labels) == ([3, 2], 2, (0,))
    assert [batch["input_ids"][1].tolist(), batch["attention_mask"][1].tolist()] == second
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], second[1]]


@pytest.mark.gpu
def test_a_batch_is_copied_from_pinned_memory_while_the_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    copies, to = list[tuple[bool, bool]](), torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: Any, non_blocking: bool = False, **options: Any) -> torch.Tensor:
        copies.append((tensor.is_pinned(), non_blocking))
        return to(tensor, *args, non_blocking=non_blocking, **options)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    rows = Encoded.of({"input_ids": [[5, 6, 7], [9, 8]]}, [0, 1], 3, left=False)
    batch = rows.pad([0, 1], torch.device("cuda"))
    assert copies == [(True, True)] * 2, "ids and mask"
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 8, 3]]
    assert on_device(np.arange(3), torch.device("cuda")).tolist() == [0, 1, 2]
