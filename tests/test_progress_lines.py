import io

from tqdm import tqdm

from d3s_utils.progress_lines import ProgressLines


def lines_of(texts, *, seconds_between=0.0, every=5.0):
    stream, now = io.StringIO(), [0.0]
    lines = ProgressLines(stream, label="02 │", every=every, clock=lambda: now[0])
    for text in texts:
        lines.write(text)
        now[0] += seconds_between
    lines.close()
    return stream.getvalue().splitlines()


def test_whole_lines_go_on_at_once():
    assert lines_of(["one\ntw", "o\n\nthree"]) == ["02 │ one", "02 │ two", "02 │ three"]


def test_a_bar_becomes_a_line_now_and_then_and_its_end():
    bar = [f"\r{i:3}%" for i in range(101)] + ["\n"]
    assert lines_of(bar, seconds_between=1.0, every=50) == ["02 │   0%", "02 │  50%", "02 │ 100%"]


def test_the_last_state_is_said_once():
    assert lines_of(["\r 100%", "\n", "done\n", "done\n"]) == ["02 │  100%", "02 │ done", "02 │ done"]


def test_tqdm_leaves_its_time_left():
    stream = io.StringIO()
    for _ in tqdm(range(3), file=ProgressLines(stream, label="01 │", every=0), desc="pictures", mininterval=0):
        pass
    said = stream.getvalue().splitlines()
    assert said[0].startswith("01 │ pictures:   0%")
    assert "3/3" in said[-1]
    assert "\r" not in stream.getvalue()
