"""Compare two years of weather: NOAA's Global Summary of the Day, one actor for each year.

    python examples/gsod.py 1929.tar.gz 1930.tar.gz

The archives are those of https://www.ncei.noaa.gov/data/global-summary-of-the-day/archive/ : one quoted CSV file for
each station inside a tar.gz, temperatures in Fahrenheit, 9999.9 where nothing was measured. Without arguments a small
sample of the same format is made. Both years are read at the same time: a class with `def` methods only is an actor in
a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import random
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import actorfw

MISSING = 9999.9
# The first line of a station's file, as NOAA writes it.
HEADER = (
    '"STATION","DATE","LATITUDE","LONGITUDE","ELEVATION","NAME","TEMP","TEMP_ATTRIBUTES","DEWP","DEWP_ATTRIBUTES",'
    '"SLP","SLP_ATTRIBUTES","STP","STP_ATTRIBUTES","VISIB","VISIB_ATTRIBUTES","WDSP","WDSP_ATTRIBUTES","MXSPD","GUST",'
    '"MAX","MAX_ATTRIBUTES","MIN","MIN_ATTRIBUTES","PRCP","PRCP_ATTRIBUTES","SNDP","FRSHTT"'
)


def celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) / 1.8


@dataclass(frozen=True)
class Extreme:
    """The highest or lowest reading of a year."""

    celsius: float
    station: str
    day: str


@dataclass(frozen=True)
class Summary:
    """What one year's actor tells about its archive."""

    stations: int
    days: int
    mean_celsius: float
    hottest: Extreme
    coldest: Extreme


class Year(actorfw.Actor):
    """One archive, read once, then asked as often as one likes. All methods are `def`: it has its own process."""

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.means: dict[str, dict[str, float]] = {}  # station -> "MM-DD" -> mean temperature of the day
        self.hottest = Extreme(-math.inf, "", "")
        self.coldest = Extreme(math.inf, "", "")

    @actorfw.method
    def load(self) -> Summary:
        """Read the archive."""
        for row in read_archive(Path(self.archive)):
            day, name = row["DATE"], row["NAME"]
            mean, high, low = float(row["TEMP"]), float(row["MAX"]), float(row["MIN"])
            if mean != MISSING:
                self.means.setdefault(row["STATION"], {})[day[5:]] = celsius(mean)
            if high != MISSING and celsius(high) > self.hottest.celsius:
                self.hottest = Extreme(celsius(high), name, day)
            if low != MISSING and celsius(low) < self.coldest.celsius:
                self.coldest = Extreme(celsius(low), name, day)
        readings = [mean for days in self.means.values() for mean in days.values()]
        if not readings:
            raise ValueError(f"{self.archive} holds no temperatures")
        return Summary(len(self.means), len(readings), math.fsum(readings) / len(readings), self.hottest, self.coldest)

    @actorfw.method
    def daily_means(self) -> dict[str, dict[str, float]]:
        """Per station and day of the year, for comparing with another year."""
        return self.means

    @actorfw.method
    def warming_since(self, earlier: Year) -> tuple[int, float]:
        """Days that both years have at the same station, and how much warmer they were on average in this one."""
        before = actorfw.get(earlier.daily_means.remote())
        differences = [
            mean - before[station][day]
            for station, days in self.means.items()
            for day, mean in days.items()
            if day in before.get(station, {})
        ]
        return len(differences), math.fsum(differences) / len(differences) if differences else math.nan


def read_archive(path: Path) -> Iterator[dict[str, str]]:
    """The rows of all stations of one year."""
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(".csv") else None
            if file is not None:
                with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
                    yield from csv.DictReader(text)


def write_sample(path: Path, year: int, stations: int, days: int, warmer: float) -> None:
    """An archive in NOAA's format with made-up weather, the same at each call with the same arguments."""
    with tarfile.open(path, "w:gz") as archive:
        for number in range(stations):
            station = f"{1001099999 + number * 1000:011d}"
            dice = random.Random(number)
            text = io.StringIO()
            rows = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
            columns = next(csv.reader([HEADER]))
            rows.writerow(columns)
            for offset in range(days):
                day = date(year, 1, 1) + timedelta(days=offset)
                season = -math.cos(2 * math.pi * offset / 365)
                # The same dice for every year: what differs is `warmer` alone.
                mean = 50 + 20 * season + dice.uniform(-5, 5) + number + 1.8 * warmer
                known = offset % 10 != 9
                values = dict.fromkeys(columns, "999.9") | {
                    "STATION": station,
                    "DATE": day.isoformat(),
                    "LATITUDE": f"{60 + number / 10:.4f}",
                    "LONGITUDE": "10.0000",
                    "ELEVATION": "12.0",
                    "NAME": f'SAMPLE STATION "{number}", NO',
                    "TEMP": f"{mean:6.1f}" if known else str(MISSING),
                    "MAX": f"{mean + 9:6.1f}" if known else str(MISSING),
                    "MIN": f"{mean - 9:6.1f}" if known else str(MISSING),
                    "FRSHTT": "000000",
                }
                rows.writerow([values[name] for name in columns])
            data = text.getvalue().encode()
            member = tarfile.TarInfo(f"{station}.csv")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def compare(first: str, second: str) -> list[str]:
    """Read both archives side by side and put what they tell into words. Needs a node."""
    earlier, later = Year.remote(first), Year.remote(second)
    lines: list[str] = []
    for name, summary in zip((first, second), actorfw.get([earlier.load.remote(), later.load.remote()]), strict=True):
        lines.append(
            f"{Path(name).name}: {summary.stations} stations, {summary.days} days, mean {summary.mean_celsius:.1f} C, "
            f"hottest {summary.hottest.celsius:.1f} C at {summary.hottest.station} on {summary.hottest.day}, "
            f"coldest {summary.coldest.celsius:.1f} C at {summary.coldest.station} on {summary.coldest.day}"
        )
    days, difference = actorfw.get(later.warming_since.remote(earlier))
    lines.append(f"{days} days in both years at the same station: {difference:+.2f} C")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="*", metavar="YEAR.tar.gz", help="two archives; none: a sample is made")
    parser.add_argument("--stations", type=int, default=20, help="of the sample")
    parser.add_argument("--days", type=int, default=365, help="of the sample")
    options = parser.parse_args(argv)
    if len(options.archives) not in (0, 2):
        parser.error("give two archives, or none")
    with tempfile.TemporaryDirectory() as folder, actorfw.init():
        first, second = options.archives or (str(Path(folder, "2001.tar.gz")), str(Path(folder, "2021.tar.gz")))
        if not options.archives:
            write_sample(Path(first), 2001, options.stations, options.days, warmer=0.0)
            write_sample(Path(second), 2021, options.stations, options.days, warmer=1.5)
        for line in compare(first, second):
            print(line)


if __name__ == "__main__":
    main()
