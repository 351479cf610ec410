"""Pages are written whole or not at all."""

import os
import resource

import pytest

from tgvlm_jax.report import page
from tgvlm_jax.types import InputError


def test_an_old_page_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    page.write_page(path, page.page("now", "<p>new</p>"))
    assert "<p>new</p>" in path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"none/report\.html: cannot be written"):
        page.write_page(tmp_path / "none" / "report.html", "")


def test_a_failed_replacement_leaves_no_half_written_file(tmp_path):
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(InputError, match=r"report\.html: cannot be written"):
        page.write_page(target, "text")
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_file_that_stops_growing_half_way_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match="too large"):
            page.write_page(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_title_is_escaped():
    assert "<title>a &lt;b&gt; &amp; c</title>" in page.page("a <b> & c", "")
