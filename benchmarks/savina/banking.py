"""Banking: a teller has money moved between 1,000 accounts; the one that pays awaits that the other has got it.

Who pays has the lower number, as in the original: accounts that wait for each other would wait for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import actorfw
from benchmarks.savina.checks import check
from benchmarks.savina.plain import PlainActor, ask, stop

__all__ = ["ours", "plain"]

_ACCOUNTS = 1_000
_AT_FIRST = 1_000_000
_SEED = 42


def _transfers(count: int) -> Iterator[tuple[int, int, int]]:
    """Who pays, whom, how much."""
    dice = random.Random(_SEED)
    for _ in range(count):
        payer = dice.randrange(_ACCOUNTS * 8 // 10)
        yield payer, dice.randrange(payer + 1, _ACCOUNTS), dice.randrange(1, 1_000)


def _expected(count: int) -> list[int]:
    balances = [_AT_FIRST] * _ACCOUNTS
    for payer, payee, amount in _transfers(count):
        balances[payer] -= amount
        balances[payee] += amount
    return balances


class Account(actorfw.Actor):
    def __init__(self) -> None:
        self.money = _AT_FIRST

    @actorfw.method
    async def pay(self, payee: Account, amount: int) -> None:
        self.money -= amount
        await payee.credit(amount)

    @actorfw.method
    async def credit(self, amount: int) -> None:
        self.money += amount

    @actorfw.method
    async def balance(self) -> int:
        return self.money


async def ours(count: int) -> None:
    accounts = [Account.remote() for _ in range(_ACCOUNTS)]
    await asyncio.gather(
        *[accounts[payer].pay.remote(accounts[payee], amount) for payer, payee, amount in _transfers(count)]
    )
    balances = await asyncio.gather(*[account.balance.remote() for account in accounts])
    check("balances", balances, _expected(count))


class PlainAccount(PlainActor):
    def __init__(self) -> None:
        super().__init__()
        self.money = _AT_FIRST

    async def pay(self, payee: PlainAccount, amount: int) -> None:
        self.money -= amount
        await ask(payee.credit, amount)

    async def credit(self, amount: int) -> None:
        self.money += amount

    async def balance(self) -> int:
        return self.money


async def plain(count: int) -> None:
    accounts = [PlainAccount() for _ in range(_ACCOUNTS)]
    await asyncio.gather(
        *[ask(accounts[payer].pay, accounts[payee], amount) for payer, payee, amount in _transfers(count)]
    )
    balances = await asyncio.gather(*[ask(account.balance) for account in accounts])
    check("balances", balances, _expected(count))
    await stop(*accounts)
