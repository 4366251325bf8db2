import numpy as np
from PIL import Image

from pipeline import pictures
from tests.pipeline.discs import disc


def test_grids_are_pictures_that_hold_what_they_are_given(tmp_path):
    neighbors = tuple((f"a/{n}.png", 1.0 - n / 10, disc(n)) for n in range(3))
    answers = [pictures.Answer("nine", disc(9), neighbors), pictures.Answer("none", disc(8), ())]
    pictures.result_grid(answers, tmp_path / "results.png")
    errors = [0.01, 0.02]
    pictures.reconstruction_grid(
        [disc(1), disc(2)], [np.zeros((18, 18, 1), np.uint8)] * 2, errors, tmp_path / "reconstructions.png"
    )
    for name in ("results.png", "reconstructions.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 100
            # Not a blank sheet: many grey levels were drawn.
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_a_page_needs_no_other_file_and_escapes_what_it_is_told(tmp_path):
    pictures.result_grid([pictures.Answer("q", disc(0), (("a", 1.0, disc(0)),))], tmp_path / "a.png")
    page = pictures.page("<script>", [("name & more", "<b>")], [("<i>", tmp_path / "a.png")])
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page
    assert "&lt;script&gt;" in page and "data:image/png;base64," in page and "http" not in page
