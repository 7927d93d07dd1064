"""Answers on disk: found again, torn ones forgotten, nothing lost by a full disk."""

import errno
import os

import numpy as np
import pytest

from d3s_utils.prediction_store import ANSWER, PredictionStore, picture_key

MADE_WITH = {"weights": "ab" * 32, "precision": "float32"}


def answers_for(numbers) -> np.ndarray:
    answers = np.zeros(len(numbers), ANSWER)
    for answer, number in zip(answers, numbers, strict=True):
        answer["key"], answer["label"] = np.void(picture_key(b"%d" % number)), number % 3 - 1
        answer["classes"], answer["probability"], answer["rank"] = range(number, number + 5), number / 10, number
    return answers


def known(store, number):
    return store.get(picture_key(b"%d" % number), number % 3 - 1)


def test_what_was_said_is_there_again(tmp_path):
    store = PredictionStore(tmp_path, "lite0", MADE_WITH)
    store.add(answers_for([1, 2]))
    store.add(answers_for([3]))
    store.close()
    again = PredictionStore(tmp_path, "lite0", MADE_WITH)
    assert len(again) == 3
    for number in (1, 2, 3):
        assert known(again, number) == answers_for([number])[0]
    assert known(again, 4) is None
    assert again.get(picture_key(b"1"), 5) is None, "another label is another question"


def test_other_weights_are_another_store(tmp_path):
    store = PredictionStore(tmp_path, "lite0", MADE_WITH)
    store.add(answers_for([1]))
    store.close()
    assert len(PredictionStore(tmp_path, "lite0", MADE_WITH | {"weights": "cd" * 32})) == 0
    assert len(PredictionStore(tmp_path, "lite0", dict(reversed(MADE_WITH.items())))) == 1


@pytest.mark.parametrize("cut", [1, 30, 58])
def test_a_torn_answer_is_as_if_never_given_and_the_next_ones_count(tmp_path, cut):
    store = PredictionStore(tmp_path, "lite0", MADE_WITH)
    store.add(answers_for([1, 2]))
    store.close()
    os.truncate(store.path, store.path.stat().st_size - cut)
    torn = PredictionStore(tmp_path, "lite0", MADE_WITH)
    assert known(torn, 1) is not None
    assert known(torn, 2) is None
    torn.add(answers_for([5]))
    torn.close()
    again = PredictionStore(tmp_path, "lite0", MADE_WITH)
    assert known(again, 1) is not None
    assert known(again, 5) is not None


def test_a_garbled_answer_is_forgotten(tmp_path):
    store = PredictionStore(tmp_path, "lite0", MADE_WITH)
    store.add(answers_for([1, 2, 3]))
    store.close()
    content = bytearray(store.path.read_bytes())
    content[len(content) // 2] ^= 1
    store.path.write_bytes(content)
    again = PredictionStore(tmp_path, "lite0", MADE_WITH)
    assert [known(again, number) is not None for number in (1, 2, 3)] == [True, False, True]


def test_a_full_disk_tears_nothing(tmp_path, monkeypatch):
    store = PredictionStore(tmp_path, "lite0", MADE_WITH)
    store.add(answers_for([1]))
    size, write = store.path.stat().st_size, os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[: len(content) // 2]))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        store.add(answers_for([2, 3]))
    monkeypatch.undo()
    assert store.path.stat().st_size == size
    assert known(store, 2) is None
    store.add(answers_for([2]))
    store.close()
    assert len(PredictionStore(tmp_path, "lite0", MADE_WITH)) == 2


def test_a_cut_of_a_picture_is_another_picture():
    keys = {picture_key(b"a"), picture_key(b"b"), picture_key(b"a", "(0, 0, 2, 2)"), picture_key(b"a", "(0, 0, 3, 3)")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}
