"""SYLLO: every puzzle has one right answer, a seed fixes every byte, and what is held out is never trained."""

import itertools
import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from thirdshift.apps.training import syllo
from thirdshift.apps.training.syllo import (
    LEVELS,
    Entry,
    MalformedLexicon,
    MalformedPrompt,
    Puzzle,
    UnknownLevel,
    as_chat_row,
    check,
    find_level,
    generate,
    held_out_words,
    is_held_out,
    load_lexicon,
    parse_lexicon,
    parse_prompt,
    solve,
    syllable_orders,
    tier,
    write_jsonl,
)
from thirdshift.core.errors import UsageError

ALL_LEVELS = [level.number for level in LEVELS]
_WRITTEN = """
b bl br c ch chl chr cl cr d dl dr dw f fl fr g gh gl gn gr h j k kn l m n p ph pl pr ps q r rh s sc sch scr sh shr sk
sl sm sn sp sph spl spr sq st str sw t th thr tl tr tw v w wh wr x y z zh
"""
BEGINNINGS = {"", *_WRITTEN.split()}
"""Consonants that a syllable can begin with; "q" stands for "qu", "dl" and "tl" begin the last one of words in -ler."""

ODD_SYLLABLES = {"busi", "lla", "states"}
"""Of business, llama and statesman: written otherwise than they sound."""

EXAMPLE = Puzzle(
    level=2,
    clues=("yellow fruit", "red bird"),
    syllables=("na", "rob", "ba", "in", "na"),
    words=("banana", "robin"),
)


@pytest.fixture(scope="module")
def trained() -> list[Puzzle]:
    """5,000 puzzles as a training file holds them."""
    return list(generate(5000, seed=10, levels=ALL_LEVELS))


def test_every_entry_is_sound() -> None:
    """Each word is cut into two to four sayable syllables and has a short clue that does not give it away."""
    for entry in load_lexicon():
        assert re.fullmatch("[a-z]{3,14}", entry.word), entry
        assert "".join(entry.syllables) == entry.word
        assert 2 <= len(entry.syllables) <= 4, entry
        assert all(re.search("[aeiouy]", syllable) for syllable in entry.syllables), entry
        assert re.fullmatch("[a-z]+( [a-z]+){0,3}", entry.clue), entry
        assert 4 <= len(entry.clue) <= 24, entry
        assert not any(_shares_a_stem(entry.word, clue_word) for clue_word in entry.clue.split()), entry


def test_words_are_cut_where_they_are_spoken() -> None:
    """Each syllable has one sounded vowel, and begins with consonants that an English syllable can begin with."""
    wrong = [
        (entry.word, syllable)
        for entry in load_lexicon()
        for syllable in entry.syllables
        if syllable not in ODD_SYLLABLES and not _can_be_spoken(syllable)
    ]
    assert wrong == []


@pytest.mark.parametrize("cut", ["ba-nan-a", "rob-in", "squir-rel", "ap-ple"])
def test_the_check_of_cuts_lets_good_ones_through(cut: str) -> None:
    """Also where two cuts are possible."""
    assert all(map(_can_be_spoken, cut.split("-")))


@pytest.mark.parametrize("cut", ["bana-na", "r-obin", "cor-kscrew", "mou-ntain", "pil-lo-wca-se", "sh-ampoo"])
def test_the_check_of_cuts_finds_bad_ones(cut: str) -> None:
    """Two vowels in one syllable, none at all, or a beginning that no tongue can say."""
    assert not all(map(_can_be_spoken, cut.split("-")))


def test_no_word_and_no_clue_stands_there_twice() -> None:
    """With over 2,700 entries a clue still asks for exactly one word."""
    entries = load_lexicon()
    assert len(entries) >= 2700
    assert len({entry.word for entry in entries}) == len(entries)
    assert len({entry.clue for entry in entries}) == len(entries)


def test_the_demo_tier_is_short_and_plain() -> None:
    """The first 64 words have two or three syllables that can be shuffled, and clues of about nine letters."""
    demo = tier(1)
    assert len(demo) == 64
    assert {len(entry.syllables) for entry in demo} == {2, 3}
    assert all(len(entry.clue.split()) <= 2 for entry in demo)
    assert sum(len(entry.clue) for entry in demo) / len(demo) < 10
    assert all(len(set(itertools.permutations(entry.syllables))) > 1 for entry in demo)


