"""`thirdshift train validate` and `train add`: a look before training, and dropping a file from the command line."""

import json


def row(question: str, answer: str) -> str:
    return json.dumps({"prompt": question, "completion": answer}) + "\n"


def test_a_look_at_a_file_tells_what_a_person_wants_to_know(shell) -> None:
    """Counts, lengths in tokens of the model to come, what will be cut, what comes again; nothing is changed."""
    data = shell.folder / "rows.jsonl"
    data.write_text(row("2+2?", "4") * 3 + row("x" * 600, "y"))
    done = shell("train", "validate", str(data), "--level", "deep")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[:4] == ["file rows.jsonl", "verdict sound", "level deep", "rows 4 sound, 0 problems, 748 bytes"]
    assert "lengths 9 to 605, median 9, 95 % up to 605" in lines
    assert "cut 1 longer than the context of 512: their questions are cut" in lines
    assert "come again 2 rows (line 2 as line 1, line 3 as line 1)" in lines
    assert f"16 3 {'#' * 40}" in lines
    assert list(shell.workspace.glob("queue")) == []


def test_a_bad_file_is_told_line_by_line(shell) -> None:
    """The exit code says it to scripts, the document to programs."""
    data = shell.folder / "rows.jsonl"
    data.write_text(row("2+2?", "4") + "nonsense\n" * 30)
    done = shell("train", "validate", str(data))
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert "not JSON: Expecting value (column 1)" in done.stdout
    assert done.stdout.rstrip().endswith("and 10 more")
    document = json.loads(shell("--json", "train", "validate", str(data), "--level", "quick").stdout)
    assert (document["rows"], document["problem_count"], document["problems"][0]["line"]) == (1, 30, 2)


def test_files_are_added_whole_under_names_of_their_own(shell) -> None:
    """The original stays; --force is in the name, where it can also be written by hand."""
    data = shell.folder / "rows.txt"
    data.write_text(row("2+2?", "4"))
    inbox = shell.workspace / "inbox"
    assert shell.json("train", "add", str(data), str(data)) == {
        "added": [str(inbox / "rows.txt.jsonl"), str(inbox / "rows.txt-1.jsonl")]
    }
    assert shell.json("train", "add", "--force", str(data))["added"] == [str(inbox / "rows.txt.force.jsonl")]
    assert {path.read_text() for path in inbox.iterdir()} == {data.read_text()}
