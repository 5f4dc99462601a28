"""What `cakework.toml` may say of triggers, and how it is told what is wrong with them."""

from pathlib import Path

import pytest

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.manifest import read_manifest
from cakework.cli.manifest_triggers import DeclaredTrigger
from cakework.domain.triggers import TriggerType

HEAD = 'name = "orders"\nruntime = "python"\n'
CRON = '[[triggers]]\ntype = "cron"\n'
EVENT = '[[triggers]]\ntype = "event"\ntypes = ["order.paid"]\n'
HOOK = '[[triggers]]\ntype = "webhook"\nname = "stripe"\n'


def read(folder: Path, text: str) -> tuple[DeclaredTrigger, ...]:
    (folder / "cakework.toml").write_text(HEAD + text)
    return read_manifest(folder).triggers


def test_triggers_are_told_as_the_api_has_them(tmp_path: Path) -> None:
    """What is of all types apart from what is of one; settings of the function are none of it."""
    found = read(
        tmp_path,
        "timeout = 60\n"
        f'{CRON}cron = "0 9 * * 1-5"\ntimeZone = "Europe/Berlin"\nstartAt = 2026-12-01T09:00:00Z\n'
        "data = { n = 1 }\nretry = { maxAttempts = 3 }\npauseAfter = 5\nenabled = false\n"
        f'{EVENT}name = "large"\nfilter = {{ data = {{ total = [{{ numeric = [">", 100] }}] }} }}\n'
        f'onFailure.functionId = "fn_01M84JAQ6RGNRXKE5TFB8SJJJE"\n'
        f'{HOOK}verify = {{ scheme = "stripe" }}\nrespond = "result"\n'
        '[[triggers]]\ntype = "lifecycle"\ntypes = ["cakework.invocation.failed"]\n',
    )
    assert found == (
        DeclaredTrigger(
            external_id="file:cron:1",
            type=TriggerType.CRON,
            config={
                "cron": "0 9 * * 1-5",
                "timeZone": "Europe/Berlin",
                "startAt": "2026-12-01T09:00:00+00:00",
                "data": {"n": 1},
            },
            retry={"maxAttempts": 3},
            pause_after=5,
            enabled=False,
        ),
        DeclaredTrigger(
            external_id="file:name:large",
            type=TriggerType.EVENT,
            config={"types": ["order.paid"]},
            name="large",
            filter={"data": {"total": [{"numeric": [">", 100]}]}},
            on_failure="fn_01M84JAQ6RGNRXKE5TFB8SJJJE",
        ),
        DeclaredTrigger(
            external_id="file:name:stripe",
            type=TriggerType.WEBHOOK,
            config={"verify": {"scheme": "stripe"}, "respond": "result"},
            name="stripe",
        ),
        DeclaredTrigger(
            external_id="file:lifecycle:1",
            type=TriggerType.LIFECYCLE,
            config={"types": ["cakework.invocation.failed"]},
        ),
    )


def test_each_is_known_again(tmp_path: Path) -> None:
    """By its name, whatever signs that has; without one by its place among those of its type."""
    every, named = f"{CRON}every = 60\n", '{}every = 60\nname = "{}"\n'
    names = ("every morning", "x" * 255, "Täglich")
    text = every + EVENT + every + "".join(named.format(CRON, name) for name in names)
    found = read(tmp_path, text)
    ids = [each.external_id for each in found]
    assert ids[:3] == ["file:cron:1", "file:event:1", "file:cron:2"]
    assert len(set(ids)) == len(ids)
    assert all(len(each) <= 128 and each.isascii() and " " not in each for each in ids)
    assert [each.label for each in found][2:4] == ["cron:2", "every morning"]
    again = read(tmp_path, "".join(named.format(CRON, name) for name in reversed(names)))
    assert {each.external_id for each in again} == set(ids[3:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("triggers = 3", "line 3: triggers should be tables, each below a line [[triggers]]"),
        ("[triggers]\ntype = 'cron'", "line 3: triggers should be tables"),
        ("[[triggers]]\ncron = '* * * * *'", "line 3: triggers.type is missing: cron, event, "),
        ("[[triggers]]\ntype = 'timer'", "line 4: triggers.type should be cron, event, webhook"),
        (CRON, "line 3: triggers needs one of cron, every and at."),
        (f"{CRON}every = 5", "line 5: triggers.every should be greater than or equal to 10."),
        (f"{CRON}every = 60\ncrn = 1", "line 6: triggers.crn is unknown; did you mean cron?"),
        (f"{CRON}every = 60\ntypes = ['a']", "line 6: triggers.types is unknown"),
        (f"{CRON}cron = '0 9 * * 1-5'\ntimeZone = 'Mars'", "line 6: triggers.timeZone "),
        (f"{CRON}cron = '61 * * * *'", "line 5: triggers.cron "),
        (f"{CRON}every = 60\n{CRON}\nevery = 9", "line 9: triggers.every should be greater"),
        (f"{CRON}every = 60\n\n{CRON}", "line 7: triggers needs one of cron, every and at."),
        (f"{CRON}every = 60\nfilter = {{}}", "line 6: triggers.filter is for events, webhooks"),
        (f"{CRON}every = 60\nretry.maxAtempts = 1", "line 6: triggers.retry.maxAtempts is unknown"),
        (f"{CRON}every = 60\nretry.maxAttempts = 0", "line 6: triggers.retry.maxAttempts should"),
        (f"{CRON}every = 60\n[[triggers.limits]]\ntype = 'rate'", "triggers.limits"),
        (f"{CRON}every = 60\nlimits = [{{ type = 'x' }}]", "line 6: triggers.limits"),
        (f"{CRON}every = 60\nonFailure = {{ id = 1 }}", "line 6: triggers.onFailure.id is unknown"),
        (f"{CRON}every = 60\ndata = [1979-05-27]", "line 6: triggers.data has something in it"),
        (f"{CRON}every = 60\ndata = nan", "line 6: triggers.data has something in it"),
        (f"{CRON}every = 60\npauseAfter = 0", "line 6: triggers.pauseAfter should be greater"),
        (f"{CRON}every = 60\nenabled = 'no'", "line 6: triggers.enabled should be a valid bool"),
        (f"{EVENT}filter = {{ total = [{{ nmeric = 1 }}] }}", "line 6: triggers.filter total"),
        (f"{EVENT}name = 'a'\n{CRON}every = 60\nname = 'a'", "line 10: triggers.name is another"),
        ("[[triggers]]\ntype = 'event'\ntypes = []", "line 5: triggers.types should have at"),
        (
            "[[triggers]]\ntype = 'lifecycle'\ntypes = ['order.paid']",
            "line 5: triggers.types is nothing that the platform tells; there are cakework.build",
        ),
        ("[[triggers]]\ntype = 'webhook'", "line 3: triggers.name is missing: by its name a"),
        (f"{HOOK}verify.scheme = 'strip'", "line 6: triggers.verify.scheme should be"),
        (f"{HOOK}verify.scheme = 'stripe'\nverify.secret = 's3cret'", "`cakework triggers rotate`"),
        (f"{HOOK}verify = {{ scheme = 'hmac', heder = 'a' }}", "line 6: triggers.verify.heder"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """Of the trigger that it is in, and no secret that is in a file is said again."""
    with pytest.raises(CommandFailed) as failure:
        read(tmp_path, text)
    assert said in failure.value.detail
    assert "s3cret" not in failure.value.detail
    assert failure.value.exit_code == ExitCode.USAGE