def test_the_tiers_grow_with_the_levels() -> None:
    """Levels draw from the first 64, 256 and 512 entries, then from all."""
    sizes = [len(tier(level)) for level in ALL_LEVELS]
    assert sizes == [64, 64, 64, 256, 256, 512, 512, *[len(load_lexicon())] * 3]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("rob-in red bird", "is not an entry"),
        ("robin\tred bird", "is not an entry"),
        ("Rob-in\tred bird", "is not an entry"),
        ("rob-in\tred, bird", "is not an entry"),
        ("rob-in\tone of the red birds", "is not an entry"),
        ("rób-in\tred bird", "is not an entry"),
        ("", "is not an entry"),
        ("ap-ple\tgreen fruit", "the word 'apple' is in line 2 already"),
        ("quin-ce\tpie fruit", "the clue 'pie fruit' is in line 2 already"),
    ],
)
def test_a_malformed_line_is_named(line: str, problem: str) -> None:
    """The error says which file, which line, and what is wrong with it."""
    with pytest.raises(MalformedLexicon, match=r"words\.txt, line 3: ") as caught:
        parse_lexicon(f"# remark\nap-ple\tpie fruit\n{line}\n", file_name="words.txt")
    assert problem in str(caught.value)
    assert caught.value.line_number == 3


def test_a_prompt_is_written_as_documented() -> None:
    """Syllables, a bar, clues, an equals sign with a space behind it; the answer is the words."""
    assert EXAMPLE.prompt == "na rob ba in na | yellow fruit, red bird = "
    assert EXAMPLE.answer == "banana, robin"


def test_a_prompt_is_read_back_as_it_was_asked() -> None:
    """Parsing and writing are inverse at every level, also when the outer whitespace was trimmed."""
    for puzzle in generate(300, seed=1, levels=ALL_LEVELS):
        assert parse_prompt(puzzle.prompt) == puzzle.question
        assert parse_prompt(puzzle.prompt.strip()).prompt == puzzle.prompt


@pytest.mark.parametrize(
    "text",
    ["", "hello", "na ba na | yellow fruit", "| yellow fruit = ", "na ba na | = ", "na  ba na | yellow fruit = ",
     "na ba na | yellow fruit,red bird = ", "Na ba na | yellow fruit = ", "na ba na | yellow fruit = banana"],
)  # fmt: skip
def test_other_text_is_no_prompt(text: str) -> None:
    """What is not written as a prompt is refused with the text in the error."""
    with pytest.raises(MalformedPrompt, match=re.escape(repr(text))):
        parse_prompt(text)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_brute_force_finds_the_one_answer(level: int, held_out: bool) -> None:
    """Trying every row of demo words against the syllables and clues leaves the issued answer and no other."""
    for puzzle in generate(200, seed=2, levels=[level], held_out=held_out):
        assert _brute_force(puzzle) == [puzzle.words]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("level", ALL_LEVELS)
def test_the_solver_finds_the_one_answer(level: int, held_out: bool) -> None:
    """At every level the text alone leads to one answer, and only the decoys of the level stay over."""
    row = find_level(level)
    for puzzle in generate(100, seed=3, levels=[level], held_out=held_out):
        assert len(puzzle.words) == len(puzzle.clues) == row.words
        assert solve(puzzle.prompt, load_lexicon()) == solve(puzzle, load_lexicon()) == [puzzle.words]
        assert check(puzzle.prompt, puzzle.answer)
        needed = Counter(s for entry in tier(level) if entry.word in puzzle.words for s in entry.syllables)
        unused = Counter(puzzle.syllables)
        unused.subtract(needed)
        assert min(unused.values()) == 0
        assert unused.total() == row.decoys
        assert all(needed[syllable] == 0 for syllable, left in unused.items() if left)


def test_the_solver_returns_every_answer() -> None:
    """With two words behind one clue, both readings of the same syllables are found."""
    lexicon = [
        Entry(word="raster", syllables=("ras", "ter"), clue="grid"),
        Entry(word="terras", syllables=("ter", "ras"), clue="grid"),
        Entry(word="master", syllables=("mas", "ter"), clue="grid"),
    ]
    assert solve("ter ras | grid = ", lexicon) == [("raster",), ("terras",)]
    assert solve("ter ras mas ter | grid, grid = ", lexicon) == [
        ("raster", "master"),
        ("terras", "master"),
        ("master", "raster"),
        ("master", "terras"),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "na rob ba in | yellow fruit, red bird = ",
        "na rob ba in na na | yellow fruit, red bird = ",
        "na rob ba in na | yellow fruit = ",
        "na rob ba in na | yellow fruit, blue bird = ",
    ],
)
def test_a_puzzle_that_does_not_come_out_even_has_no_answer(prompt: str) -> None:
    """A syllable too few or too many, or an unknown clue, leaves no right answer."""
    assert solve(prompt, load_lexicon()) == []
    assert not check(prompt, "banana, robin")


