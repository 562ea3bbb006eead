"""What a person sees who mistypes: one screen, no traceback, exit code 2, and the name of what is wrong."""

import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import processes
import pytest
import structlog

from serving.cli import main
from serving.site_loader import load_site
from stores.mongo.telemetry import insert_telemetry

pytestmark = pytest.mark.timeout(120)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
MEASURED = {
    "voltage": 390.0, "current": 0.0, "power": 0.0, "temperature": 20.0, "soc": 50.0, "soh": 90.0, "internal_resistance": 0.05,
}  # fmt: skip


@pytest.fixture
def environment(stores, tmp_path):
    return {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
        "PULSEBMS_DATA": str(tmp_path / "data"),
    }


@pytest.fixture
def refused(environment, monkeypatch, capfd):
    """Run the entry point in this process (a start costs two seconds of imports) and return what it shows."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pulsebms", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == 2, out + err
        assert "Traceback" not in out + err
        assert len((out + err).splitlines()) < 25
        return out + err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    structlog.reset_defaults()


def test_site_and_device_that_are_not_there(refused, tmp_path):
    for arguments in (("plan", "--site"), ("dispatch", "--site"), ("twin", "run", "--site"), ("history", "--site")):
        assert "'nowhere'" in refused(*arguments, "nowhere")
    assert "'nobody'" in refused("device", "run", "nobody")
    assert "'nobody'" in refused("command", "send", "nobody", "request_status")
    absent = str(tmp_path / "absent.yaml")
    assert absent in refused("site", "load", absent)


def test_a_misspelt_key_is_named_with_its_line_and_the_right_one_and_nothing_is_written(refused, stores, tmp_path):
    text = SITE_FILE.read_text().replace("export_limit_w:", "export_limitt_w:")
    (tmp_path / "site.yaml").write_text(text)
    line = next(k for k, found in enumerate(text.splitlines(), 1) if "export_limitt_w" in found)
    shown = refused("site", "load", str(tmp_path / "site.yaml"))
    assert f"site.yaml:{line}: grid.export_limitt_w" in shown
    assert "did you mean 'export_limit_w'" in shown
    assert stores.pg.execute("SELECT count(*) FROM device_configurations").fetchone() == (0,)


def test_a_site_without_prices_or_with_wrong_arguments(refused, stores):
    load_site(stores.pg, SITE_FILE)
    assert "day_ahead_price" in refused("plan", "--site", "demo")
    send = ("command", "send", "pack-lfp", "start_charge")
    assert "target_pwr" in refused(*send, "--set", "target_pwr=3")
    assert "'abc'" in refused(*send, "--set", "target_power=abc")
    assert "name=value" in refused(*send, "--set", "target_power")
    assert "target_power" in refused(*send)
    assert "--until" in refused("dispatch", "--site", "demo", "--until", "soon")
    for too_few in ("-1", "0.0104"):
        assert "--days" in refused("demo", "--days", too_few)
    assert stores.pg.execute("SELECT count(*) FROM command_history").fetchone() == (0,)


def test_a_demo_on_ones_own_servers_is_refused_unless_told_to(refused, monkeypatch):
    for variable in ("DATABASE_URL", "REDIS_URL", "MONGODB_URI"):
        shown = refused("demo")
        assert variable in shown
        assert "--on-these-servers" in shown
        monkeypatch.delenv(variable)


def test_a_demo_over_telemetry_that_no_demo_wrote_is_refused_and_deletes_nothing(refused, stores):
    stamp = datetime.now(UTC) - timedelta(minutes=3)
    insert_telemetry(stores.mongo, [{"site_id": "demo", "device_id": "pack-lfp", "timestamp": stamp, "measurements": MEASURED}])
    shown = refused("demo", "--on-these-servers", "--site-file", str(SITE_FILE))
    assert "telemetry" in shown
    assert "--forget" in shown
    assert "PULSEBMS_DATA" in shown
    assert stores.mongo["telemetry_data"].count_documents({"site_id": "demo"}) == 1
    assert stores.pg.execute("SELECT count(*) FROM device_configurations").fetchone() == (0,), "no site was loaded either"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/x"),
        ("DATABASE_URL", "geheim"),
        ("REDIS_URL", "redis://:geheim@127.0.0.1:1/0"),
        ("MONGODB_URI", "mongodb://u:geheim@127.0.0.1:1/x"),
    ],
)
def test_a_server_that_is_not_there_is_named_by_its_variable_without_its_password(refused, monkeypatch, variable, url):
    monkeypatch.setenv(variable, url)
    shown = refused("history", "--site", "demo")
    assert variable in shown
    assert "geheim" not in shown


def test_as_a_process_of_its_own_too(environment):
    done = processes.run(["history", "--site", "nowhere"], environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pulsebms: ")
    assert "'nowhere'" in done.stderr


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
