"""Load that nobody forecasts under a peak tariff (policies_peak_plant, policies_peak_load): MPC, MPC set by hand, HYBRID.

Sites of one model whose loads have nothing to do with one another, with the same prices; sums over them. A step's price and
load are seen when it begins, prices of later ones as published. The MPC plans 24 h, exactly, over stored energy and the month's
peak so far, on expected loads. By hand it gets a peak that it does not try to get below, a rent on what its store lacks by day,
a margin on loads; those that earned most on the validation year. HYBRID plans over what is learned on the training years: how the
load moves from state to state (Chain), and so what energy and peak are worth where the published prices end: the mean cost of the
rest of the month. Percent are of what perfect foresight saves against idle stores. Blocks of the interval are months: the tariff
bills them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Table, progress
from benchmarks.policies_peak_load import STATES, Chain, IntArray, count_chain, expected, site_load, usual_of_days
from benchmarks.policies_peak_plant import LEFT_OVER, FloatArray, chained, closed, final, foresight, operate, plan
from training.value_data import Rows, ValueTask
from training.value_market import PUBLISHED_HOUR, look_ahead, trailing
from training.value_network import GATE_LEVEL
from training.value_score import Difference, Run, compare

SITES = 5
AHEAD, WEEK, LATER = 24, 168, 48
"""Hours that the MPC plans; of a week; beyond a month's end that its worth is counted to."""
DAYS_BEYOND = 60
SHARES = (0.25, 0.5, 0.75, 1.0)
UNTRAINED_DAYS = 28
LEFTS, TARGETS_KW, RENTS, MARGINS_KW = (0.5, 0.7, 0.9), (0.0, 160.0, 180.0, 200.0, 220.0), (0.0, 0.05, 0.1, 0.2), (0.0, 10.0)
COLUMNS = (
    "market, period", "policy", "% of perfect foresight", "less MPC set by hand: points [95 %]", "months won / lost", "EUR",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Prices, loads and what is known of them; hours from a midnight on."""

    price: FloatArray
    price_ahead: FloatArray
    """(T, AHEAD)."""
    load: FloatArray
    month_ends: NDArray[np.bool_]
    work: IntArray
    """1 on working days; some days more than there is data."""
    usual: FloatArray

    def prices_seen(self, hours: IntArray, until: int) -> FloatArray:
        """Published before `until`; later ones are taken from weeks before."""
        back = np.where(hours < until, 0, -((until - 1 - hours) // WEEK))
        return self.price[np.minimum(hours - back * WEEK, len(self.price) - 1)]

    def ends(self, hours: IntArray) -> NDArray[np.bool_]:
        """Which hours end a month; beyond the data none."""
        return np.where(hours < len(self.price), self.month_ends[np.minimum(hours, len(self.price) - 1)], False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """What the MPC is told."""

    left: float = 0.5
    """Of the latest error, an hour later."""
    target_kw: float = 0.0
    rent: float = 0.0
    """For each kWh that is lacking and hour, 6 to 20 h of working days: share of the standard deviation of a week's prices, as it
    was two days before."""
    margin_kw: float = 0.0


def mpc(site: Site, rows: Rows, how: ByHand) -> FloatArray:
    """The MPC's tables."""
    hours = np.arange(*rows)
    by_day = (site.work[hours // 24] == 1) & (hours % 24 >= 6) & (hours % 24 < 20)
    loads = expected(site.load, site.usual, site.work, rows, AHEAD, how.left) + how.margin_kw
    rent = np.where(by_day, how.rent * trailing(site.price, WEEK)[1][np.maximum(hours - 48, 0)], 0.0)
    part = slice(*rows)
    return np.asarray(plan(site.price_ahead[part], loads, site.month_ends[part], how.target_kw, rent))


def learned(site: Site, rows: Rows, chain_at: Callable[[int], Chain], *, whole_month: bool = True) -> FloatArray:
    """Tables by the chain that is known at an hour; without `whole_month` they end with the published prices, as a plan does."""
    out = np.zeros((rows[1] - rows[0], *final(0.0, 0.0).shape))
    first = rows[0] // 24 - 1
    for day in range(first, -(-rows[1] // 24)):
        now, until = 24 * day + PUBLISHED_HOUR, 24 * (day + 2)
        passed = (day - first) % 7
        if passed == 0:
            chain = chain_at(now)
            rest = _rest_of_month(site, chain, until) if whole_month else None
        hours = np.arange(now + 1, until)
        price = site.prices_seen(hours, until)
        last = rest[passed] if rest is not None else _final(price)
        tables = _chained(site, chain, hours, price, last, 1)
        for k in range(24):
            t = now + k
            if rows[0] <= t < rows[1]:
                table = tables[k, chain.state(site.load[t], site.work[t // 24], np.int64(t % 24))]
                out[t - rows[0]] = closed(table, 0.0) if site.month_ends[t] else table
    return out


def _rest_of_month(site: Site, chain: Chain, until: int) -> FloatArray:
    """The mean cost to go at each midnight from `until` on, for a week or more, (days, STATES, SOCS, PEAKS)."""
    ends = until + WEEK + np.flatnonzero(site.ends(np.arange(until + WEEK, until + 24 * DAYS_BEYOND)))
    stop = (ends[0] if len(ends) else until + WEEK) + LATER
    hours = np.arange(until, until + -(-(stop - until) // 24) * 24)
    price = site.prices_seen(hours, until)
    return _chained(site, chain, hours, price, _final(price[:WEEK]), 24)


def _final(price: FloatArray) -> FloatArray:
    return np.repeat(final(LEFT_OVER * float(price.mean()), 0.0)[None], STATES, axis=0)


def _chained(site: Site, chain: Chain, hours: IntArray, price: FloatArray, last: FloatArray, every: int) -> FloatArray:
    kind, hour = site.work[hours // 24], hours % 24
    load = chain.usual_kw[kind, hour][:, None] + chain.above_kw[kind, hour]
    return np.asarray(chained(price, load, chain.moves[kind, hour], site.ends(hours), last, every))


def run(site: Site, rows: Rows, tables: FloatArray) -> Run:
    part = slice(*rows)
    saved, stored = operate(site.price[part], site.load[part], site.month_ends[part], tables)
    return Run(earned_eur=saved, stored_kwh=stored)


def total(runs: Iterable[Run]) -> Run:
    """Of several sites."""
    all_of_them = list(runs)
    return Run(
        earned_eur=np.sum([one.earned_eur for one in all_of_them], axis=0),
        stored_kwh=np.sum([one.stored_kwh for one in all_of_them], axis=0),
    )


def months(site: Site, rows: Rows) -> IntArray:
    """Where the months of a period begin, and its end."""
    return np.concatenate([[0], np.flatnonzero(site.month_ends[rows[0] : rows[1] - 1]) + 1, [rows[1] - rows[0]]])


def by_hand(earned: Callable[[ByHand], float]) -> ByHand:
    """The best settings, one after another, then the target once more."""
    best = ByHand()
    for name, values in (
        ("left", LEFTS), ("target_kw", TARGETS_KW), ("rent", RENTS), ("target_kw", TARGETS_KW), ("margin_kw", MARGINS_KW),
    ):  # fmt: skip
        best = max((replace(best, **{name: value}) for value in values), key=earned)
    return best


def sites_of(task: ValueTask) -> list[Site]:
    market = task.market
    price, hours, weekday = market.price_eur_per_kwh, market.hour(), market.weekday()
    days = [(market.start + timedelta(days=k)).date() for k in range(-(-len(price) // 24) + DAYS_BEYOND)]
    work = np.array([1 if day.weekday() < 5 else 0 for day in days])
    month = np.repeat([day.month for day in days], 24)[: len(price)]
    month_ends = np.append(month[1:] != month[:-1], True)
    ahead = look_ahead(market, "published", AHEAD).price_eur_per_kwh
    sites = []
    for seed in range(SITES):
        load = site_load(hours, weekday, seed)
        usual = usual_of_days(load, work)
        sites.append(Site(price=price, price_ahead=ahead, load=load, month_ends=month_ends, work=work, usual=usual))
    return sites


def peak_tariff(task: ValueTask, table: Table) -> None:
    """Rows of the test periods."""
    begun = time.process_time()
    sites = sites_of(task)
    train, rows = (task.split.train[0] + 2 * WEEK, task.split.train[1]), task.split.validate
    learning = time.process_time()
    chains = [count_chain(site.load, site.work, train) for site in sites]
    learning = time.process_time() - learning

    def all_sites(part: Rows, tables: Callable[[Site], FloatArray]) -> Run:
        return total(run(site, part, tables(site)) for site in sites)

    def best_of(part: Rows) -> Run:
        return all_sites(part, lambda site: foresight(*(x[slice(*part)] for x in (site.price, site.load, site.month_ends))))

    def mixed(part: Rows, how: ByHand, shares: tuple[float, ...]) -> list[Run]:
        """Of each share of what is learned; a table's mean over its points decides nothing and is left out."""
        runs = []
        for site, chain in zip(sites, chains, strict=True):
            base, said = mpc(site, part, how), learned(site, part, lambda _, chain=chain: chain)
            base, said = (one - one.mean(axis=(1, 2), keepdims=True) for one in (base, said))
            runs.append([run(site, part, share * said + (1 - share) * base) for share in shares])
        return [total(one) for one in zip(*runs, strict=True)]

    known: dict[ByHand, Run] = {}

    def of_hand(how: ByHand) -> Run:
        known[how] = known[how] if how in known else all_sites(rows, lambda site: mpc(site, rows, how))
        return known[how]

    how = by_hand(lambda one: of_hand(one).total_eur)
    best = best_of(rows)
    found = dict(zip(SHARES, mixed(rows, how, SHARES), strict=True))
    share = max(found, key=lambda key: found[key].total_eur)

    def difference(one: Run, other: Run, top: Run, part: Rows, blocks: int | IntArray) -> Difference:
        return compare(one, other, top.total_eur, sites[0].price[slice(*part)], blocks, level=GATE_LEVEL)

    def versus(one: Run, other: Run, top: Run, part: Rows) -> Difference:
        return difference(one, other, top, part, months(sites[0], part))

    gain = versus(found[share], of_hand(how), best, rows)
    by_week = difference(found[share], of_hand(how), best, rows, WEEK)
    gate = share if gain.low > 0 else 0.0
    plain = replace(ByHand(), left=how.left)
    validated = {"MPC": of_hand(plain), "MPC set by hand": of_hand(how), "learned alone": found[1.0]}
    said = ", ".join(f"{name} {100 * one.total_eur / best.total_eur:.2f} %" for name, one in validated.items())
    table.notes.append(
        f"peak tariff, {SITES} sites: {learning:.1f} CPU-s of learning; by hand, of {len(known)} tried: {how}; on validation "
        f"{said}, gain at share {share:g}: {gain} (by weeks {by_week}), so that the gate is {gate:g}"
    )
    progress(table.notes[-1])
    for part in task.split.test:
        top, hand = best_of(part), all_sites(part, lambda site, part=part: mpc(site, part, how))
        start = datetime.fromtimestamp(task.market.start.timestamp() + part[0] * 3600, tz=UTC)
        name = f"{task.market.name}, peak tariff, {SITES} sites, from {start:%Y-%m-%d}"
        table.add(name, "perfect foresight", "100.00", None, None, round(top.total_eur))
        by_site = list(zip(sites, chains, strict=True))
        for policy, made in (
            ("MPC", all_sites(part, lambda site, part=part: mpc(site, part, plain))),
            ("MPC set by hand", hand),
            (
                "chain of learned loads, MPC's horizon",
                total(run(s, part, learned(s, part, lambda _, c=c: c, whole_month=False)) for s, c in by_site),
            ),
            (
                f"chain of the last {UNTRAINED_DAYS} days, whole month",
                all_sites(part, lambda site, part=part: learned(site, part, lambda now, site=site: _recent(site, now))),
            ),
            (f"HYBRID (gate: {gate:g} of what is learned)", hand if gate == 0 else mixed(part, how, (gate,))[0]),
        ):
            against = None if made is hand else versus(made, hand, top, part)
            won = None if against is None else f"{against.weeks_won} / {against.weeks_lost}"
            percent = f"{100 * made.total_eur / top.total_eur:.2f}"
            table.add(name, policy, percent, against and str(against), won, round(made.total_eur))
            if policy.startswith("HYBRID"):
                table.notes.append(
                    f"{start:%Y}: HYBRID less MPC set by hand, by weeks: {difference(made, hand, top, part, WEEK)}"
                )
    table.notes.append(f"{time.process_time() - begun:.0f} CPU-s in all")


def _recent(site: Site, now: int) -> Chain:
    """Counted on the last weeks alone."""
    return count_chain(site.load, site.work, (now + 1 - 24 * UNTRAINED_DAYS, now + 1))
