"""``thirdshift train chat``: talk to the current model, or give it a puzzle."""

import sys
import time
from typing import TYPE_CHECKING

import click

from thirdshift.cli.output import Session, print_json

if TYPE_CHECKING:
    from thirdshift.apps.training.models.talk import Talk


@click.command()
@click.option("--prompt", help="Say this, print the answer, and end.")
@click.option("--puzzle", is_flag=True, help="Give it a SYLLO puzzle that was never trained, and judge the answer.")
@click.option("--level", type=click.IntRange(1, 10), default=1, show_default=True, help="Level of the puzzle.")
@click.option("--seed", type=int, help="The same seed gives the same puzzle. Default: the clock's seconds.")
@click.option("--longest", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens of an answer.")
@click.pass_obj
def chat(session: Session, prompt: str | None, puzzle: bool, level: int, seed: int | None, longest: int) -> None:
    """Talk to the workspace's current model, also while the daemon trains; a newly published one answers from then on.

    Lines are read until Ctrl-D or Ctrl-C; "/new" begins a new conversation.

    \b
    thirdshift train chat
    thirdshift train chat --prompt 'na rob ba in na | yellow fruit, red bird = '
    thirdshift --json train chat --puzzle --level 3 | jq .is_right
    """
    if prompt is not None and puzzle:
        raise click.UsageError("--prompt and --puzzle exclude each other")
    try:
        talk = _talk(session, longest)
        if puzzle:
            _give_puzzle(session, talk, level, int(time.time()) if seed is None else seed)
        elif prompt is not None:
            _answer_once(session, talk, prompt)
        else:
            _converse(session, talk)
    except KeyboardInterrupt:
        click.echo("", err=True)


def _talk(session: Session, longest: int) -> "Talk":
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415

    model = TrainingWorkspace(session.workspace).current_model
    if not (model / "config.json").is_file():
        raise click.ClickException(
            f"there is no model in {model} yet; the first training makes one: 'thirdshift up', or "
            "'thirdshift train run FILE'"
        )
    from thirdshift.apps.training.models.talk import Talk  # noqa: PLC0415  # loads torch

    return Talk(model, longest=longest)


def _answer_once(session: Session, talk: "Talk", prompt: str) -> None:
    if session.as_json:
        answer = "".join(talk.say(prompt))
        print_json({"prompt": prompt, "answer": answer, "checkpoint": talk.checkpoint})
        return
    _print_answer(talk, prompt)


def _give_puzzle(session: Session, talk: "Talk", level: int, seed: int) -> None:
    from thirdshift.apps.training import syllo  # noqa: PLC0415

    (given,) = syllo.generate(1, seed=seed, levels=(level,), held_out=True)
    answer = "".join(talk.say(given.prompt)).strip()
    is_right = syllo.check(given.prompt, answer)
    if session.as_json:
        print_json(
            {
                "level": level,
                "seed": seed,
                "prompt": given.prompt,
                "expected": given.answer,
                "answer": answer,
                "is_right": is_right,
                "checkpoint": talk.checkpoint,
            }
        )
        return
    click.echo(f"puzzle   {given.prompt}")
    click.echo(f"answer   {_shown(answer)}")
    click.echo("right" if is_right else f"wrong; right is {given.answer}")


def _converse(session: Session, talk: "Talk") -> None:
    if session.as_json:
        raise click.UsageError("a conversation has no JSON form; say what to ask with --prompt or --puzzle")
    is_watched = sys.stdin.isatty()
    if is_watched:
        import readline  # noqa: F401, PLC0415  # lines can be edited and repeated

        click.echo(f"{talk.checkpoint or 'an untrained model'} answers; Ctrl-D ends", err=True)
    while True:
        try:
            line = input("> " if is_watched else "")
        except EOFError:
            return
        if line.strip() == "/new":
            talk.forget()
        elif line.strip():
            _print_answer(talk, line)


def _print_answer(talk: "Talk", text: str) -> None:
    for piece in talk.say(text):
        click.echo(_shown(piece), nl=False)
    click.echo("")


def _shown(text: str) -> str:
    """Return *text* without what would steer a terminal: a model that learnt little says any byte."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "·" for letter in text)
