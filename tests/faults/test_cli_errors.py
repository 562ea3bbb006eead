"""What a person sees who mistypes: one screen, no traceback, exit code 2, and the name of what is wrong."""

import threading
from pathlib import Path

import processes
import pytest

pytestmark = pytest.mark.timeout(120)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


@pytest.fixture
def environment(stores, tmp_path):
    return {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
        "PULSEBMS_DATA": str(tmp_path / "data"),
    }


def refused(environment, *arguments):
    done = processes.run(list(arguments), environment)
    text = done.stdout + done.stderr
    assert done.returncode == 2, text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 25
    return text


def test_site_and_device_that_are_not_there(environment, tmp_path):
    for arguments in (("plan", "--site"), ("dispatch", "--site"), ("twin", "run", "--site"), ("history", "--site")):
        assert "'nowhere'" in refused(environment, *arguments, "nowhere")
    assert "'nobody'" in refused(environment, "device", "run", "nobody")
    assert "'nobody'" in refused(environment, "command", "send", "nobody", "request_status")
    absent = str(tmp_path / "absent.yaml")
    assert absent in refused(environment, "site", "load", absent)


def test_a_misspelt_key_is_named_with_its_line_and_the_right_one_and_nothing_is_written(environment, stores, tmp_path):
    text = SITE_FILE.read_text().replace("export_limit_w:", "export_limitt_w:")
    (tmp_path / "site.yaml").write_text(text)
    line = next(k for k, found in enumerate(text.splitlines(), 1) if "export_limitt_w" in found)
    shown = refused(environment, "site", "load", str(tmp_path / "site.yaml"))
    assert f"site.yaml:{line}: grid.export_limitt_w" in shown
    assert "did you mean 'export_limit_w'" in shown
    assert stores.pg.execute("SELECT count(*) FROM device_configurations").fetchone() == (0,)


def test_a_site_without_prices_or_with_wrong_arguments(environment, stores):
    assert processes.run(["site", "load", str(SITE_FILE)], environment).returncode == 0
    assert "day_ahead_price" in refused(environment, "plan", "--site", "demo")
    send = ("command", "send", "pack-lfp", "start_charge")
    assert "target_pwr" in refused(environment, *send, "--set", "target_pwr=3")
    assert "'abc'" in refused(environment, *send, "--set", "target_power=abc")
    assert "name=value" in refused(environment, *send, "--set", "target_power")
    assert "target_power" in refused(environment, *send)
    assert "--until" in refused(environment, "dispatch", "--site", "demo", "--until", "soon")
    assert "--days" in refused(environment, "demo", "--days", "-1")
    assert stores.pg.execute("SELECT count(*) FROM command_history").fetchone() == (0,)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/x"),
        ("DATABASE_URL", "geheim"),
        ("REDIS_URL", "redis://:geheim@127.0.0.1:1/0"),
        ("MONGODB_URI", "mongodb://u:geheim@127.0.0.1:1/x"),
    ],
)
def test_a_server_that_is_not_there_is_named_by_its_variable_without_its_password(environment, variable, url):
    shown = refused({**environment, variable: url}, "history", "--site", "demo")
    assert variable in shown
    assert "geheim" not in shown


def test_two_commands_at_once_against_one_data_directory(tmp_path):
    """Both start together in an empty directory: one keeper, both succeed, nothing is left."""
    own = {"PULSEBMS_DATA": str(tmp_path / "data")}
    done = {}
    commands = {"load": ["site", "load", str(SITE_FILE)], "migrate": ["migrate"]}
    threads = [
        threading.Thread(target=lambda n=name, a=arguments: done.update({n: processes.run(a, own, timeout_s=90)}))
        for name, arguments in commands.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: result.returncode for name, result in done.items()} == {"load": 0, "migrate": 0}, [
        result.stderr for result in done.values()
    ]
    assert "4 packs" in done["load"].stdout
    processes.until(lambda: not processes.using(tmp_path / "data"), "no process is left")
