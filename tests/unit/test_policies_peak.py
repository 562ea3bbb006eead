"""The peak tariff's benchmark: exact where all is known, blind to what is not, its chain counts what happened."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from benchmarks.policies_peak import AHEAD, WEEK, ByHand, Site, by_hand, learned, months, mpc, run
from benchmarks.policies_peak_load import EDGES_KW, STATES, count_chain, expected, site_load, usual_of_days
from benchmarks.policies_peak_plant import PEAKS, SOCS, chained, final, foresight

START = datetime(2021, 1, 4, tzinfo=UTC)
WEEKS = 12


def site(seed=0, weeks=WEEKS):
    g = np.random.default_rng(seed)
    hours = np.arange(weeks * WEEK)
    price = 0.1 + 0.06 * np.sin(2 * np.pi * (hours - 8) / 24) + g.normal(0, 0.01, len(hours))
    days = [START + timedelta(days=k) for k in range(weeks * 7 + 60)]
    work = np.array([int(day.weekday() < 5) for day in days])
    month = np.repeat([day.month for day in days], 24)
    load = site_load((hours % 24).astype(float), hours // 24 % 7, seed)
    return Site(
        price=price, price_ahead=price[np.minimum(hours[:, None] + 1 + np.arange(AHEAD), len(hours) - 1)], load=load,
        month_ends=np.append(month[1 : len(hours)] != month[: len(hours) - 1], True), work=work,
        usual=usual_of_days(load, work),
    )  # fmt: skip


def test_where_the_load_is_certain_the_chain_is_foresight():
    made = site()
    part = slice(0, 100)
    price, load, ends = made.price[part], made.load[part], made.month_ends[part]
    known = foresight(price, load, ends)
    moves = np.full((100, 3, 3), 1 / 3)
    last = np.repeat(final(0.0, 0.0)[None], 3, axis=0)
    found = chained(price, np.repeat(load[:, None], 3, axis=1), moves, ends, last, 1)
    for k in range(100):
        if not ends[k]:
            assert found[k + 1][1] == pytest.approx(known[k], abs=1e-6)


def test_no_policy_saves_more_than_perfect_foresight():
    made = site()
    rows = (WEEK * 8, WEEK * 11)
    part = slice(*rows)
    best = run(made, rows, foresight(made.price[part], made.load[part], made.month_ends[part])).total_eur
    chain = count_chain(made.load, made.work, (WEEK, WEEK * 8))
    for tables in (
        mpc(made, rows, ByHand()),
        mpc(made, rows, ByHand(target_kw=180.0, rent=0.1)),
        learned(made, rows, lambda _: chain),
        learned(made, rows, lambda _: chain, whole_month=False),
    ):
        assert tables.shape == (rows[1] - rows[0], SOCS, PEAKS)
        assert run(made, rows, tables).total_eur < best


def test_nothing_that_is_not_known_leaves_a_trace():
    made = site()
    now = WEEK * 9 + 24 * 2 + 15
    known_to = (now // 24 + 2) * 24
    g = np.random.default_rng(5)
    load, price = made.load.copy(), made.price.copy()
    load[now + 1 :] = g.uniform(20, 300, len(load) - now - 1)
    price[known_to:] = g.uniform(0, 1, len(price) - known_to)
    other = replace(made, load=load, price=price, usual=usual_of_days(load, made.work))
    rows = (WEEK * 9, now + 1)
    chain = count_chain(made.load, made.work, (WEEK, WEEK * 8))
    for whole_month in (True, False):
        mine, theirs = (learned(one, rows, lambda _: chain, whole_month=whole_month) for one in (made, other))
        assert np.array_equal(mine, theirs)
    ours, others = (expected(one.load, one.usual, one.work, rows, AHEAD, 0.5) for one in (made, other))
    assert np.array_equal(ours, others)


def test_a_chain_counts_what_happened():
    made = site(weeks=60)
    rows = (WEEK, WEEK * 60)
    chain = count_chain(made.load, made.work, rows)
    assert chain.moves.shape == (2, 24, STATES, STATES)
    assert chain.moves.sum(axis=-1) == pytest.approx(1.0)
    now = np.arange(*rows)
    kind, hour = made.work[now // 24], now % 24
    state = chain.state(made.load[now], kind, hour)
    mean = made.load[now].mean()
    assert (chain.usual_kw[kind, hour] + chain.above_kw[kind, hour, state]).mean() == pytest.approx(mean, rel=0.01)
    high = int(np.searchsorted(EDGES_KW, 70.0))
    came = (state[1:] >= high)[(state[:-1] < high) & (kind[1:] == 1) & (hour[1:] == 12)].mean()
    said = chain.moves[1, 12, :high, high:].sum(axis=-1) @ np.bincount(state, minlength=STATES)[:high]
    assert said / np.bincount(state, minlength=STATES)[:high].sum() == pytest.approx(came, abs=0.015)


def test_months_lie_where_peaks_are_billed():
    made = site()
    rows = (0, len(made.price))
    edges = months(made, rows)
    assert (edges[0], edges[-1]) == (0, len(made.price))
    assert all((START + timedelta(hours=int(edge))).day == 1 for edge in edges[1:-1])


def test_settings_by_hand_are_found_one_after_another():
    wanted = ByHand(left=0.7, target_kw=200.0, rent=0.1, margin_kw=0.0)
    assert by_hand(lambda how: -abs(how.left - 0.7) - abs(how.target_kw - 200.0) - abs(how.rent - 0.1) - how.margin_kw) == wanted
