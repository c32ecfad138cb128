"""Memory that is used again, and never while anyone can still see it."""

import os
import threading

import pytest
import torch

from advreg.layerwise.kernels import buffers

LIKE = torch.empty(3, 200, 1024)
CAPACITY = 4 << 20


@pytest.fixture(autouse=True)
def _released():
    buffers.release()
    yield
    buffers.release()


def test_buffers_are_lent_to_one_tensor_at_a_time():
    like, before = torch.empty(3, 200, 1024).transpose(1, 2), buffers.held()
    first, second = buffers.empty_like(like), buffers.empty_like(like)
    assert first.stride() == like.stride()
    assert first._base is None
    assert first.data_ptr() != second.data_ptr()
    place, kept = first.data_ptr(), first[0]
    del first
    assert buffers.empty_like(like).data_ptr() != place  # a view is still held
    kept.fill_(1)
    del kept
    assert buffers.empty_like(like).data_ptr() == place
    assert buffers.held() - before == 3 * CAPACITY
    del second
    buffers.release()
    assert buffers.held() == before


def test_a_storage_that_python_holds_is_not_lent():
    first = buffers.empty_like(LIKE)
    place, storage = first.data_ptr(), first.untyped_storage()
    del first
    assert buffers.empty_like(LIKE).data_ptr() != place
    del storage
    seen = {buffers.empty_like(LIKE).data_ptr() for _ in range(2)}
    assert place in seen


def test_a_storage_shared_with_another_process_is_never_lent_again():
    first = buffers.empty_like(LIKE).fill_(1)
    shared = first.untyped_storage()
    shared._share_filename_cpu_()
    place = first.data_ptr()
    del first, shared
    again = [buffers.empty_like(LIKE) for _ in range(3)]
    assert place not in {one.data_ptr() for one in again}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_writes_to_memory_of_its_own():
    kept, free = buffers.empty_like(LIKE).fill_(1), buffers.empty_like(LIKE)
    del free
    child = os.fork()
    if child == 0:
        kept.fill_(9)
        buffers.empty_like(LIKE).fill_(9)
        os._exit(0)
    os.waitpid(child, 0)
    after = buffers.empty_like(LIKE)
    assert kept.eq(1).all()
    assert not after.eq(9).any()


def test_threads_never_get_the_same_memory():
    wrong = []

    def work(number):
        for _ in range(300):
            mine = buffers.empty_like(LIKE)
            mine.view(-1)[::4096] = number
            if not mine.view(-1)[::4096].eq(number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(buffers._kept[CAPACITY]) <= 2 * len(threads)


def test_ever_new_sizes_do_not_fill_the_memory():
    before = buffers.held()
    for megabytes in range(2, 40):
        buffers.empty_like(torch.empty(megabytes << 20, dtype=torch.uint8))
    assert buffers.held() - before <= 40 << 20


def test_what_is_held_can_be_followed():
    with buffers.followed() as history:
        one = buffers.empty_like(LIKE)
        del one
        buffers.release()
    assert [size for _, _, size in history] == [CAPACITY, -CAPACITY]
    buffers.empty_like(LIKE)
    assert len(history) == 2


def test_another_default_device_does_not_matter():
    with torch.device("meta"):
        assert buffers.empty_like(LIKE).is_cpu
