"""Takes the pictures of docs/: the real dashboard, driven by keys, beside a real daemon with real sessions.

    .venv/bin/python docs/images/make.py

Everything lives in a temporary home. The service screen is taken inside a throw-away `systemd --user`, as root on
Linux (see CONTRIBUTING.md); elsewhere its picture stays as it is, and that is said.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

import units  # noqa: E402 - found by the path above
import usermanager  # noqa: E402
from dashboard import Driver, driven  # noqa: E402
from isolation import FOREIGN, Place  # noqa: E402
from life import Life  # noqa: E402
from photograph import photograph  # noqa: E402
from remote_dashboard import RemoteDashboard  # noqa: E402

SIZE = (120, 34)

PLOT = """\
import matplotlib.pyplot as plt, numpy as np
x = np.linspace(0, 12, 400)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(x, np.exp(-x / 5) * np.cos(3 * x), lw=3); ax.fill_between(x, np.exp(-x / 5), -np.exp(-x / 5), alpha=.2)
fig"""

TRAINING = """\
import time
for epoch in range(1, 1000):
    print(f'epoch {epoch:3}  \\x1b[32mloss {0.9 / epoch ** .5:.4f}\\x1b[0m')
    time.sleep(.02 if epoch < 40 else 3600)"""


def main() -> int:
    place = Place()
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(place.variables)
    life = Life(place)
    life.start()
    try:
        people_work(life)
        asyncio.run(take(life))
    finally:
        life.end()
        place.clear()
    if why := usermanager.missing():
        print(f"service.svg is as it was: {why}", file=sys.stderr)
    else:
        take_service()
    return 0


def people_work(life: Life) -> None:
    """What a person and his agents might have left by noon."""
    own = {"python": sys.executable}
    life.run("analysis", "import pandas as pd; df = pd.DataFrame({'loss': [.9, .64, .52, .45]})",
             create={**own, "labels": {"team": "blue"}})  # fmt: skip
    life.run("analysis", "df.describe().round(2)")
    life.run("agent-1", "answer = 42", create={"labels": {"by": "agent"}})
    life.run("agent-2", "import json, urllib.request", create={"labels": {"by": "agent"}})
    life.execute("etl", "rows = open('/data/2024.csv').read()")
    life.run("scratch", "[n * n for n in range(12)]")
    life.begin("wizard", "name = input('Whose report is it? ')")
    life.run("fuzz", "import sys")
    life.post("/api/sessions/fuzz/kill", {})
    life.run("model", "weights = [0.1, 0.2]", create=own)
    life.post("/api/sessions/model/snapshots", {"name": "untrained"})
    life.run("model", "weights = [w * 30 for w in weights]")
    life.post("/api/sessions/model/restore", {"snapshot": "untrained"})
    life.run("model", "weights = [w * 3 for w in weights]")
    life.post("/api/sessions/model/fork", {"name": "trial"})
    life.run("model", "sum(weights)")
    life.begin("train", TRAINING)


async def save(driver: Driver, name: str) -> None:
    driver.app.clear_notifications()
    await driver.pilot.pause()
    (HERE / f"{name}.svg").write_text(photograph(driver.app))
    print(f"{name}.svg")


async def take(life: Life) -> None:
    async with driven(size=SIZE) as driver:
        await driver.is_live()
        await driver.selects("train")
        await driver.sees("epoch  39")
        await driver.until(
            lambda: (found := driver.app.model.by_name("train")) and found.memory_bytes, "it is measured"
        )
        await driver.until(
            lambda: any(sample.cpu is not None for sample in driver.app.model.totals.samples), "all are measured"
        )
        await driver.press("o", "o", "o")
        await driver.until(lambda: driver.main.table.sort_key != "name", "it is sorted")
        await driver.sees("  cpu ")
        await save(driver, "dashboard")

        life.run("analysis", PLOT)
        await driver.selects("analysis")
        await driver.press("enter")
        await driver.until(lambda: driver.shown().count("▀▀▀") > 12, "the plot is drawn")
        await save(driver, "session")

        await driver.press("escape", "escape")  # out of the box, then back to the list
        await driver.until(lambda: driver.app.screen is driver.main, "the list is back")
        await driver.selects("model")
        await driver.press("5", "z")
        await driver.sees("forked into trial")
        await save(driver, "timeline")

        await driver.press("1", "z", "escape")
        await driver.selects("agent-1")
        await driver.press("K")
        await driver.sees("Kill agent-1?")
        await save(driver, "confirm")
        await driver.press("right", "enter")
        await driver.until(lambda: driver.app.command_log, "it is killed")

        life.post("/api/sessions/analysis/snapshots", {"name": "clean"})
        life.post("/api/sessions/model/restore", {"snapshot": "untrained"})
        await driver.press("E")
        await driver.sees("omegactl kill agent-1")
        await driver.sees("goes on from snapshot untrained")
        await save(driver, "events")


def take_service() -> None:
    """The screen with the units as they are installed, and a daemon that has been restarted from it."""
    with usermanager.installed_for(usermanager.USER, CHECKOUT) as venv:
        manager = usermanager.UserManager(path=f"{venv}/bin:/usr/local/bin:/usr/bin:/bin")
        try:
            units.start(manager, f"{venv}/bin/python")
            manager.systemctl("enable", "--now", "omega-sessiond.socket")
            manager.run("omegactl", "exec", "work", "-c", "x = 1")
            with RemoteDashboard(manager, venv, SIZE) as dashboard:
                dashboard.press("S")
                dashboard.stands("active")
                dashboard.press("r")
                dashboard.sees("Restart the daemon?")
                dashboard.press("right", "enter")
                dashboard.sees("Restarted; sessions go on.")
                dashboard.stands("active")
                dashboard.feed_is("live")
                dashboard.sees("  mem ", "ready, rehearsed")
                (HERE / "service.svg").write_text(dashboard.photograph())
                print("service.svg")
        finally:
            manager.stop()


if __name__ == "__main__":
    sys.exit(main())
