"""A site file into PostgreSQL, all of it or nothing, and back.

Here: `load_site`, `read_site_file`, `site_config`. Not here: the file's models (core.site), SQL (stores.postgres).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

from pydantic import ValidationError

from core.errors import InputError
from core.limits import ConstraintRow
from core.policy_record import PolicyRecord
from core.site import ConstraintSpec, SiteConfig
from core.yamlconfig import parse_model
from stores.postgres.connection import PgConnection
from stores.postgres.constraints import add_constraint, constraint_rows, deactivate_constraints
from stores.postgres.devices import get_device, list_devices, upsert_device
from stores.postgres.policies import ranked_policies, set_policy_status, upsert_policy
from stores.postgres.sites import get_site, put_site

WRITTEN_BY = "site file"
_DECIMALS = 3
"""Digits of the finest DECIMAL column of safety_constraints (cell voltages)."""


def read_site_file(file: Path | str) -> SiteConfig:
    """Parse a file (Path) or YAML text (str); InputError names file, line, field, value and what was expected."""
    if isinstance(file, str):
        return parse_model(file, "site text", SiteConfig)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(source=str(file), field="file", value=error.strerror, expected="a readable file") from None
    except UnicodeDecodeError:
        raise InputError(source=str(file), field="file", value="other bytes", expected="UTF-8 text") from None
    return parse_model(text, str(file), SiteConfig)


def load_site(conn: PgConnection, file: Path | str) -> SiteConfig:
    """Write a site's devices, constraints, policies and configuration in one transaction.

    Loading again replaces: constraint rows change only where the file did; a pack that the file no longer has loses its
    limits, without which it is never commanded; a policy that it no longer has becomes inactive. Records (history,
    telemetry) stay. Raises InputError for a faulty file or a pack that belongs to another site.
    """
    site = read_site_file(file)
    with conn.transaction():
        _write_packs(conn, site)
        _write_policies(conn, site)
        put_site(conn, site.site_id, site.name, site.timezone, site.model_dump(mode="json"))
    return site


def site_config(conn: PgConnection, site_id: str) -> SiteConfig:
    """The site as it was loaded. Raises InputError when there is none, or when its stored form is no longer valid."""
    row = get_site(conn, site_id)
    if row is None:
        raise InputError(
            source="optimizer.sites",
            field="site_id",
            value=site_id,
            expected="one loaded by `pulsebms site load FILE`",
        )
    try:
        return SiteConfig.model_validate(dict(row.config))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(
            source=f"optimizer.sites {site_id}",
            field=".".join(str(part) for part in fault["loc"]),
            value=fault.get("input"),
            expected=f"{fault['msg']}; load the site file again",
        ) from None


def _write_packs(conn: PgConnection, site: SiteConfig) -> None:
    ids = {pack.device_id for pack in site.packs}
    for device in list_devices(conn, site.site_id):
        if device.device_id not in ids:
            deactivate_constraints(conn, device.device_id)
    present = constraint_rows(conn, site.site_id)
    for pack in site.packs:
        known = get_device(conn, pack.device_id)
        if known is not None and known.site_id != site.site_id:
            raise InputError(
                source=f"site {site.site_id}",
                field="device_id",
                value=pack.device_id,
                expected=f"an id that is not yet taken (it belongs to site {known.site_id})",
            )
        upsert_device(conn, pack.device_config(site.site_id), by=WRITTEN_BY)
        wanted = [spec.row(pack.device_id, "") for spec in pack.constraints if spec.active]
        if _same(present.get(pack.device_id, []), wanted, pack.constraints):
            continue
        deactivate_constraints(conn, pack.device_id)
        for row in wanted:
            add_constraint(conn, row, by=WRITTEN_BY)


def _same(present: Sequence[ConstraintRow], wanted: Sequence[ConstraintRow], specs: Sequence[ConstraintSpec]) -> bool:
    """Whether the same rows are in force, whatever their ids; a start that the file leaves open was the loading's."""
    if len(present) != len(wanted):
        return False
    open_start = all(spec.effective_from is None for spec in specs)
    return sorted(_key(row, open_start) for row in present) == sorted(_key(row, open_start) for row in wanted)


def _key(row: ConstraintRow, open_start: bool) -> tuple[str, ...]:
    plain = replace(row, row_id="", effective_from=None) if open_start else replace(row, row_id="")
    return tuple(
        f"{value:.{_DECIMALS}f}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else repr(value.timestamp() if hasattr(value, "timestamp") else value)
        for value in astuple(plain)
    )


def _write_policies(conn: PgConnection, site: SiteConfig) -> None:
    names = {spec.name for spec in site.policies}
    for status in ("active", "testing"):
        for record in ranked_policies(conn, site.site_id, status):
            if record.name not in names and record.policy_id is not None:
                set_policy_status(conn, record.policy_id, "inactive")
    for spec in site.policies:
        upsert_policy(
            conn,
            PolicyRecord(
                policy_id=None,
                site_id=site.site_id,
                name=spec.name,
                policy_type=spec.policy_type,
                config=spec.config,
                model_version=spec.model_version,
                horizon_hours=spec.horizon_hours,
                update_interval_seconds=spec.update_interval_seconds,
                status=spec.status,
                performance_score=spec.performance_score,
            ),
        )
