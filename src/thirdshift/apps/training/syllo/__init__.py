"""SYLLO, the game the demo model learns: clues, and the syllables of the answers to put together.

Made for training that never ends: puzzles come from a seed in any number, grow harder in ten levels, have exactly one
right answer each, and a part that is never trained is known to all without being written down.
"""

from thirdshift.apps.training.syllo.generate import as_chat_row, generate, write_jsonl
from thirdshift.apps.training.syllo.held_out import held_out_words, is_held_out, syllable_orders
from thirdshift.apps.training.syllo.levels import LEVELS, Level, UnknownLevel, find_level
from thirdshift.apps.training.syllo.lexicon import Entry, MalformedLexicon, load_lexicon, parse_lexicon, tier
from thirdshift.apps.training.syllo.puzzle import MalformedPrompt, Puzzle, Question, check, parse_prompt, solve

__all__ = [
    "LEVELS",
    "Entry",
    "Level",
    "MalformedLexicon",
    "MalformedPrompt",
    "Puzzle",
    "Question",
    "UnknownLevel",
    "as_chat_row",
    "check",
    "find_level",
    "generate",
    "held_out_words",
    "is_held_out",
    "load_lexicon",
    "parse_lexicon",
    "parse_prompt",
    "solve",
    "syllable_orders",
    "tier",
    "write_jsonl",
]
