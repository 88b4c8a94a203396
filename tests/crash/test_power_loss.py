"""A power loss at any moment takes nothing that a full submit or its outcome promised. See ``power_loss``."""

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.testing.torture import power_loss
from thirdshift.testing.torture.syscalls import why_no_strace

IMAGES = 500
CONTROL_IMAGES = 300

pytestmark = pytest.mark.skipif(why_no_strace() is not None, reason=str(why_no_strace()))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Images lie in memory where that is possible: what a disk would lose is computed."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="power-loss-", dir=memory) as folder:
        yield Path(folder)


def test_acknowledged_full_tasks_and_outcomes_survive_a_power_loss_at_any_moment(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that was acknowledged is lost, the file is sound, and the engine finishes all that is left."""
    tally = power_loss.run_arm("full", images=IMAGES, seed=1, folder=folder)
    if tally.cases:
        shutil.copytree(folder, tmp_path / "recordings")
    with capsys.disabled():
        sys.stdout.write(f"\n{tally}\n")
    assert tally.images == IMAGES
    assert tally.losses > IMAGES // 3  # else the images prove nothing
    assert not tally.kinds, tally.cases


@pytest.mark.parametrize("arm", power_loss.CONTROLS)
def test_a_broken_variant_is_caught(arm: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same harness finds what each planted fault loses."""
    kind = power_loss.CONTROLS[arm]
    tally = power_loss.run_arm(arm, images=CONTROL_IMAGES, seed=1, folder=folder, until=kind)
    with capsys.disabled():
        sys.stdout.write(f"\n{tally}\n")
    assert tally.kinds[kind] >= 1


def test_one_seed_makes_the_same_images_again(folder: Path) -> None:
    """A violation that was found can be looked at again."""
    recording = power_loss.record(folder, seed=3)
    read_again = power_loss.read_trace(folder / "trace", folder / "work")
    images = []
    for source in (recording, read_again):
        for number in range(5):
            case = power_loss.judge_image(source, folder / "image", seed=7, number=number)
            assert not case.violations
            rng = random.Random(f"{case.seed}/{case.number}")
            cut = rng.choice(source.cuts())
            images.append((case.cut, case.mode, power_loss.build_image(source, cut, power_loss.Fate(rng))))
    assert images[:5] == images[5:]
