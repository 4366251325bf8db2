"""What is in a folder, an archive or a manifest, and when its listing has changed."""

import io
import json
import os
import re
import tarfile
import zipfile

import fsspec
import pytest

from components.image_example_gen import listing_digest
from components.ingest import listing
from components.ingest.archives import member_id, read_members
from components.ingest.listing import MAX_LEVELS, Entry, ListingError, Source, judge, open_file
from components.ingest.set_digest import SetDigest
from components.ingest.shards import list_entries


def write(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def entries_of(source):
    return {entry.item_id: entry for entry in list_entries(source)}


def reasons_of(source):
    return {item_id: entry.reason for item_id, entry in entries_of(source).items()}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    write(folder, **{"a/1.png": b"1", "a/b/2.JPG": b"22", "3.webp": b"333"})
    return folder


@pytest.fixture
def memory():
    """An empty place in fsspec's memory file system: stands for a bucket."""
    files = fsspec.filesystem("memory")
    files.rm("/", recursive=True) if files.ls("/") else None
    yield files
    files.rm("/", recursive=True) if files.ls("/") else None


def test_a_folder_is_listed_with_ids_relative_to_it(folder):
    entries = entries_of(Source(str(folder)))
    assert set(entries) == {"a/1.png", "a/b/2.JPG", "3.webp"}
    entry = entries["a/b/2.JPG"]
    assert (entry.uri, entry.size) == (str(folder / "a/b/2.JPG"), 2)
    assert entry.version == str((folder / "a/b/2.JPG").stat().st_mtime_ns)
    assert entry.is_claim and entry.reason is None


def test_a_relative_folder_has_absolute_uris(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in ("images", "images/", "./images", "file://" + str(folder)):
        assert entries_of(Source(name))["3.webp"].uri == str(folder / "3.webp")


def test_what_is_not_an_image_by_its_name_has_a_reason(folder):
    write(folder, **{"README.txt": "", ".DS_Store": "", "Thumbs.db": "", ".git/x.png": "", "bare": "", "p.heic": ""})
    reasons = reasons_of(Source(str(folder)))
    assert reasons["README.txt"] == "extension"
    assert reasons[".DS_Store"] == reasons["Thumbs.db"] == "hidden"
    # A hidden folder is passed over whole.
    assert reasons[".git"] == "hidden" and ".git/x.png" not in reasons
    # These are tried: the first claims nothing, the second claims to be an image.
    entries = entries_of(Source(str(folder)))
    assert (entries["bare"].reason, entries["bare"].is_claim) == (None, False)
    assert (entries["p.heic"].reason, entries["p.heic"].is_claim) == (None, True)


def test_links_pipes_and_odd_names_do_not_stop_a_listing(folder, tmp_path):
    write(tmp_path, **{"elsewhere/5.png": "5"})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "a" / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(b"x")
    reasons = reasons_of(Source(str(folder)))
    assert reasons["linked/5.png"] is None
    assert reasons["broken.png"] == "missing"
    assert reasons["a/loop"] == "link-to-parent"
    assert reasons["pipe.png"] == "not-a-file"
    assert reasons["\N{REPLACEMENT CHARACTER}t\N{REPLACEMENT CHARACTER}.png"] == "bad-name"


def test_deep_folders_are_read_to_a_limit(folder):
    deep = "/".join("d" * (MAX_LEVELS - 1))
    write(folder, **{f"{deep}/x.png": "x", f"{deep}/e/README.txt": "no image"})
    assert reasons_of(Source(str(folder)))[f"{deep}/x.png"] is None
    write(folder, **{f"{deep}/e/y.png": "y"})
    with pytest.raises(ListingError, match="at most 7 folders deep"):
        reasons_of(Source(str(folder)))


def test_a_missing_collection_says_what_it_may_be(tmp_path):
    for name in ("nothing", "nothing.zip", "nothing.tar.gz", "nothing.csv", "nothing.jsonl"):
        with pytest.raises(ListingError, match=r"nothing"):
            list(list_entries(Source(str(tmp_path / name))))
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ListingError, match="must be a folder, an archive"):
        list(list_entries(Source(str(tmp_path / "file"))))
    with pytest.raises(ListingError, match="got nothing"):
        Source("")


def test_a_bucket_is_listed_like_a_folder(memory):
    memory.pipe(
        {"/bucket/in/a/1.png": b"1", "/bucket/in/2.jpg": b"22", "/bucket/in/.x": b"", "/bucket/other/3.png": b"3"}
    )
    entries = entries_of(Source("memory://bucket/in/"))
    assert set(entries) == {"a/1.png", "2.jpg", ".x"}
    assert entries["a/1.png"].uri == "memory://bucket/in/a/1.png"
    with open_file(entries["2.jpg"].uri) as file:
        assert file.read() == b"22"
    before = listing_digest(Source("memory://bucket/in"))
    memory.pipe({"/bucket/in/2.jpg": b"23"})
    assert listing_digest(Source("memory://bucket/in")) != before
    with pytest.raises(ListingError, match="there is none"):
        entries_of(Source("memory://bucket/nothing"))


def test_spans_are_one_collection(folder):
    root = folder.parent / "spans"
    write(
        root,
        **{"span-1/a.png": "1", "span-1/x/b.png": "1", "span-2/a.png": "2", "span-10/c.png": "3", "other/d.png": ""},
    )
    write(root, **{"README.md": ""})
    entries = list(list_entries(Source(str(root), "span-{SPAN}")))
    found = {(entry.item_id, entry.span) for entry in entries if entry.reason is None}
    assert found == {("a.png", 1), ("x/b.png", 1), ("a.png", 2), ("c.png", 10)}
    assert {entry.item_id for entry in entries if entry.reason == "outside-spans"} == {"other", "README.md"}
    upto = Source(str(root), "span-{SPAN}", 2)
    assert {entry.span for entry in list_entries(upto) if entry.reason is None} == {1, 2}
    assert {e.span for e in list_entries(Source(str(root), "span-{SPAN:2}")) if e.reason is None} == {10}
    with pytest.raises(ListingError, match="found none"):
        list(list_entries(Source(str(root), "day-{SPAN}")))


@pytest.mark.parametrize("pattern", ["span", "a/{SPAN}", "{SPAN}{SPAN}", "{YYYY}"])
def test_a_span_pattern_is_validated(pattern):
    with pytest.raises(ListingError, match="span_pattern"):
        Source("folder", pattern)
    with pytest.raises(ListingError, match="span_pattern"):
        Source("archive.zip", "span-{SPAN}")
    with pytest.raises(ListingError, match="last_span"):
        Source("folder", None, 3)


def make_archive(path, files):
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                archive.writestr(name, content)
        return
    compression = {"gz": "gz", "tgz": "gz", "xz": "xz", "bz2": "bz2"}.get(path.name.rsplit(".")[-1], "")
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"])
def test_an_archive_is_listed_and_read_in_place(tmp_path, name):
    path = tmp_path / name
    files = [(f"d/{number}.png", b"%d" % number * 1000) for number in range(20)]
    make_archive(path, [*files, ("README.txt", b"text"), ("__MACOSX/d/._1.png", b"litter")])
    entries = entries_of(Source(str(path)))
    assert {item_id for item_id, entry in entries.items() if entry.reason is None} == {name for name, _ in files}
    assert entries["README.txt"].reason == "extension"
    assert entries["__MACOSX/d/._1.png"].reason == "hidden"
    wanted = [entries[name] for name, _ in files if "1" in name]
    read = {entry.item_id: data for entry, data in read_members(str(path), wanted, 10_000)}
    assert read == {name: content for name, content in files if "1" in name}
    # No more is read than can be used.
    assert {len(data) for _, data in read_members(str(path), wanted, 99)} == {100}
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_of_a_bucket_is_read_in_place(memory, tmp_path):
    for name in ("x.zip", "x.tar", "x.tar.gz"):
        make_archive(tmp_path / name, [("a.png", b"content")])
        memory.pipe({f"/bucket/{name}": (tmp_path / name).read_bytes()})
        uri = f"memory://bucket/{name}"
        entries = entries_of(Source(uri))
        assert [data for _, data in read_members(uri, list(entries.values()), 99)] == [b"content"]


def test_members_that_climb_stay_in_the_archive():
    assert member_id("../../etc/x.png") == "etc/x.png"
    assert member_id("/abs/x.png") == "abs/x.png"
    assert member_id("./a//b/../x.png") == "a/x.png"
    assert member_id("a\\b.png") == "a/b.png"


def test_members_without_bytes_of_their_own_are_not_files(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert reasons_of(Source(str(tmp_path / "x.tar"))) == {"link.png": "not-a-file"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_damaged_archive_is_an_error_that_says_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no archive at all" * 100)
    with pytest.raises(ListingError, match="can't be read as an archive"):
        list(list_entries(Source(str(tmp_path / name))))


def test_members_that_cannot_be_read_are_none(tmp_path):
    files = [(f"{number}.png", os.urandom(5000)) for number in range(3)]
    make_archive(tmp_path / "x.zip", files)
    make_archive(tmp_path / "x.tar.gz", files)
    entries = {name: list(list_entries(Source(str(tmp_path / name)))) for name in ("x.zip", "x.tar.gz")}
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[7000] ^= 255
    (tmp_path / "x.zip").write_bytes(data)
    read = {entry.item_id: data for entry, data in read_members(str(tmp_path / "x.zip"), entries["x.zip"], 10_000)}
    assert [read[name] == content for name, content in files] == [True, False, True]
    assert read["1.png"] is None
    cut = (tmp_path / "x.tar.gz").read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(cut[:8000])
    read = {e.item_id: data for e, data in read_members(str(tmp_path / "x.tar.gz"), entries["x.tar.gz"], 10_000)}
    assert read["0.png"] == files[0][1]
    assert read["2.png"] is None


def test_a_csv_manifest_names_images(tmp_path, folder):
    (folder.parent / "list.csv").write_text(
        "\N{BYTE ORDER MARK}uri,id,label,price,stock,code,name\r\n"
        'images/a/1.png,one,cat,1,3,007,"a, b"\r\n'
        f"{folder}/3.webp,,dog,2.5,,08,\r\n"
        "images/nowhere.png,three,,3,-4,9,x\r\n"
    )
    entries = entries_of(Source(str(folder.parent / "list.csv")))
    one, two, three = entries["one"], entries[f"{folder}/3.webp"], entries["three"]
    assert (one.uri, one.size, one.label) == (str(folder / "a/1.png"), 1, "cat")
    assert dict(one.attributes) == {"price": 1.0, "stock": 3, "code": "007", "name": "a, b"}
    assert {name: type(value) for name, value in one.attributes} == {
        "price": float,
        "stock": int,
        "code": str,
        "name": str,
    }
    assert dict(two.attributes) == {"price": 2.5, "code": "08"}
    assert (two.uri, two.label) == (str(folder / "3.webp"), "dog")
    assert (three.reason, three.is_claim, three.label) == ("missing", True, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", "+3", "0"], int),
        (["1", "2.5"], float),
        (["1e3", ".5", "-0.25"], float),
        (["1", "x"], str),
        (["1.5", "x", "2"], str),
        (["007"], str),
        (["1_000"], str),
        (["nan"], str),
        (["1e999"], str),
        (["9223372036854775807"], int),
        (["9223372036854775808"], str),
        (["true"], str),
    ],
)
def test_a_column_is_as_narrow_as_all_its_values_allow(tmp_path, values, expected):
    rows = "".join(f"{number}.png,{value}\n" for number, value in enumerate(values))
    (tmp_path / "x.csv").write_text("uri,v\n" + rows)
    found = [dict(entry.attributes)["v"] for entry in list_entries(Source(str(tmp_path / "x.csv")))]
    assert {type(value) for value in found} == {expected}
    assert found == [expected(value) for value in values]


def test_a_jsonl_manifest_keeps_its_types(tmp_path):
    rows = [
        {"uri": "1.png", "id": 7, "label": "x", "flag": True, "score": 1, "text": "1", "gone": None},
        {"uri": "2.png", "flag": False, "score": 2.5},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    entries = entries_of(Source(str(tmp_path / "x.jsonl")))
    assert dict(entries["7"].attributes) == {"flag": 1, "score": 1.0, "text": "1"}
    assert dict(entries["2.png"].attributes) == {"flag": 0, "score": 2.5}
    assert type(dict(entries["7"].attributes)["flag"]) is int
    assert type(dict(entries["7"].attributes)["score"]) is float
    assert entries["7"].label == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "column `uri`"),
        ("x.csv", "path,id\n", "column `uri`"),
        ("x.csv", "uri,a,a\n", "different names"),
        ("x.csv", "uri,a\n1.png\n", "line 2: a row must have 2 cells, got 1"),
        ("x.csv", "uri,a\n,1\n", "line 2: uri must not be empty"),
        ("x.csv", 'uri\n"1.png\n', "not CSV"),
        ("x.csv", b"uri\n\xff.png\n", "not CSV in UTF-8"),
        ("x.csv", "uri,id\n1.png,a\tb\n", "line 2: id must be printable"),
        ("x.jsonl", '{"uri": "1.png"}\n{"uri"\n', "line 2: not JSON"),
        ("x.jsonl", "[1]\n", "line 1: must be an object"),
        ("x.jsonl", '{"id": "1"}\n', "line 1: uri must not be empty"),
        ("x.jsonl", '{"uri": "1.png", "a": [1]}\n', "line 1: 'a' must be a number or text"),
        ("x.jsonl", '{"uri": "1.png", "a": NaN}\n', "line 1: not JSON: NaN"),
        ("x.jsonl", '{"uri": "1.png", "a": 1}\n{"uri": "2.png", "a": "1"}\n', "line 2: 'a' must be of one type"),
        ("x.jsonl", '{"uri": "1.png", "a": 9223372036854775808}\n', "must fit 64 bits"),
        ("x.jsonl", '{"uri": "1.png", "id": true}\n', "line 1: 'id' must be text"),
    ],
)
def test_a_wrong_manifest_is_an_error_with_its_line(tmp_path, name, content, message):
    write(tmp_path, **{name: content})
    with pytest.raises(ListingError, match=message):
        list(list_entries(Source(str(tmp_path / name))))


