"""What README and docs name is there: files, headings, targets of `make`."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PACKAGES = "components|pipeline|serving|kubernetes|tests|benchmarks|configs|docs|requirements"


def page_id(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: pathlib.Path) -> set[str]:
    """Returns what the headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: pathlib.Path) -> list[str]:
    found = []
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(f"{path}#{anchor}" if anchor else path)
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_are_there(page: pathlib.Path) -> None:
    # In kubernetes.md paths are those within kubernetes/. What runs write is not in the tree.
    bases = (ROOT, ROOT / "kubernetes")
    named = re.findall(rf"`((?:{PACKAGES})/[\w./-]+)`", page.read_text())
    missing = [name for name in named if not any((base / name).exists() for base in bases)]
    assert [name for name in missing if not name.startswith("benchmarks/results/")] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_targets_of_make_exist(page: pathlib.Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^ {4}|^)make ([a-z-]+)(?=[ `\n])", page.read_text(), re.MULTILINE)
    code = [name for name in named if name in targets or f"`make {name}" in page.read_text()]
    assert set(code) - targets == set()


def test_a_dead_link_is_found(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](gone.md) [b](#one-heading) [c](#another) [d](page.md#one-heading)\n")
    assert dead_links(page) == ["gone.md", "#another"]