def test_only_the_last_level_forgives_unused_syllables() -> None:
    """Two decoys among five clues are right; one, or two below level 10, are not."""
    (puzzle,) = generate(1, seed=4, levels=[9])
    syllables, clues = puzzle.prompt.split(" | ")
    assert check(f"{syllables} qua zo | {clues}", puzzle.answer)
    assert not check(f"{syllables} qua | {clues}", puzzle.answer)
    assert not check("na rob ba in na qua zo | yellow fruit, red bird = ", EXAMPLE.answer)


@pytest.mark.parametrize(
    "answer",
    ["", "banana", "robin, banana", "banana robin", "banana,robin", "banana, robin, robin", "banana, robins",
     "Banana, robin", "bannana, robin", "banana, robin.", "banana, ro bin", "nabana, robin"],
)  # fmt: skip
def test_a_near_miss_is_wrong(answer: str) -> None:
    """Another order, another spelling, a word too few or too many: none of them passes."""
    assert not check(EXAMPLE.prompt, answer)


def test_whitespace_around_an_answer_is_forgiven() -> None:
    """A model ends its answer with a newline; that is not part of it."""
    assert check(EXAMPLE.prompt, " banana, robin\n")


def test_one_seed_gives_one_file(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed or the held-out side gives others."""
    files = {}
    for name, seed, held_out in (("one", 5, False), ("again", 5, False), ("other", 6, False), ("apart", 5, True)):
        write_jsonl(tmp_path / name, generate(200, seed=seed, levels=ALL_LEVELS, held_out=held_out))
        files[name] = (tmp_path / name).read_bytes()
    assert files["one"] == files["again"]
    assert len(set(files.values())) == 3


def test_every_process_generates_the_same() -> None:
    """Python's salted hash has no part in what is drawn or held out."""
    code = (
        "from thirdshift.apps.training.syllo import generate\n"
        "for held_out in (False, True):\n"
        "    for puzzle in generate(60, seed=7, levels=range(1, 11), held_out=held_out):\n"
        "        print(puzzle.prompt + puzzle.answer)\n"
    )
    outputs = {_run_python(code, hash_seed) for hash_seed in ("1", "2")}
    assert len(outputs) == 1
    assert outputs.pop().count("\n") == 120


def test_levels_are_drawn_evenly() -> None:
    """Each of the levels asked for gets its share, and no other level appears."""
    counts = Counter(puzzle.level for puzzle in generate(900, seed=8, levels=[2, 5, 9]))
    assert set(counts) == {2, 5, 9}
    assert all(240 <= count <= 360 for count in counts.values())


def test_prompts_do_not_repeat_while_there_are_new_ones() -> None:
    """A thousand prompts of level 2 are all different; level 1 runs out and repeats instead of stopping."""
    assert len({puzzle.prompt for puzzle in generate(1000, seed=9, levels=[2])}) == 1000
    assert sum(1 for _ in generate(500, seed=9, levels=[1])) == 500


def test_what_is_trained_and_what_is_held_out_never_meet(trained: list[Puzzle]) -> None:
    """No combination of words, and no prompt of level 1, stands on both sides in 5,000 puzzles each."""
    held_out = list(generate(5000, seed=11, levels=ALL_LEVELS, held_out=True))
    assert not any(is_held_out(puzzle.words, puzzle.level) for puzzle in trained)
    assert _combinations(trained).isdisjoint(_combinations(held_out))
    assert {puzzle.prompt for puzzle in trained}.isdisjoint({puzzle.prompt for puzzle in held_out})


def test_held_out_words_are_never_trained(trained: list[Puzzle]) -> None:
    """About one word in twenty appears at no level in training, and does appear in held-out puzzles from level 6."""
    words = held_out_words()
    candidates = len(load_lexicon()) - 256
    assert 0.03 < len(words) / candidates < 0.07
    assert words.isdisjoint(entry.word for entry in tier(5))
    assert words.isdisjoint(word for puzzle in trained for word in puzzle.words)
    asked = {word for p in generate(3000, seed=13, levels=range(6, 11), held_out=True) for word in p.words}
    assert words <= asked


def test_all_other_words_are_trained() -> None:
    """Nothing but the held-out words is missing from enough training puzzles; level 1 shows the whole demo tier."""
    taught = {word for puzzle in generate(9000, seed=14, levels=[9]) for word in puzzle.words}
    assert taught == {entry.word for entry in load_lexicon()} - held_out_words()
    shown = {word for puzzle in generate(500, seed=15, levels=[1]) for word in puzzle.words}
    assert shown == {entry.word for entry in tier(1)}


def test_level_one_holds_out_one_shuffle_of_each_word() -> None:
    """The two sides share the words and divide the orders of their syllables."""
    assert not any(is_held_out([entry.word], 1) for entry in tier(1))
    for entry in tier(1):
        trained = syllable_orders(entry, held_out=False)
        held_out = syllable_orders(entry, held_out=True)
        assert len(held_out) == 1
        assert {*trained, *held_out} == set(itertools.permutations(entry.syllables))
        assert set(trained).isdisjoint(held_out)


def test_holding_out_depends_on_the_words_and_not_on_their_order_or_level() -> None:
    """One combination in ten is held out, in any order, and at every level that could ask for it."""
    words = [entry.word for entry in tier(2)]
    pairs = list(itertools.combinations(words, 2))
    held_out = [pair for pair in pairs if is_held_out(pair, 2)]
    assert 0.07 < len(held_out) / len(pairs) < 0.13
    assert all(is_held_out(pair[::-1], 2) and is_held_out(pair, 4) for pair in held_out)


def test_a_wrong_call_is_refused_before_the_first_puzzle() -> None:
    """An unknown level, no levels and a negative count are errors of the call itself."""
    with pytest.raises(UnknownLevel, match="no level 11; choose among 1 to 10"):
        generate(1, seed=0, levels=[1, 11])
    with pytest.raises(UsageError, match="levels is empty"):
        generate(1, seed=0, levels=[])
    with pytest.raises(UsageError, match="count is -1"):
        generate(-1, seed=0, levels=[1])
    assert list(generate(0, seed=0, levels=[1])) == []


def test_a_row_is_a_conversation() -> None:
    """The user asks the prompt, the assistant gives the answer, and the level stands beside."""
    assert as_chat_row(EXAMPLE) == {
        "messages": [
            {"role": "user", "content": "na rob ba in na | yellow fruit, red bird = "},
            {"role": "assistant", "content": "banana, robin"},
        ],
        "level": 2,
    }


def test_a_file_holds_one_right_row_a_line(tmp_path: Path) -> None:
    """Every line is a row whose answer passes, the file is its owner's only, and nothing else is left beside it."""
    path = tmp_path / "auto.jsonl"
    progress: list[int] = []
    written = write_jsonl(path, generate(100, seed=16, levels=ALL_LEVELS), progress.append)
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert written == len(rows) == 100
    assert progress == list(range(1, 101))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert check(user["content"], assistant["content"])
        assert row["level"] in ALL_LEVELS


def test_a_file_that_was_not_finished_never_appears(tmp_path: Path) -> None:
    """When the writing breaks off, an older file stays as it was and no part of the new one is left."""
    path = tmp_path / "auto.jsonl"
    path.write_text("older\n")

    def stop_at_row_three(rows: int) -> None:
        assert list(tmp_path.glob("*.jsonl")) == [path]
        if rows == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, generate(10, seed=17, levels=[1]), stop_at_row_three)
    assert path.read_text() == "older\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_public_names_exist() -> None:
    """What the package promises can be imported from it."""
    assert all(hasattr(syllo, name) for name in syllo.__all__)
    assert len(set(syllo.__all__)) == len(syllo.__all__)