def test_the_digest_sees_every_change(folder):
    source = Source(str(folder))
    path = folder / "a/1.png"
    seen = {listing_digest(source)}
    assert listing_digest(source) in seen

    def assert_changed():
        digest = listing_digest(source)
        assert digest not in seen
        seen.add(digest)

    path.rename(folder / "a/7.png")
    assert_changed()
    path = folder / "a/7.png"
    status = path.stat()
    path.write_bytes(b"9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert_changed()
    path.write_bytes(b"longer")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert_changed()
    write(folder, **{"new.png": ""})
    assert_changed()
    path.unlink()
    assert_changed()
    # An operating system's litter and a note come and go.
    write(folder, **{".DS_Store": "", "README.txt": "x", "a/Thumbs.db": ""})
    assert listing_digest(source) in seen


def test_the_digest_of_a_manifest_sees_its_images(folder):
    path = folder.parent / "list.csv"
    path.write_text("uri\nimages/a/1.png\n")
    before = listing_digest(Source(str(path)))
    (folder / "a/1.png").write_bytes(b"changed")
    after = listing_digest(Source(str(path)))
    (folder / "a/1.png").unlink()
    assert len({before, after, listing_digest(Source(str(path)))}) == 3


def test_the_digest_of_what_is_not_there_is_no_error(tmp_path):
    assert len({listing_digest(Source(str(tmp_path / name))) for name in ("x", "x.zip", "x.csv")}) == 3


def test_a_set_digest_does_not_depend_on_order_or_parts():
    one, two, parts = SetDigest(), SetDigest(), (SetDigest(), SetDigest())
    for line in (("a", 1), ("b", 2), ("c", 3)):
        one.add(*line)
        parts[line[1] % 2].add(*line)
    for line in (("c", 3), ("a", 1), ("b", 2)):
        two.add(*line)
    merged = SetDigest()
    for part in parts:
        merged.merge(part.state)
    assert one.hexdigest() == two.hexdigest() == merged.hexdigest()
    two.add("a", 1)
    assert one.hexdigest() != two.hexdigest()
    first, second = SetDigest(), SetDigest()
    first.add("ab", "c")
    second.add("a", "bc")
    assert first.hexdigest() != second.hexdigest()


def test_what_is_told_at_a_glance_is_what_a_look_would_say(monkeypatch):
    names = [
        "a",
        ".a",
        "..",
        "thumbs.db",
        "Thumbs.DB.png",
        "x.png",
        "X.PNG",
        ".png",
        "x.heic",
        "\u00e4.png",
        "x.t\u0131f",
    ]
    names += ["x\n.png", "x.png\n", "png", "\udc80.png", "__MACOSX", "a.tar.png", "x.txt"]
    ids = [*names, *(f"{folder}/{name}" for folder in names for name in names)]
    entries = [Entry(item_id, f"{root}/{item_id}", 1, "1") for item_id in ids for root in ("/r", "/\u00e4", "/\udc80")]
    judged = [judge(entry) for entry in entries]
    monkeypatch.setattr(listing, "_PLAIN", re.compile("(?!)"))
    assert judged == [judge(entry) for entry in entries]
    assert len({entry.reason for entry in judged}) == 4
