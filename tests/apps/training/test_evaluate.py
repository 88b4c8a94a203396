"""Examinations: greedy answers, right only letter for letter, the same however they are batched."""

import json
from pathlib import Path

import pytest
import torch

from thirdshift.apps.training.data.encoding import encode_question
from thirdshift.apps.training.data.rows import Message, Row
from thirdshift.apps.training.models.evaluate import exact_match, examples_from_jsonl
from thirdshift.apps.training.models.model import load_model


def asks(question: str, answer: str, level: str = "") -> Row:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=turns, level=level)


@pytest.fixture(scope="module")
def parrot(nano_model: Path) -> tuple[object, object]:
    """A nano model that has learnt a few answers by heart."""
    from thirdshift.apps.training.data.batches import pad_rows
    from thirdshift.apps.training.data.encoding import encode_row
    from thirdshift.apps.training.models.loss import summed_loss

    model, tokenizer = load_model(nano_model)
    torch.manual_seed(0)
    rows = [encode_row(row, tokenizer, 512) for row in KNOWN]
    batch = pad_rows([(row.ids, row.trained) for row in rows], tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (summed_loss(model, batch) / sum(map(len, (row.ids for row in rows)))).backward()
        optimizer.step()
    return model, tokenizer


KNOWN = [asks("a?", "ant", "1"), asks("a longer b?", "bee", "1"), asks("c " * 9, "cow", "2"), asks("d", "dog", "2")]


class TestExactMatch:
    def test_what_was_learnt_is_right(self, parrot: tuple[object, object]) -> None:
        """All answers known by heart count, by level too, and their loss is small."""
        evaluation = exact_match(*parrot, KNOWN)
        assert evaluation is not None
        assert (evaluation.asked, evaluation.right, evaluation.accuracy) == (4, 4, 1.0)
        assert evaluation.by_level == {"1": (2, 2), "2": (2, 2)}
        assert evaluation.loss < 0.1

    def test_almost_right_is_wrong(self, parrot: tuple[object, object]) -> None:
        """A prefix, another case or a longer word is no match; blanks around the answer do not matter."""
        asked = [asks("a?", "an"), asks("a?", "Ant"), asks("a?", "ants"), asks("a?", " ant ")]
        evaluation = exact_match(*parrot, asked)
        assert evaluation is not None
        assert (evaluation.asked, evaluation.right) == (4, 1)

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_batching_does_not_change_the_answers(self, parrot: tuple[object, object], batch_size: int) -> None:
        """Questions of several lengths side by side are answered as each alone."""
        together = exact_match(*parrot, KNOWN)
        apart = exact_match(*parrot, KNOWN, batch_size=batch_size)
        assert together is not None
        assert apart is not None
        assert (apart.right, apart.by_level) == (together.right, together.by_level)
        assert apart.loss == pytest.approx(together.loss, rel=1e-4)

    def test_answers_are_those_of_transformers(self, parrot: tuple[object, object], nano_model: Path) -> None:
        """Greedy generation by transformers gives the same tokens, also for a model that knows nothing."""
        from thirdshift.apps.training.models.evaluate import greedy

        model, tokenizer = load_model(nano_model)
        model.eval()
        questions = [encode_question(row.question, tokenizer, 512) for row in KNOWN]
        with torch.no_grad():
            ours = [tokens for tokens, _ in zip(greedy(model, questions, 256), range(8), strict=False)]
            for line, question in enumerate(questions):
                asked = torch.tensor([question])
                said = model.generate(
                    asked, attention_mask=torch.ones_like(asked), max_new_tokens=8, do_sample=False, eos_token_id=None
                )
                assert said[0, len(question) :].tolist() == [int(tokens[line]) for tokens in ours]

    def test_a_stop_is_heeded_amid_an_answer(self, parrot: tuple[object, object]) -> None:
        """The stop is asked for at every token, and the model is given back as it came."""
        parrot[0].train()  # type: ignore[attr-defined]
        asked = iter([False, False, True])
        assert exact_match(*parrot, KNOWN, should_stop=lambda: next(asked)) is None
        assert parrot[0].training  # type: ignore[attr-defined]

    def test_nothing_asked_is_not_perfect(self, parrot: tuple[object, object]) -> None:
        """No questions give no accuracy."""
        evaluation = exact_match(*parrot, [])
        assert evaluation is not None
        assert (evaluation.asked, evaluation.accuracy, evaluation.loss) == (0, 0.0, 0.0)


def test_examples_are_the_rows_that_ask(tmp_path: Path) -> None:
    """Plain text is passed over; levels are kept; the limit counts questions."""
    path = tmp_path / "held_out.jsonl"
    rows = [{"text": "a"}, {"prompt": "b", "completion": "c", "level": 2}, {"prompt": "d", "completion": "e"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert examples_from_jsonl(path, 1) == [asks("b", "c", "2")]
    assert len(examples_from_jsonl(path)) == 2