def _shares_a_stem(word: str, clue_word: str) -> bool:
    same = itertools.takewhile(lambda letters: letters[0] == letters[1], zip(word, clue_word, strict=False))
    nearly_the_shorter = max(4, min(len(word), len(clue_word)) - 2)
    return word in clue_word or sum(1 for _ in same) >= nearly_the_shorter


def _can_be_spoken(syllable: str) -> bool:
    sounded = syllable.replace("qu", "q")
    beginning = re.match("[^aeiouy]*", sounded)
    assert beginning is not None
    without_silent_e = re.sub("(?<=[aeiouy])([^aeiouy]+)e$", r"\1", sounded)
    vowels = re.findall("[aeiouy]+", re.sub("^y(?=[aeiou])", "", without_silent_e))
    ends_like_apple = re.fullmatch("[^aeiouy]+le", syllable) is not None
    return len(vowels) == 1 and (ends_like_apple or beginning.group() in BEGINNINGS)


def _brute_force(puzzle: Puzzle) -> list[tuple[str, ...]]:
    clue_of = {entry.word: entry.clue for entry in tier(1)}
    fitting = [entry for entry in tier(1) if set(entry.syllables) <= set(puzzle.syllables)]
    return [
        tuple(entry.word for entry in row)
        for row in itertools.permutations(fitting, len(puzzle.clues))
        if sorted(s for entry in row for s in entry.syllables) == sorted(puzzle.syllables)
        and tuple(clue_of[entry.word] for entry in row) == puzzle.clues
    ]


def _combinations(puzzles: list[Puzzle]) -> set[frozenset[str]]:
    return {frozenset(puzzle.words) for puzzle in puzzles if puzzle.level > 1}


def _run_python(code: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
